import csv
import statistics
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from PIL import Image

from i0t.report.style import SERIES_COLORS
from i0t.report.tradeoff import draw_tradeoff, write_tradeoff
from i0t.report.tradeoff_points import tradeoff_points

X, Y = "gap/centroid_distance", ["retrieval/i2t_r1", "zeroshot/digit"]


def job(strength: float, checkpoint: str, seed: int = 0, *, gap: float, recall: float | None) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "test/none/gap/centroid_distance": 0.9,
        "test/none/retrieval/i2t_r1": 0.1,
        "test/shift/gap/centroid_distance": gap,
        "test/shift/zeroshot/digit": gap / 2,
        "intervals": {"test/shift/gap/centroid_distance": [gap - 0.01, gap + 0.02]},
        "rows": {
            "none": {"protocol": "none", "settings": {}},
            "shift": {"protocol": "inductive", "settings": {"strength": strength}},
        },
        "model": {"trained_as": checkpoint},
    }
    if recall is not None:
        metrics["test/shift/retrieval/i2t_r1"] = recall
    overrides = {"gap_reducer.strength": str(strength), "seed": str(seed), "ckpt_path": f"{checkpoint}_{seed}.ckpt"}
    return {"name": "0", "overrides": overrides, "config": {"data": {"batch_size": 64}}, "metrics": metrics}


# The gap falls and rises again along the strength.
JOBS = [
    job(strength, checkpoint, gap=abs(1 - strength) + 0.1, recall=0.5 + strength / 10)
    for checkpoint in ("b", "a")
    for strength in (2.0, 0.0, 1.5, 1.0)
]


def test_points_go_along_the_order_within_a_colour_and_leave_the_baseline_out() -> None:
    points = tradeoff_points(JOBS, x=X, y=Y, colour="model.trained_as", order="strength")
    assert [(p.colour, p.order, p.row) for p in points] == [
        (c, s, "shift") for c in ("a", "b") for s in (0.0, 1.0, 1.5, 2.0)
    ]
    assert [p.x.mean for p in points[:4]] == pytest.approx([1.1, 0.1, 0.6, 1.1])
    assert [p.y["retrieval/i2t_r1"].mean for p in points[:4]] == pytest.approx([0.5, 0.6, 0.65, 0.7])
    by_gap = tradeoff_points(JOBS, x=X, y=Y, colour="model.trained_as")
    assert [p.x.mean for p in by_gap[:4]] == pytest.approx([0.1, 0.6, 1.1, 1.1])
    baseline = tradeoff_points(JOBS, x=X, y=Y, colour="model.trained_as", row="none")
    assert {p.row for p in baseline} == {"none"}


def test_jobs_that_differ_in_what_is_averaged_over_are_one_point() -> None:
    gaps = (0.1, 0.2, 0.6)
    jobs = [job(1.0, "a", seed, gap=gap, recall=None if seed == 2 else gap) for seed, gap in enumerate(gaps)]
    apart = tradeoff_points(jobs, x=X, y=Y, colour="strength")
    assert [p.num_jobs for p in apart] == [1, 1, 1]
    assert (apart[0].x.low, apart[0].x.high) == pytest.approx((0.09, 0.12))
    (point,) = tradeoff_points(jobs, x=X, y=Y, colour="strength", over=("seed", "ckpt_path"))
    std = statistics.stdev(gaps)
    assert point.num_jobs == 3
    assert point.x == pytest.approx((0.3, std, 0.3 - std, 0.3 + std))
    assert point.y["zeroshot/digit"].mean == pytest.approx(0.15)
    assert point.y["retrieval/i2t_r1"].mean == pytest.approx(0.15)  # of the two jobs that have it


def test_files_hold_every_point(tmp_path: Path) -> None:
    files = write_tradeoff(
        JOBS, tmp_path, x=X, y=Y, colour="model.trained_as", order="strength", name="gap_x_semantics"
    )
    assert [file.name for file in files] == [f"gap_x_semantics.{ending}" for ending in ("png", "csv", "md")]
    lines = list(csv.DictReader((tmp_path / "gap_x_semantics.csv").read_text().splitlines()))
    assert len(lines) == 8
    assert lines[2]["row"] == "shift"
    assert (lines[2]["model.trained_as"], lines[2]["strength"], lines[2]["jobs"]) == ("a", "1.5", "1")
    assert float(lines[2][X]) == pytest.approx(0.6)
    assert float(lines[2][f"{X} high"]) == pytest.approx(0.62)
    assert lines[2]["retrieval/i2t_r1 low"] == ""
    line = "| shift | a | 1.5 | ckpt_path=a_0.ckpt | 1 | 0.6 | 0.59 | 0.62 | 0.65 |"
    assert line in (tmp_path / "gap_x_semantics.md").read_text()
    assert Image.open(tmp_path / "gap_x_semantics.png").size == (1680, 630)


def test_the_picture_has_a_line_per_colour_in_its_order_with_names_at_points() -> None:
    points = tradeoff_points(JOBS, x=X, y=Y, colour="model.trained_as", order="strength")
    left, right = draw_tradeoff(points, x=X, y=Y, colour="model.trained_as", order="strength").axes
    lines = {str(line.get_label()): line for line in left.lines if not str(line.get_label()).startswith("_")}
    assert list(lines) == ["a", "b"]
    assert lines["a"].get_xdata().tolist() == pytest.approx([1.1, 0.1, 0.6, 1.1])
    assert [to_hex(line.get_color()).upper() for line in lines.values()] == list(SERIES_COLORS[:2])
    # Both lines lie over each other: each name is written once.
    assert [text.get_text() for text in left.texts] == ["0", "1", "1.5", "2"]
    assert left.get_xlabel() == "CD  (gap/centroid_distance)"
    assert left.get_ylabel() == "I→T R@1  (retrieval/i2t_r1)"
    assert right.get_ylabel() == "0-shot digit  (zeroshot/digit)"
    assert left.get_title(loc="left") == "numbers at points: strength; bars: 95 % bootstrap intervals"
    legend = left.get_legend()
    assert legend is not None
    assert legend.get_title().get_text() == "trained as"


def test_points_of_different_data_are_not_joined_and_pictures_without_points_are_left_out() -> None:
    jobs = [
        {**one, "overrides": {**one["overrides"], "data": data}}
        for data in ("flickr30k", "coco")
        for one in (job(strength, "a", gap=strength, recall=0.5) for strength in (0.0, 1.0))
    ]
    points = tradeoff_points(jobs, x=X, y=[*Y, "absent/number"], colour="model.trained_as", order="strength")
    drawn = draw_tradeoff(points, x=X, y=[*Y, "absent/number"], colour="model.trained_as", order="strength").axes
    assert len(drawn) == len(Y)
    labels = [str(line.get_label()) for line in drawn[0].lines if not str(line.get_label()).startswith("_")]
    assert len(labels) == 2
    assert any("data=coco" in label for label in labels)
    assert {point.setting.partition(",")[0].partition("=")[0] for point in points} <= {"ckpt_path", "data"}


def test_numbers_get_an_ordered_scale_and_points_without_the_vertical_number_are_left_out() -> None:
    jobs = [job(s, "a", gap=s, recall=None if s == 1 else s) for s in (16.0, 1.0, 4.0)]
    points = tradeoff_points(jobs, x=X, y=Y, colour="strength")
    assert [p.colour for p in points] == [1, 4, 16]
    left, right = draw_tradeoff(points, x=X, y=Y, colour="strength").axes
    labelled = {str(line.get_label()): line for line in right.lines if not str(line.get_label()).startswith("_")}
    assert list(labelled) == ["1", "4", "16"]
    assert not {to_hex(line.get_color()).upper() for line in labelled.values()} & set(SERIES_COLORS)
    assert [len(line.get_xdata()) for line in left.lines if line.get_label() == "1"] == [0]


def test_unknown_numbers_and_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no row of 8 jobs has gap/cd and one of zeroshot/digit; there are gap/cent"):
        write_tradeoff(JOBS, tmp_path, x="gap/cd", y="zeroshot/digit", colour="strength")
    with pytest.raises(ValueError, match="the jobs do not say 'lambda'; name a setting of the reducer"):
        write_tradeoff(JOBS, tmp_path, x=X, y=Y, colour="strength", order="lambda")
    assert list(tmp_path.iterdir()) == []


def test_a_long_name_is_shown_by_its_end() -> None:
    name = "outputs/" + "x" * 40 + "/last.ckpt"
    points = tradeoff_points([job(1.0, name, gap=0.1, recall=0.2)], x=X, y=Y, colour="model.trained_as")
    label = str(draw_tradeoff(points, x=X, y=Y, colour="model.trained_as").axes[0].lines[0].get_label())
    assert label == "…" + name[-35:]
