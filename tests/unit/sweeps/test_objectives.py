"""The numbers that a search makes small or large."""

import json

import pytest

from i0t.config_errors import ConfigError
from i0t.sweeps.objectives import check_objectives, read_directions, read_values

JOB = {"split": "val", "rows": ["none", "posthoc"], "evaluations": ["gap", "retrieval"]}


def job_in(folder, metrics, history=None):
    (folder / "metrics.json").write_text(json.dumps(metrics))
    if history is not None:
        (folder / "history.json").write_text(json.dumps(history))
    return folder


def test_directions_keep_their_order():
    assert list(read_directions(["b", "a"], ["c"]).items()) == [
        ("b", "maximize"),
        ("a", "maximize"),
        ("c", "minimize"),
    ]
    with pytest.raises(ConfigError, match="no objective"):
        read_directions([], [])
    with pytest.raises(ConfigError, match="a cannot be maximized and minimized"):
        read_directions(["a", "b"], ["a"])


def test_values_come_in_the_order_of_the_names(tmp_path):
    folder = job_in(
        tmp_path,
        {"val/none/gap/rmg": 0.25, "val/none/retrieval/i2t_r1": 1, "rows": {"none": {}}, "val/rmg": 3.0},
        {"val/rmg": [[3, 9.0], [6, 0.5]], "val/alignment": [[3, 0.125], [6, 0.75]]},
    )
    assert read_values(folder, ["val/none/retrieval/i2t_r1", "val/none/gap/rmg"]) == [1.0, 0.25]
    assert read_values(folder, ["val/alignment"]) == [0.75], "the last that was logged"
    assert read_values(folder, ["val/rmg"]) == [3.0], "metrics.json goes before"


def test_a_number_that_is_missing_or_not_finite_is_said(tmp_path):
    folder = job_in(tmp_path, {"val/none/gap/rmg": float("nan"), "val/none/retrieval/i2t_r1": 1.0})
    with pytest.raises(ConfigError, match=r"no such number; did you mean 'val/none/retrieval/i2t_r1'"):
        read_values(folder, ["val/none/retrieval/i2tr1"])
    with pytest.raises(ValueError, match="val/none/gap/rmg is nan") as error:
        read_values(folder, ["val/none/gap/rmg"])
    assert not isinstance(error.value, ConfigError), "this job's, not the search's fault"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test/none/gap/rmg", r"measure the split val \(split=test changes that\)"),
        ("val/posthc/gap/rmg", "no row 'posthc'; did you mean 'posthoc'"),
        ("val/none/zeroshot/digit", r"no evaluation 'zeroshot' \(gap, retrieval\)|no evaluation 'zeroshot'"),
        ("rmg", "write val/<row>/<evaluation>/<number>"),
    ],
)
def test_what_no_job_can_have_is_refused_before_the_first(name, message):
    with pytest.raises(ConfigError, match=message):
        check_objectives(["val/none/gap/rmg", name], **JOB)


def test_what_jobs_may_have_is_taken():
    check_objectives(["val/posthoc/retrieval/i2t_r1", "val/rmg", "train/loss"], **JOB)
