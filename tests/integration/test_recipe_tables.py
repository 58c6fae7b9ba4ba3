"""The numbers of finished runs stand in the paper's tables, and nothing else does."""

import csv
import io

import numpy as np
import pytest

from i0t import runs


def table_lines(recipe, cwd, *arguments):
    """What ``i0t-tables`` prints, as CSV: (row, column) to its line."""
    done = recipe.shell("i0t.paper", "--format", "csv", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return {(line["row"], line["column"]): line for line in csv.DictReader(io.StringIO(done.stdout))}


def measure_for_the_tables(recipe, checkpoint, folder):
    """``eval.py`` on Flickr30k with the paper's one caption an image."""
    return recipe.evaluate(
        folder,
        f"ckpt_path={checkpoint}",
        "data=flickr30k",
        f"data.root={recipe.folder / 'data' / 'flickr30k'}",
        "data.captions_per_image=1",
        "data.num_workers=0",
        "compare=i0t_paper",
        "evaluation=[gap,retrieval]",
        *recipe.few_resamples("gap", "retrieval"),
    )


COLUMNS = {
    "CD": ("gap/centroid_distance", 1),
    "LS": ("gap/linear_separability_ols", 1),
    "I2T": ("retrieval/i2t_r1", 100),
    "T2I": ("retrieval/t2i_r1", 100),
}


def printed(numbers, row):
    """What a row's numbers are in the units of the paper's tables."""
    return {column: scale * numbers[f"test/{row}/{name}"] for column, (name, scale) in COLUMNS.items()}


def measured(lines, row):
    return {column: float(lines[row, column]["measured"]) for column in COLUMNS}


def test_the_tables_show_the_numbers_of_these_runs_with_marks_and_nothing_else(recipe, stage_one, stage_two, tmp_path):
    first = measure_for_the_tables(recipe, stage_one / runs.CHECKPOINT, tmp_path / "runs" / "first")
    second = measure_for_the_tables(recipe, stage_two / runs.CHECKPOINT, tmp_path / "runs" / "second")
    one = table_lines(recipe, tmp_path, "--table", "1", "runs")
    two = table_lines(recipe, tmp_path, "--table", "2", "runs")
    assert measured(one, "LCCOM") == pytest.approx(printed(first, "none"))
    assert measured(two, "I0T_async") == pytest.approx(printed(second, "async_bn"))
    assert measured(two, "I0T_post") == pytest.approx(printed(first, "posthoc_test"))
    filled = {(row, column) for row in ("LCCOM", "I0T_async", "I0T_post") for column in COLUMNS}
    assert measured(two, "I0T_async") != measured(two, "I0T_post")
    for key, line in {**one, **two}.items():
        assert line["status"] == ("measured" if key in filled else "not run"), key
        if key in filled:
            assert line["on_protocol"] == "no"
            assert "another architecture than the paper's" in line["notes"]
            assert "flickr30k test: 16 images, where the published split has 1,000" in line["notes"]
            difference = float(line["measured"]) - float(line["published"])
            assert float(line["difference"]) == pytest.approx(difference)


@pytest.mark.slow
def test_three_seeds_have_mean_and_deviation_in_table_4(recipe, tmp_path):
    found = {"i0t_async": [], "i0t_stage1": []}
    for seed in (7, 42, 71):
        first, second = (tmp_path / "trained" / f"{name}_{seed}" for name in found)
        short = (f"seed={seed}", "optimizer.lr=1e-3")
        recipe.train("i0t_stage1", second, *recipe.model, *short)
        recipe.train("i0t_async", first, f"ckpt_path={second / runs.CHECKPOINT}", *short)
        for name, folder, row in (("i0t_stage1", second, "posthoc_test"), ("i0t_async", first, "async_bn")):
            numbers = measure_for_the_tables(recipe, folder / runs.CHECKPOINT, tmp_path / "runs" / folder.name)
            found[name].append(printed(numbers, row))
    lines = table_lines(recipe, tmp_path, "--table", "4", "runs")
    for name, label in (("i0t_async", "async"), ("i0t_stage1", "post")):
        for column in COLUMNS:
            values = [numbers[column] for numbers in found[name]]
            together = lines[f"{label}, all three", column]
            assert together["num_seeds"] == "3"
            assert float(together["measured"]) == pytest.approx(sum(values) / 3)
            assert float(together["sd"]) == pytest.approx(np.std(values, ddof=1))
            for seed, value in zip((7, 42, 71), values, strict=True):
                assert float(lines[f"{label}, seed {seed}", column]["measured"]) == pytest.approx(value)
        assert len({numbers["CD"] for numbers in found[name]}) == 3, "seeds matter"
    text = recipe.shell("i0t.paper", "--table", "4", "runs", cwd=tmp_path).stdout
    values = [numbers["CD"] for numbers in found["i0t_async"]]
    assert f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}* (3)" in text


# From the shell
