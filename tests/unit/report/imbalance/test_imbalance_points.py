"""From jobs to points: what is read, what is left out, and the intervals."""

import math
import statistics

import pytest
from scipy import stats

from i0t.report.imbalance_points import MEAN_ACCURACY, OBJECT_ACCURACY, RMG, imbalance_jobs, imbalance_points
from i0t.report.imbalance_statistics import OVER_IMAGES, OVER_SEEDS


def test_points_are_means_over_seeds_with_t_intervals(make_sweep):
    jobs, left_out = imbalance_jobs(make_sweep(mains=("digit", "color"))[::-1])
    points = imbalance_points(jobs)
    assert left_out == []
    assert [(p.main_object, p.k) for p in points] == [(main, k) for main in ("color", "digit") for k in range(6)]
    values = [job.numbers[RMG] for job in jobs if (job.main_object, job.k) == ("digit", 2)]
    assert len(set(values)) == 3
    point = points[8]
    half = stats.t.ppf(0.975, 2) * statistics.stdev(values) / math.sqrt(3)
    mean = statistics.fmean(values)
    assert point.values[RMG][:3] == pytest.approx((mean, mean - half, mean + half))
    assert point.values[RMG][3:] == (3, OVER_SEEDS)
    assert point.caption_bits == pytest.approx(math.log2(10) + 2 / 5 * math.log2(168))
    assert point.image_bits == pytest.approx(math.log2(1680))


def test_accuracies_of_object_attributes_and_all(make_sweep):
    def law(k, main, label):
        return {"digit": 0.9, "color": 0.6}.get(label, 0.5)

    (job,), _ = imbalance_jobs(make_sweep(ks=[3], seeds=[4], mains=["color"], accuracy=law))
    assert job.labels == ["digit", "thickness", "swelling", "fracture", "scale", "color"]
    accuracy = {label: job.numbers[f"zeroshot/{label}"] for label in job.labels}
    assert accuracy["color"] == pytest.approx(0.6, abs=1e-3)
    others = [value for label, value in accuracy.items() if label != "color"]
    assert job.numbers[OBJECT_ACCURACY] == accuracy["color"]
    assert job.numbers["accuracy/attributes"] == pytest.approx(sum(others) / 5)
    assert job.numbers[MEAN_ACCURACY] == pytest.approx((sum(others) + accuracy["color"]) / 6)


def test_a_single_seed_has_the_bootstrap_of_its_job(make_sweep):
    jobs, _ = imbalance_jobs(make_sweep(seeds=[0]))
    for point in imbalance_points(jobs):
        for name in (RMG, OBJECT_ACCURACY):
            value = point.values[name]
            assert value[1:] == pytest.approx((value.mean - 0.01, value.mean + 0.02, 1, OVER_IMAGES))
        assert point.values[MEAN_ACCURACY].low is None, "no job has an interval of it"


def test_missing_jobs_are_named_and_the_others_used(make_sweep):
    jobs = make_sweep(ks=(1, 5), seeds=(0, 1))
    found, left_out = imbalance_jobs(jobs[:-1])
    assert len(found) == 3
    assert left_out == ["without numbers, of every main object, k and seed: digit k=5 seed 1"]
    assert [p.values[RMG].num_values for p in imbalance_points(found)] == [2, 1]


def test_jobs_of_other_data_are_left_out_and_named(make_sweep):
    jobs = make_sweep(ks=(1, 5), seeds=(0,))
    jobs[0]["overrides"]["data.captions"] = jobs[0]["config"]["data"]["captions"] = "whole"
    found, left_out = imbalance_jobs(jobs)
    assert [job.name for job in found] == ["1"]
    assert left_out == ["job 0 has no captions of MAD, or no gap of a row that fits nothing"]
    with pytest.raises(ValueError, match=r"none of 1 jobs has data\.captions"):
        imbalance_jobs(jobs[:1])
    with pytest.raises(ValueError, match="none of 0 jobs"):
        imbalance_jobs([])


def test_jobs_that_differ_in_something_else_are_refused_and_checkpoints_are_repetitions(make_sweep):
    jobs = make_sweep(ks=(5,), seeds=(0, 0))
    with pytest.raises(ValueError, match="jobs 0 and 1 have the same k=5, main object digit and seed 0"):
        imbalance_jobs(jobs)
    for job in jobs:
        job["overrides"]["ckpt_path"] = f"start_{job['name']}.ckpt"
    found, _ = imbalance_jobs(jobs)
    assert [job.repetition for job in found] == ["seed 0 from start_0.ckpt", "seed 0 from start_1.ckpt"]


def test_what_the_data_do_not_say_of_bits_is_missing(make_sweep):
    jobs = make_sweep(ks=(1,), seeds=(0,))
    jobs[0]["metrics"]["data"] = {}
    del jobs[0]["history"]
    (job,), _ = imbalance_jobs(jobs)
    assert (job.caption_bits, job.image_bits, dict(job.history)) == (None, None, {})
