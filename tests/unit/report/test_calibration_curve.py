import csv
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.gap import Gap
from i0t.evaluation.results import RowResult
from i0t.gap_reducers.posthoc import Posthoc
from i0t.report.calibration_curve import PUBLISHED, draw_calibration_curve, write_calibration_curve
from i0t.report.calibration_points import Theory, calibration_series

DIM = 48
CSV = "calibration_curve.csv"


def draw(num_images: int, seed: int, captions: int = 1) -> EmbeddingSet:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(num_images, DIM, generator=generator)
    index = torch.arange(num_images).repeat_interleave(captions)
    text = 0.8 * image[index] + torch.randn(len(index), DIM, generator=generator)
    return EmbeddingSet.from_index(image + 0.5, text - 0.5, index)


def job_of(row: RowResult, **extra: Any) -> dict[str, Any]:
    about = {"protocol": row.protocol, "fit_samples": row.fit_samples, "fit_data": row.fit_data, "settings": {}}
    return {
        "name": "0",
        "overrides": {"gap_reducer.fit_samples": str(row.fit_samples), **extra.pop("overrides", {})},
        "config": {},
        "metrics": {
            **{f"test/{row.name}/{key}": value for key, value in row.metrics.items()},
            "intervals": {f"test/{row.name}/{key}": list(ends) for key, ends in row.intervals.items()},
            "rows": {row.name: about, "none": {"protocol": "none", "fit_samples": 0}},
            "data": {"split": "test"},
            **extra,
        },
    }


def measured(size: int, seed: int, *, split: str, captions: int = 1, num_test: int = 100) -> dict[str, Any]:
    """A job of the sweep, really measured."""
    test = draw(num_test, 1000 + seed, captions)
    reducer = Posthoc(DIM, fit_split=split, fit_samples=size, seed=seed)
    reducer.fit(test if split == "test" else draw(size, 2000 + seed, captions))
    row = evaluate_row("post", reducer, test, {"gap": Gap(separability_seed=0, num_resamples=20)}, split="test")
    data = {"split": "test", **({"num_images": num_test} if split == "test" else {})}
    return job_of(row, data=data, overrides={"seed": str(seed)})


def plain(size: int, seed: int, distance: float, **changes: Any) -> dict[str, Any]:
    """A job of numbers that are easy to compute with."""
    numbers = {
        "test/post/gap/centroid_distance": distance,
        "test/post/gap/centroid_distance_unbiased": distance / 2,
        "test/post/gap/matched_cosine": 0.5,
    }
    return {
        "overrides": {"seed": str(seed), "gap_reducer.fit_samples": str(size), **changes.get("overrides", {})},
        "metrics": {
            **numbers,
            "intervals": {"test/post/gap/centroid_distance": [0.9 * distance, 1.2 * distance]},
            "rows": {"post": {"protocol": changes.get("protocol", "inductive"), "fit_samples": size, "fit_data": None}},
            "data": {"num_images": 400},
        },
    }


@pytest.mark.parametrize("captions", [1, 3])
def test_theory_meets_what_is_measured_on_other_images(captions: int) -> None:
    jobs = [measured(size, seed, split="train", captions=captions) for size in (20, 80) for seed in range(12)]
    (series,) = calibration_series(jobs)
    assert [(point.num_fit, point.num_jobs) for point in series.points] == [(20, 12), (80, 12)]
    for point in series.points:
        assert point.theory.num_test == 100  # follows from what the evaluation expects
        assert point.distance.mean == pytest.approx(point.theory.distance(point.num_fit), rel=0.08)
        assert point.unbiased is not None
        assert point.unbiased.mean == pytest.approx(point.theory.unbiased(point.num_fit), rel=0.15)
    simple = 2 * (1 - series.points[1].cosine)
    assert series.points[1].theory.spread == pytest.approx(simple, rel=0.05 if captions == 1 else 1)
    if captions == 3:  # the mean of several captions scatters less than one of them
        assert series.points[1].theory.spread < 0.9 * simple


def test_theory_meets_what_is_measured_where_the_images_are_among_those_measured() -> None:
    jobs = [measured(size, seed, split="test") for size in (20, 60) for seed in range(12)]
    (series,) = calibration_series(jobs)
    assert series.label == "post (transductive, N = 100)"
    for point in series.points:
        assert point.distance.mean == pytest.approx(point.theory.distance(point.num_fit), rel=0.1)
        others = Theory(point.theory.spread, 100, among=False).distance(point.num_fit)
        assert others is not None
        assert point.distance.mean < 0.93 * others
    assert series.theory.distance(101) is None
    assert series.theory.unbiased(20) is None


def test_numbers_of_the_table_against_plain_computation(tmp_path: Path) -> None:
    jobs = [plain(size, seed, (3 + seed) / size) for size in (64, 32) for seed in (0, 1, 5)]
    files = write_calibration_curve(jobs, tmp_path)
    assert [file.name for file in files] == [f"calibration_curve.{ending}" for ending in ("png", "csv", "md")]
    lines = list(csv.DictReader((tmp_path / CSV).read_text(encoding="utf-8").splitlines()))
    assert [(line["n"], line["jobs"]) for line in lines] == [("32", "3"), ("64", "3")]
    for line, size in zip(lines, (32, 64), strict=True):
        mean, std = 5 / size, statistics.stdev([3 / size, 4 / size, 8 / size])
        theory = math.sqrt(2 * 0.5 * (1 / size + 1 / 400))
        expected = {
            "CD": mean,
            "CD low": mean - std,
            "CD high": mean + std,
            "CD theory": theory,
            "CD / theory": mean / theory,
            "CD_u": mean / 2,
            "CD_u theory": math.sqrt(2 * 0.5 / size),
            "matched cosine": 0.5,
            "I0T Table 3 CD": {32: 0.1880, 64: 0.1387}[size],
        }
        assert {key: float(line[key]) for key in expected} == pytest.approx(expected)
        assert line["calibration"] == "post (inductive, N = 400)"
    text = (tmp_path / "calibration_curve.md").read_text(encoding="utf-8")
    assert "| post (inductive, N = 400) | 32 | 3 | 0.1562 |" in text
    assert "for a single job its 95 % bootstrap interval" in text
    assert min(Image.open(tmp_path / "calibration_curve.png").size) > 700


def test_only_rows_of_varied_size_are_drawn_apart_by_protocol_and_override() -> None:
    def with_constant_row(job: dict[str, Any]) -> dict[str, Any]:
        job["metrics"]["rows"]["all"] = {"protocol": "inductive", "fit_samples": 999, "fit_data": None}
        for name in ("centroid_distance", "matched_cosine"):
            job["metrics"][f"test/all/gap/{name}"] = 0.1
        return job

    jobs = [
        with_constant_row(plain(size, 0, 0.1, protocol=protocol, overrides={"model": model}))
        for size in (32, 64)
        for protocol in ("inductive", "transductive")
        for model in ("a", "b")
    ]
    labels = [line.label for line in calibration_series(jobs)]
    assert labels == [
        "post (inductive, model=a, N = 400)",
        "post (inductive, model=b, N = 400)",
        "post (transductive, model=a, N = 400)",
        "post (transductive, model=b, N = 400)",
    ]
    assert all(len(line.points) == 2 for line in calibration_series(jobs))


def test_the_picture_has_measured_points_theory_and_the_paper() -> None:
    series = calibration_series([plain(size, 0, 1 / size) for size in (32, 64, 128)])
    (axes,) = draw_calibration_curve(series).axes
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    lines = {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    measured_label = "CD of post (inductive, N = 400); band: 95 % bootstrap"
    np.testing.assert_allclose(lines[measured_label].get_xydata(), [[n, 1 / n] for n in (32, 64, 128)])
    theory = lines["theory √(a (1/n + 1/N)), a = 1.00"].get_xydata()
    np.testing.assert_allclose(theory[:, 1], np.sqrt(1 / theory[:, 0] + 1 / 400))
    unbiased = lines["theory √(a / n)"].get_xydata()
    np.testing.assert_allclose(unbiased[:, 1], np.sqrt(1 / unbiased[:, 0]))
    published = lines["CD of I0T Table 3 (another model, N = 1,000)"].get_xydata()
    assert {int(n): value for n, value in published} == PUBLISHED
    assert PUBLISHED == {32: 0.1880, 64: 0.1387, 128: 0.0986, 256: 0.0710, 512: 0.0542, 1000: 0.0102}
    assert axes.get_xlabel() == "images the means were fitted on, n"
    band = axes.collections[0].get_paths()[0].vertices
    assert {(round(x), round(y * x, 6)) for x, y in band} == {(n, f) for n in (32, 64, 128) for f in (0.9, 1.2)}


def test_without_the_number_of_images_there_is_no_theory_of_the_distance() -> None:
    job = plain(32, 0, 0.1)
    job["metrics"]["data"] = {}
    (series,) = calibration_series([job])
    assert series.points[0].theory.distance(32) is None
    assert series.label == "post (inductive)"
    labels = [str(line.get_label()) for line in draw_calibration_curve([series]).axes[0].lines]
    assert not any("1/N" in label for label in labels)


def test_jobs_that_measure_no_gap_are_refused(tmp_path: Path) -> None:
    job = {"metrics": {"rows": {"none": {"protocol": "none", "fit_samples": 0}}, "test/none/gap/centroid_distance": 1}}
    with pytest.raises(ValueError, match="none of 1 jobs has a fitted row with gap/centroid_distance"):
        write_calibration_curve([job], tmp_path)
    assert list(tmp_path.iterdir()) == []
