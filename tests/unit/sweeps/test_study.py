"""A search is the same whether it ran through or was killed: jobs are a formula here, kills an exception."""

import json
import math
import threading

import optuna
import pytest
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from optuna.trial import TrialState

from i0t.config_errors import ConfigError
from i0t.sweeps import study as study_module
from i0t.sweeps.space import read_space
from i0t.sweeps.study import Search, best_trials, is_finished, run_search, write_best

SPACE = ("x=interval(-1.0,1.0)", "lr=tag(log,interval(1e-4,1e-2))", "loss=clip,cyclip")
CONFIG = {"seed": 0, "trainer": {"max_steps": 3}}
WEIGHT = {"clip": 0.0, "cyclip": 0.5}


class Killed(BaseException):
    """What ends the process in these tests."""


class Jobs:
    """Stands in for the launcher: writes numbers that follow from the overrides, and counts what it ran."""

    def __init__(self, folder, *, fails=(), killed_at=None, numbers=None):
        self.folder = folder
        self.fails = set(fails)
        self.killed_at = killed_at
        self.ran = []
        self.numbers = numbers

    def __call__(self, overrides, first):
        return [self.run(dict(o.split("=") for o in one), number) for number, one in enumerate(overrides, first)]

    def run(self, values, number):
        folder = self.folder / str(number)
        folder.mkdir(exist_ok=True)
        if self.killed_at == number:
            raise Killed
        if not (folder / "metrics.json").exists():  # else it had finished before
            self.ran.append((number, tuple(values.items())))
            (folder / "error.txt").unlink(missing_ok=True)
            if number in self.fails:
                (folder / "error.txt").write_text("RuntimeError: a marked failure\n")
                return JobReturn(_return_value=None, status=JobStatus.COMPLETED)
            x, lr = float(values["x"]), float(values["lr"])
            numbers = {"t/n/g/a": (x - 0.3) ** 2 + WEIGHT[values["loss"]], "t/n/g/b": abs(math.log10(lr) + 3) - x}
            (folder / "metrics.json").write_text(json.dumps(self.numbers or numbers))
        return JobReturn(_return_value={}, status=JobStatus.COMPLETED)


def search_in(folder, **changes):
    space = read_space(OverridesParser.create().parse_overrides(list(changes.pop("overrides", SPACE))))
    plain = {
        "space": space,
        "directions": {"t/n/g/a": "minimize"},
        "n_trials": 9,
        "trials_at_once": 1,
        "storage": f"sqlite:///{folder}/study.db",
        "study_name": "mine",
        "sampler": lambda seed: optuna.samplers.TPESampler(n_startup_trials=3, seed=seed),
        "seed": 0,
        "config": CONFIG,
        "folder": folder,
    }
    return Search(**plain | changes)


def table(study):
    """Number, values and parameters of every trial that counts, as the database has them."""
    stored = optuna.load_study(study_name=study.study_name, storage=study._storage).trials
    assert not [t for t in stored if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    kept = sorted((t for t in stored if is_finished(t)), key=lambda t: t.user_attrs["job"])
    return [(t.user_attrs["job"], t.state, t.values, t.params) for t in kept]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    jobs = Jobs(folder)
    return table(run_search(search_in(folder), jobs)), jobs.ran


def test_every_trial_is_a_job_of_its_own_values(uninterrupted):
    rows, ran = uninterrupted
    assert [row[0] for row in rows] == list(range(9)) == [number for number, _ in ran]
    for (_, state, values, params), (_, overrides) in zip(rows, ran, strict=True):
        assert state == TrialState.COMPLETE
        assert {key: str(value) for key, value in params.items()} == dict(overrides)
        assert values == [(params["x"] - 0.3) ** 2 + WEIGHT[params["loss"]]]
    assert len({json.dumps(row[3]) for row in rows}) == 9, "no two alike"
    late = [row[3]["loss"] for row in rows[4:]]
    assert late.count("clip") > late.count("cyclip"), "the search has learned which is better"


@pytest.mark.parametrize("killed_at", [0, 4, 8])
def test_a_killed_search_goes_on_as_if_nothing_had_been(uninterrupted, tmp_path, killed_at):
    first = Jobs(tmp_path, killed_at=killed_at)
    with pytest.raises(Killed):
        run_search(search_in(tmp_path), first)
    second = Jobs(tmp_path)
    study = run_search(search_in(tmp_path), second)
    rows, ran = uninterrupted
    assert table(study) == rows
    assert first.ran + second.ran == ran, "no finished job ran again"
    interrupted = [t for t in study.trials if not is_finished(t)]
    assert [t.user_attrs["job"] for t in interrupted] == [killed_at]
    third = Jobs(tmp_path)
    assert table(run_search(search_in(tmp_path), third)) == rows
    assert third.ran == []


def test_a_job_that_had_finished_when_the_search_was_killed_is_not_run_again(uninterrupted, tmp_path, monkeypatch):
    def kill(*arguments):
        raise Killed

    jobs = Jobs(tmp_path)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(study_module, "read_values", kill)  # before the study is told
        run_search(search_in(tmp_path), jobs)
    assert len(jobs.ran) == 1
    again = Jobs(tmp_path)
    rows, ran = uninterrupted
    assert table(run_search(search_in(tmp_path), again)) == rows
    assert again.ran == ran[1:]


def test_more_trials_are_added_and_fewer_are_no_loss(uninterrupted, tmp_path):
    run_search(search_in(tmp_path, n_trials=4), Jobs(tmp_path))
    more = Jobs(tmp_path)
    assert table(run_search(search_in(tmp_path), more)) == uninterrupted[0]
    assert [number for number, _ in more.ran] == list(range(4, 9))
    assert len(table(run_search(search_in(tmp_path, n_trials=2), Jobs(tmp_path)))) == 9


def test_several_at_once_are_launched_together_and_killed_together(tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    batches = []

    def launched(overrides, first):
        batches.append((first, len(overrides)))
        return Jobs(whole)(overrides, first)

    rows = table(run_search(search_in(whole, trials_at_once=4), launched))
    assert batches == [(0, 4), (4, 4), (8, 1)]
    assert len({json.dumps(row[3]) for row in rows}) == 9
    with pytest.raises(Killed):
        run_search(search_in(parts, trials_at_once=4), Jobs(parts, killed_at=6))
    again = Jobs(parts)
    assert table(run_search(search_in(parts, trials_at_once=4), again)) == rows
    assert [number for number, _ in again.ran] == list(range(6, 9)), "4 and 5 had their numbers"


def test_a_failed_trial_is_recorded_and_counts(tmp_path):
    jobs = Jobs(tmp_path, fails={2, 3})
    search = search_in(tmp_path, n_trials=6)
    study = run_search(search, jobs)
    failed = [t for t in study.trials if t.state == TrialState.FAIL]
    assert [(t.user_attrs["job"], t.user_attrs["error"]) for t in failed] == [
        (2, "RuntimeError: a marked failure"),
        (3, "RuntimeError: a marked failure"),
    ]
    assert len(jobs.ran) == 6
    assert "search: 6 of 6 trials, 2 of them failed" in write_best(search, study)
    again = Jobs(tmp_path)
    run_search(search, again)
    assert again.ran == []


def test_an_objective_that_is_not_a_number_fails_its_trial(tmp_path):
    study = run_search(search_in(tmp_path, n_trials=1), Jobs(tmp_path, numbers={"t/n/g/a": math.nan}))
    assert study.trials[0].user_attrs["error"] == "t/n/g/a is nan"


def test_an_error_outside_the_task_fails_its_trial(tmp_path):
    def launched(overrides, first):
        return [JobReturn(_return_value=RuntimeError("in a callback"), status=JobStatus.FAILED)]

    study = run_search(search_in(tmp_path, n_trials=1), launched)
    assert study.trials[0].user_attrs["error"] == "RuntimeError: in a callback"
    assert (tmp_path / "0" / "error.txt").read_text() == "RuntimeError: in a callback\n"


def test_an_objective_that_no_job_has_ends_the_search_and_can_be_mended(uninterrupted, tmp_path):
    jobs = Jobs(tmp_path)
    with pytest.raises(ConfigError, match=r"objective t/n/g/aa: .* did you mean 't/n/g/a'"):
        run_search(search_in(tmp_path, directions={"t/n/g/aa": "minimize"}), jobs)
    assert len(jobs.ran) == 1
    again = Jobs(tmp_path)
    assert table(run_search(search_in(tmp_path), again)) == uninterrupted[0]
    assert len(again.ran) == 8, "the first job's numbers were there"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"directions": {"t/n/g/a": "maximize"}}, "t/n/g/a is minimize there, maximize here"),
        ({"directions": {"t/n/g/b": "minimize"}}, "is not in both configs"),
        ({"overrides": ("x=interval(-1.0,2.0)", *SPACE[1:])}, r"x is interval\(-1.0,1.0\) there, interval\(-1.0,2.0\)"),
        ({"overrides": SPACE[:2]}, "loss is not in both"),
        ({"config": {"seed": 0, "trainer": {"max_steps": 4}}}, "trainer.max_steps is 3 there, 4 here"),
    ],
)
def test_the_study_of_another_search_is_left_alone(tmp_path, changes, message):
    before = table(run_search(search_in(tmp_path, n_trials=2), Jobs(tmp_path)))
    jobs = Jobs(tmp_path)
    with pytest.raises(ConfigError, match=f"holds the study of another search.*{message}") as error:
        run_search(search_in(tmp_path, **changes), jobs)
    assert "\n" not in str(error.value)
    assert jobs.ran == []
    assert table(run_search(search_in(tmp_path, n_trials=2), jobs)) == before


def test_a_database_without_its_description_is_left_alone(tmp_path):
    run_search(search_in(tmp_path, n_trials=2), Jobs(tmp_path))
    (tmp_path / "study.json").unlink()
    with pytest.raises(ConfigError, match=r"study\.json is missing"):
        run_search(search_in(tmp_path), Jobs(tmp_path))


def test_a_file_that_is_no_database_is_one_line(tmp_path):
    (tmp_path / "study.db").write_text("this is not a database, whatever it is called" * 99)
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.storage=sqlite:.*study\.db cannot be opened: ") as error:
        run_search(search_in(tmp_path), Jobs(tmp_path))
    assert "\n" not in str(error.value)


def test_a_second_process_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(study_module, "_LOCK_SECONDS", 0.2)
    held, done = threading.Event(), threading.Event()

    def hold():
        with FileLock(tmp_path / "study.lock"):
            held.set()
            done.wait(30)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(30)
    with pytest.raises(ConfigError, match="another process is running this search"):
        run_search(search_in(tmp_path), Jobs(tmp_path))
    done.set()
    other.join()


def test_the_pareto_front_is_what_nothing_beats(tmp_path):
    directions = {"t/n/g/a": "minimize", "t/n/g/b": "maximize"}
    search = search_in(tmp_path, directions=directions)
    study = run_search(search, Jobs(tmp_path, fails={1}))
    points = {t.user_attrs["job"]: t.values for t in study.trials if t.state == TrialState.COMPLETE}

    def beaten(one):
        return any(other[0] <= one[0] and other[1] >= one[1] and other != one for other in points.values())

    expected = {number for number, values in points.items() if not beaten(values)}
    found = best_trials(search, study)
    assert {one["job"] for one in found} == expected
    assert 1 < len(expected) < len(points)
    firsts = [one["values"]["t/n/g/a"] for one in found]
    assert firsts == sorted(firsts)
    said = write_best(search, study)
    assert said.count("  best: ") == len(expected)
    assert (tmp_path / "best.yaml").read_text().count("job:") == len(expected)


def test_of_one_objective_the_best_is_the_smallest_or_the_largest(uninterrupted, tmp_path):
    values = [row[2][0] for row in uninterrupted[0]]
    search = search_in(tmp_path)
    (best,) = best_trials(search, run_search(search, Jobs(tmp_path)))
    assert best["values"] == {"t/n/g/a": min(values)}
    assert best["job"] == values.index(min(values))
    other = tmp_path / "other"
    other.mkdir()
    search = search_in(other, directions={"t/n/g/a": "maximize"}, n_trials=5)
    study = run_search(search, Jobs(other))
    (best,) = best_trials(search, study)
    assert best["values"]["t/n/g/a"] == max(t.values[0] for t in study.trials)


def test_another_seed_is_another_search(uninterrupted, tmp_path):
    rows = table(run_search(search_in(tmp_path, seed=1, n_trials=3), Jobs(tmp_path)))
    assert rows != uninterrupted[0][:3]
