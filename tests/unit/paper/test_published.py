"""Every number of the paper's tables stands in the data, once, and the data name things that exist."""

import importlib
import math
from pathlib import Path

import pytest
import torch
import yaml

from i0t.paper.matching import PUBLISHED_SUFFIX
from i0t.paper.published import TABLE_NUMBERS, load_table

ROOT = Path(__file__).resolve().parents[3]
ALL = "CD LS I2T T2I CIFAR Bird Expert CF"
# The tables once more, in the paper's own shape.
PAPER = {
    1: f"""{ALL}
        Long-CLIP|.9904 .9998 71.9 75.0 65.03 5.43 53.21 34.86
        LCO|.9965 .9997 72.5 75.9 64.46 5.81 51.42 35.17
        LCCO|1.0070 .9999 74.9 76.1 64.75 4.90 54.57 35.43
        LCCOM|.9682 .9998 73.7 74.6 64.17 4.93 54.55 35.72
        +LN|1.0068 .9999 74.7 76.2
        +LN*|.9696 .9998 73.6 74.1
        +BN|.5285 .9983 71.6 70.1""",
    2: f"""{ALL}
        CLIP|.7642 .9985 69.6 67.1 65.05 5.94 51.00 34.30
        MG 0.375|.0291 .5632 45.4 54.4 43.26 1.67 42.84 29.26
        MG 0.5|.2493 .9858 38.1 46.5 44.13 1.37 39.70 27.25
        MG -0.5|1.3799 .9998 45.2 54.4 9.52 5.35 nan nan
        CLOOB*|.4832 .9899 69.6 72.6 60.40 4.91 50.06 31.71
        Unif-Align*|.4636 .9921 51.2 46.0 50.32 3.83 42.47 29.31
        PAC-S|.7583 .9990 72.6 71.6 58.61 3.74 54.00 36.10
        I0T_async|.4795 .9960 72.5 73.8 62.97 5.21 53.33 33.08
        I0T_post|.0102 .5374 73.3 76.3 63.07 4.76 53.97 33.58""",
    3: """CD I2T T2I
        32|.1880 70.3 73.0
        64|.1387 71.5 73.3
        128|.0986 71.9 73.9
        256|.0710 72.3 73.7
        512|.0542 72.0 74.0
        1k|.0102 73.3 76.3""",
    5: """I2T T2I
        CLIP|78.5 58.7
        I0T_async|80.6 63.3
        I0T_post|80.0 65.6""",
    7: """I2T T2I ImageNet
        CLIP|33.56 29.54 63.30
        MG 0.5|14.28 18.08 5.83
        I0T_async|34.54 32.12 57.98
        I0T_post|34.88 34.74 54.34""",
    8: """CD LS I2T T2I
        BN*|.442 .999 70.9 72.3""",
    9: """CD LS I2T T2I
        CLIP|.7647 -1.85 71.3 67.2
        CLIP_post|.0097 -1.41 68.0 70.3""",
}


@pytest.mark.parametrize("number", PAPER)
def test_every_published_number_is_there_in_the_papers_order(number):
    table = load_table(number)
    header, *lines = (line.strip() for line in PAPER[number].splitlines())
    assert [column.header for column in table.columns] == header.split()
    assert [row.name for row in table.rows] == [line.split("|")[0] for line in lines]
    for row, line in zip(table.rows, lines, strict=True):
        texts = line.split("|")[1].split()
        assert list(row.published) == header.split()[: len(texts)]
        for column, text in zip(table.columns, texts, strict=False):
            found = row.published[column.header]
            assert found == float(text) or (math.isnan(found) and text == "nan"), (row.name, column.header)
            if text != "nan":  # printed as in the paper: same decimals
                assert column.decimals == len(text.partition(".")[2]), (number, column.header)


def test_the_numbers_of_table_4_are_not_known_and_not_made_up():
    table = load_table(4)
    assert all(row.published is None for row in table.rows)
    assert "not known" in " ".join(table.notes)
    assert [row.model.seeds for row in table.rows] == [(7,), (42,), (71,), (7, 42, 71)] * 2
    assert {row.model.trained_as for row in table.rows} == {"i0t_async", "i0t_stage1"}


@pytest.mark.parametrize("number", TABLE_NUMBERS)
def test_no_two_rows_of_a_table_are_filled_by_the_same_run(number):
    filled_by = [repr((row.model, row.reducer)) for row in load_table(number).rows]
    assert len(set(filled_by)) == len(filled_by)


def test_a_file_for_every_table_and_no_other():
    folder = ROOT / "src" / "i0t" / "paper" / "tables"
    names = {f"table_{number}.yaml" for number in TABLE_NUMBERS} | {"measures.yaml"}
    assert {path.name for path in folder.iterdir()} == names
    assert TABLE_NUMBERS == (1, 2, 3, 4, 5, 7, 8, 9)


def test_numbers_that_are_known_to_be_off_say_so():
    rows = {row.name: row for row in load_table(2).rows}
    assert all("Birdsnap column is off" in " ".join(row.notes["Bird"]) for row in rows.values())
    assert all("not an accuracy" in " ".join(row.notes["LS"]) for row in rows.values())
    for name in ("MG 0.375", "MG 0.5", "MG -0.5"):
        assert "shifts the text classifier again" in " ".join(rows[name].notes["CIFAR"])
    assert not rows["CLIP"].notes["I2T"]
    assert "async" in load_table(3).notes[0]
    assert any("#Par" in note for note in load_table(1).notes)


def test_runs_and_components_that_the_tables_name_exist():
    if not (ROOT / "conf").is_dir():
        pytest.skip("not a checkout")
    for number in TABLE_NUMBERS:
        table = load_table(number)
        for column in table.columns:
            assert (ROOT / "conf" / "data" / f"{column.measure.data}.yaml").is_file(), column
        for row in table.rows:
            assert (ROOT / "conf" / "gap_reducer" / f"{row.reducer.kind}.yaml").is_file(), row
            name = row.model.trained_as
            if name is not None:
                assert not name.endswith(PUBLISHED_SUFFIX)
                assert f"name: {name}\n" in (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text()


def test_numbers_that_the_columns_name_are_measured():
    """The names in ``measures.yaml`` are those the evaluations give, and ``settings`` those the reducers have."""
    if not (ROOT / "conf").is_dir():
        pytest.skip("not a checkout")
    from i0t.evaluation.compare import evaluate_row, plain_settings
    from i0t.gap_reducers.async_bn import AsyncBatchNorm
    from i0t.gap_reducers.layer_norm import LayerNorm
    from i0t.gap_reducers.mean_shift import MeanShift
    from i0t.gap_reducers.none import NoReducer
    from i0t.gap_reducers.posthoc import Posthoc

    evaluations = {}
    for name in ("gap", "retrieval", "zeroshot", "caption_correlation"):
        node = yaml.safe_load((ROOT / "conf" / "evaluation" / f"{name}.yaml").read_text())[name]
        module, _, kind = node.pop("_target_").rpartition(".")
        evaluations[name] = getattr(importlib.import_module(module), kind)(**node | {"num_resamples": 2})
    metrics = evaluate_row("none", NoReducer(8), _small_set(), evaluations, split="test").metrics
    for number in TABLE_NUMBERS:
        for column in load_table(number).columns:
            for source in column.measure.sources:
                assert source.metric in metrics, source.metric
        for row in load_table(number).rows:
            fit = {"fit_split": "test"}
            reducers = {
                "none": lambda: NoReducer(8),
                "posthoc": lambda: Posthoc(8, **fit),  # noqa: B023
                "mean_shift": lambda: MeanShift(8, direction="unit", **fit),  # noqa: B023
                "async_bn": lambda: AsyncBatchNorm(8, loss=torch.nn.Identity(), **fit),  # noqa: B023
                "layer_norm": lambda: LayerNorm(8),
            }
            settings = plain_settings(reducers[row.reducer.kind]())
            assert set(row.reducer.settings) <= set(settings), row


def _small_set():
    from i0t.embeddings import EmbeddingSet, PromptTable
    from i0t.judgements import Judgements

    draw = torch.Generator().manual_seed(0)
    images, texts = 20, 40
    features = torch.randn(6, 2, 8, generator=draw)
    table = PromptTable(
        features=features,
        mask=torch.ones(6, 2, dtype=torch.bool),
        class_names=tuple("abcdef"),
        aggregate="mean",
        description="two prompts",
    )
    index = torch.arange(texts) // 2
    candidates = torch.stack([torch.arange(images), torch.arange(images).flip(0) * 2], dim=1)
    return EmbeddingSet(
        image_features=torch.randn(images, 8, generator=draw),
        text_features=torch.randn(texts, 8, generator=draw),
        pairs=torch.stack([index, torch.arange(texts)], dim=1),
        labels={"class": torch.arange(images) % 6},
        class_names={"class": tuple("abcdef")},
        prompts={"class": table},
        judgements=Judgements.of(candidates, ratings=torch.randint(1, 5, (images, 3), generator=draw).double()),
    )
