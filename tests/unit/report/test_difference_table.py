import csv
import io

from rich.console import Console

from i0t.evaluation.results import Difference
from i0t.report.difference_table import DifferenceTable, format_difference

FOUND = [
    Difference("gap/rmg", "posthoc", "none", -0.2, -0.25, -0.15, 0.002),
    Difference("retrieval/i2t_r1", "posthoc", "none", 0.01, -0.005, 0.03, 0.2),
    Difference("retrieval/i2t_medr", "posthoc", "none", 0.0, 0.0, 0.0, 1.0),
    Difference("gap/rmg", "async_bn", "none", 0.1, 0.05, 0.15, 0.049),
]


def test_cells_have_sign_mark_and_interval() -> None:
    table = DifferenceTable(FOUND)
    assert table.headers() == ["gap reducer", "RMG", "I→T R@1", "compared with"]
    assert table.cells() == [
        ["posthoc", "-0.2000* [-0.2500, -0.1500]", "+0.010 [-0.005, 0.030]", "none"],
        ["async_bn", "+0.1000* [0.0500, 0.1500]", "\N{EN DASH}", "none"],
    ]
    assert format_difference(FOUND[2]) == "+0.000 [0.000, 0.000]"


def test_csv_has_every_difference_in_full() -> None:
    parsed = list(csv.DictReader(io.StringIO(DifferenceTable(FOUND).to_csv())))
    assert [row["metric"] for row in parsed] == [d.metric for d in FOUND]
    assert parsed[0] == {
        "metric": "gap/rmg",
        "row": "posthoc",
        "baseline": "none",
        "value": "-0.2",
        "low": "-0.25",
        "high": "-0.15",
        "p_value": "0.002",
    }


def test_markdown_latex_and_terminal_show_the_same_cells() -> None:
    table = DifferenceTable(FOUND)
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(table.to_rich(120))
    for text in (table.to_markdown(), table.to_latex().replace("async\\_bn", "async_bn"), console.file.getvalue()):
        assert "-0.2000* [-0.2500, -0.1500]" in text
        assert "async_bn" in text
        assert "medr" not in text


def test_without_differences_the_table_is_empty() -> None:
    assert DifferenceTable([]).to_markdown().splitlines() == ["| gap reducer | compared with |", "| :-- | :-- |"]
