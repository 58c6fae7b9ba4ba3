import csv
import dataclasses
import io

import pytest
import torch
from rich.console import Console

from i0t.evaluation.results import RowResult
from i0t.report.table import ResultTable, default_columns, default_headers, describe_protocol, format_number
from i0t.report.table_formats import latex_table

FACTORS = ("thickness", "swelling", "fracture", "scale", "color", "digit")


def make_row(
    name: str, *, protocol: str = "none", fit_split: str | None = None, fit_samples: int = 0, **metrics: float
):
    return RowResult(
        name=name,
        reducer="i0t.gap_reducers.posthoc.PostHoc",
        fit_split=fit_split,
        fit_samples=fit_samples,
        protocol=protocol,
        metrics={key.replace("__", "/"): value for key, value in metrics.items()},
        intervals={},
        image_features=torch.eye(2),
        text_features=torch.eye(2),
    )


@pytest.fixture
def rows() -> list[RowResult]:
    mad = {f"zeroshot__{factor}": 0.1 * number for number, factor in enumerate(FACTORS, start=1)}
    return [
        make_row("none", object_bias__image=0.1234, retrieval__i2t_r1=0.69612, gap__centroid_distance=0.76421, **mad),
        make_row(
            "posthoc",
            protocol="inductive",
            fit_split="train",
            fit_samples=30192,
            gap__centroid_distance=0.0302,
            gap__rmg=0.25,
            gap__linear_separability=0.5374,
            retrieval__i2t_r1=0.733,
            retrieval__t2i_r1=0.763,
            object_bias__text=-0.05,
            gap__something_else=7.0,
            **mad,
        ),
    ]


def test_default_columns_are_the_headline_ones_present_in_reading_order(rows: list[RowResult]) -> None:
    assert list(default_columns(rows)) == [
        "gap/centroid_distance",
        "gap/linear_separability",
        "gap/rmg",
        "retrieval/i2t_r1",
        "retrieval/t2i_r1",
        *(f"zeroshot/{factor}" for factor in FACTORS),
        "object_bias/image",
        "object_bias/text",
    ]
    assert list(default_columns([make_row("x", gap__rmg=0.1)])) == ["gap/rmg"]


def test_cells_hold_the_numbers_and_a_dash_where_there_is_none(rows: list[RowResult]) -> None:
    table = ResultTable(rows, {"gap/centroid_distance": "CD", "gap/rmg": "RMG", "retrieval/i2t_r1": "R"})
    assert table.headers() == ["gap reducer", "CD", "RMG", "R", "fitted on"]
    assert table.cells() == [
        ["none", "0.7642", "\N{EN DASH}", "0.696", "\N{EN DASH} (nothing fitted)"],
        ["posthoc", "0.0302", "0.2500", "0.733", "inductive: train, 30,192 images"],
    ]


def test_markdown_is_exact_and_escapes_pipes() -> None:
    row = make_row("a|b", protocol="transductive", fit_split="test", fit_samples=1000, gap__rmg=0.5)
    assert ResultTable([row]).to_markdown() == (
        "| gap reducer | RMG | fitted on |\n| :-- | --: | :-- |\n| a\\|b | 0.5000 | transductive: test, 1,000 images |"
    )


def test_csv_has_metric_keys_full_precision_and_quotes_names(rows: list[RowResult]) -> None:
    rows.append(make_row('odd, "name"', gap__rmg=1 / 3))
    parsed = list(csv.DictReader(io.StringIO(ResultTable(rows).to_csv())))
    assert parsed[0]["gap/centroid_distance"] == "0.76421"
    assert parsed[0]["gap/rmg"] == ""
    assert parsed[1]["protocol"] == "inductive"
    assert parsed[1]["fit_samples"] == "30192"
    assert parsed[2]["row"] == 'odd, "name"'
    assert float(parsed[2]["gap/rmg"]) == 1 / 3


def rendered(table: ResultTable, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(table.to_rich(width))
    return console.file.getvalue().splitlines()


def test_mad_fits_160_columns_with_one_reducer_per_row(rows: list[RowResult]) -> None:
    lines = rendered(ResultTable(rows), 160)
    assert max(map(len, lines)) <= 160
    (posthoc,) = [line for line in lines if line.strip().startswith("posthoc")]
    numbers = ["0.0302", "0.5374", "0.2500", "0.733", "0.763", "0.100", "0.200", "0.300", "0.400", "0.500", "0.600"]
    assert posthoc.split()[1:14] == [*numbers, "\N{EN DASH}", "-0.050"]
    assert "…" not in "".join(lines)


def test_a_narrow_terminal_gets_one_metric_per_row_and_whole_numbers(rows: list[RowResult]) -> None:
    lines = rendered(ResultTable(rows), 100)
    assert max(map(len, lines)) <= 100
    cells = [line.split() for line in lines]
    assert ["CD", "0.7642", "0.0302"] in cells
    assert ["0-shot", "swelling", "0.200", "0.200"] in cells
    assert ["MOAD", "text", "\N{EN DASH}", "-0.050"] in cells
    assert "…" not in "".join(lines)
    assert any("inductive: train, 30,192 images" in line for line in lines)


def test_names_with_rich_markup_are_shown_as_they_are() -> None:
    assert any(
        "[bold]x[/bold]" in line for line in rendered(ResultTable([make_row("[bold]x[/bold]", gap__rmg=1.0)]), 80)
    )


def test_no_rows_make_an_empty_table() -> None:
    assert ResultTable([]).to_markdown().splitlines() == ["| gap reducer | fitted on |", "| :-- | :-- |"]


def test_legend_names_families_once(rows: list[RowResult]) -> None:
    assert list(ResultTable(rows).legend()) == ["CD", "LS", "RMG", "I→T R@1", "T→I R@1", "0-shot", "MOAD"]


def test_formats() -> None:
    assert format_number("gap/rmg", None) == "\N{EN DASH}"
    assert format_number("gap/rmg", float("nan")) == "nan"
    assert format_number("zeroshot/digit", 0.98765) == "0.988"
    assert describe_protocol(make_row("x", protocol="transductive", fit_split="test", fit_samples=8616)) == (
        "transductive: test, 8,616 images"
    )
    elsewhere = make_row("x", protocol="inductive", fit_split="train", fit_samples=512)
    assert describe_protocol(dataclasses.replace(elsewhere, fit_data="coco")) == "inductive: coco train, 512 images"


def test_latex_is_exact_and_escaped() -> None:
    row = make_row("a_b & 50 %", protocol="inductive", fit_split="train", fit_samples=9, retrieval__i2t_r1=0.5)
    assert ResultTable([make_row("none"), row]).to_latex().splitlines() == [
        r"% \usepackage{booktabs}",
        r"\begin{tabular}{lrl}",
        r"\toprule",
        r"gap reducer & I$\rightarrow$T R@1 & fitted on \\",
        r"\midrule",
        r"none & -- & -- (nothing fitted) \\",
        r"a\_b \& 50 \% & 0.500 & inductive: train, 9 images \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_every_special_character_of_latex_is_escaped() -> None:
    table = latex_table(["r", "x", "y"], [["\\", "#$~^{}", "<->\n"]])
    assert r"\textbackslash{} & \#\$\textasciitilde{}\textasciicircum{}\{\} & \textless{}-\textgreater{}  \\" in table


def test_intervals_stand_behind_their_numbers() -> None:
    row = dataclasses.replace(
        make_row("none", gap__rmg=0.5, retrieval__i2t_r1=0.25), intervals={"gap/rmg": (0.4, 0.61234)}
    )
    table = ResultTable([row], with_intervals=True)
    assert table.cells()[0][1:3] == ["0.5000 [0.4000, 0.6123]", "0.250"]
    (parsed,) = csv.DictReader(io.StringIO(table.to_csv()))
    assert (parsed["gap/rmg"], parsed["gap/rmg_low"], parsed["gap/rmg_high"]) == ("0.5", "0.4", "0.61234")
    assert (parsed["retrieval/i2t_r1"], parsed["retrieval/i2t_r1_low"]) == ("0.25", "")


def test_single_caption_columns_stand_beside_those_of_all_captions() -> None:
    row = make_row("x", retrieval__i2t_r1=0.5, retrieval_1_caption__i2t_r1=0.4, retrieval_1_caption__i2t_r5=0.6)
    assert list(default_columns([row])) == ["retrieval/i2t_r1", "retrieval_1_caption/i2t_r1"]


def test_caption_scores_have_columns_with_meanings_and_counts_no_decimals() -> None:
    headers = default_headers(["caption_correlation/tau_b", "object_bias/image", "caption_correlation/tau_c"])
    assert list(headers.values()) == ["τ_c", "τ_b", "MOAD image"]
    table = ResultTable([make_row("none", caption_correlation__tau_c=0.512)])
    assert "Kendall's tau-c" in table.legend()["τ_c"]
    assert r"$\tau$\_c" in table.to_latex()
    assert format_number("mean_activations/num_image_peaks", 3.0) == "3"
    assert format_number("caption_correlation/tau_c", 0.5125) == "0.512"
