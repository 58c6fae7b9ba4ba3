"""A search with Optuna that is the same whether it ran through or was killed and started again.

Every trial of the search is one job of the multirun, and has its number. What the trial of a number suggests depends
on the search's seed, the number and the finished trials before it. A trial that a kill left running is marked as
failed; its number is tried again with the same values, in the same folder, where a job that had finished is not run
again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import yaml
from filelock import FileLock, Timeout
from hydra.core.utils import JobReturn, JobStatus
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from i0t import runs
from i0t.config_errors import ConfigError
from i0t.sweeps.objectives import read_values
from i0t.sweeps.space import Space

STUDY_FILE = "study.json"
BEST_FILE = "best.yaml"
_LOCK_FILE = "study.lock"
# A killed process's data workers hold its lock for some seconds.
_LOCK_SECONDS = 15.0
_NUMBER = "job"
_ERROR = "error"
_log = logging.getLogger(__name__)

Launch = Callable[[Sequence[Sequence[str]], int], Sequence[JobReturn]]


class Search(NamedTuple):
    """What is searched.

    Attributes:
        space: What varies.
        directions: Of every objective by its name, ``minimize`` or ``maximize``.
        n_trials: With those of earlier starts, and with those that failed.
        trials_at_once: How many jobs are launched together.
        storage: URL of the database.
        study_name: In the database.
        sampler: Makes Optuna's sampler from a seed.
        seed: Of all trials.
        config: What the jobs share, resolved: another one would make another study.
        folder: Of the multirun.
    """

    space: Space
    directions: Mapping[str, str]
    n_trials: int
    trials_at_once: int
    storage: str
    study_name: str
    sampler: Callable[..., BaseSampler]
    seed: int
    config: Mapping[str, Any]
    folder: Path


class Repeated(BaseSampler):
    """Suggests the values of an earlier trial."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.params = dict(params)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is sampled together."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is sampled together."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The earlier trial's value."""
        return self.params[param_name]


def run_search(search: Search, launch: Launch) -> optuna.Study:
    """Runs the trials that are missing, and tells their objectives to the study.

    Args:
        search: What is searched.
        launch: Runs the jobs of several lists of overrides; the second argument is the number of the first.

    Raises:
        ConfigError: If another process is at it, if the folder holds the study of another search, or if the jobs do
            not have the objectives.
    """
    search.folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with FileLock(search.folder / _LOCK_FILE, timeout=_LOCK_SECONDS):
            study = _open(search)
            _end_interrupted(study)
            while numbers := _next_numbers(search, study):
                _run_batch(search, study, numbers, launch)
            return study
    except Timeout as error:
        raise ConfigError(f"{search.folder}: another process is running this search") from error


def _open(search: Search) -> optuna.Study:
    """The study of this very search, begun or gone on with."""
    identity = {
        "directions": dict(search.directions),
        "objectives": list(search.directions),
        "space": {dimension.key: dimension.text for dimension in search.space.dimensions},
        "config": dict(search.config),
    }
    file = search.folder / STUDY_FILE
    study = _load(search)
    if study is not None and not _has_values(study) and not (file.is_file() and _difference(file, identity) is None):
        optuna.delete_study(study_name=search.study_name, storage=search.storage)  # nothing is lost
        study = None
    if study is not None:
        difference = _difference(file, identity)
        if difference is not None:
            raise ConfigError(
                f"{search.folder} holds the study of another search ({difference}): go on with the same, name another "
                "folder with name=… or hydra.sweep.dir=…, or take this one away"
            )
        return study
    runs.write_json(file, identity)
    directions = [StudyDirection[name.upper()] for name in search.directions.values()]
    return optuna.create_study(study_name=search.study_name, storage=search.storage, directions=directions)


def _load(search: Search) -> optuna.Study | None:
    try:
        names = [summary.study_name for summary in optuna.get_all_study_summaries(storage=search.storage)]
    except (RuntimeError, SQLAlchemyError, StorageInternalError) as error:  # no database, or of another Optuna
        text = str(error).splitlines()[0]
        raise ConfigError(f"hydra.sweeper.storage={search.storage} cannot be opened: {text}") from error
    if search.study_name not in names:
        return None
    return optuna.load_study(study_name=search.study_name, storage=search.storage)


def _has_values(study: optuna.Study) -> bool:
    return any(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False))


def _difference(file: Path, identity: Mapping[str, Any]) -> str | None:
    """The first difference between the search that a study was made for and another one."""
    if not file.is_file():
        return f"{file.name} is missing, which says what it searches"
    saved: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    asked = json.loads(json.dumps(identity))
    for part in ("directions", "space"):
        found = runs.first_difference(saved[part], asked[part])
        if found is not None:
            return found
    if saved["objectives"] != asked["objectives"]:
        return f"the objectives there are in the order {', '.join(saved['objectives'])}"
    return runs.first_difference(saved["config"], asked["config"])


def _end_interrupted(study: optuna.Study) -> None:
    """Ends the trials that a kill left running. They have no error: that tells them from those that failed."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)


def is_finished(trial: FrozenTrial) -> bool:
    """Whether a trial has its numbers, or failed by itself: one that was interrupted is tried again."""
    return trial.state == TrialState.COMPLETE or (trial.state == TrialState.FAIL and _ERROR in trial.user_attrs)


def _next_numbers(search: Search, study: optuna.Study) -> list[int]:
    """The next numbers in a row that no finished trial has."""
    trials = study.get_trials(deepcopy=False)
    finished = {trial.user_attrs.get(_NUMBER) for trial in trials if is_finished(trial)}
    missing = [number for number in range(search.n_trials) if number not in finished][: search.trials_at_once]
    return [number for at, number in enumerate(missing) if number == missing[0] + at]


def _run_batch(search: Search, study: optuna.Study, numbers: Sequence[int], launch: Launch) -> None:
    asked = [_ask(search, study, number) for number in numbers]
    returned = launch([overrides for _, overrides in asked], numbers[0])
    for number, (trial, _), result in zip(numbers, asked, returned, strict=True):
        folder = search.folder / str(number)
        if result.status == JobStatus.FAILED:  # outside the task, which notes its errors itself
            runs.write_error(folder, f"{type(result._return_value).__name__}: {result._return_value}")
        reason = _error_of(folder)
        try:
            values = [] if reason else read_values(folder, list(search.directions))
        except ConfigError:
            study.tell(trial, state=TrialState.FAIL)
            raise
        except ValueError as error:
            reason = str(error)
        if reason:
            trial.set_user_attr(_ERROR, reason)
            study.tell(trial, state=TrialState.FAIL)
            continue
        study.tell(trial, values)
        said = ", ".join(f"{name} {value:.6g}" for name, value in zip(search.directions, values, strict=True))
        _log.info("#%d : %s", number, said)


def _error_of(folder: Path) -> str:
    """Why a job failed, if it did."""
    if (folder / runs.ERROR_FILE).is_file():
        return (folder / runs.ERROR_FILE).read_text(encoding="utf-8").strip()
    return "" if (folder / runs.METRICS_FILE).is_file() else "it left no numbers"


def _ask(search: Search, study: optuna.Study, number: int) -> tuple[optuna.trial.Trial, list[str]]:
    """A trial with this number, and the overrides of its job."""
    keys = {dimension.key for dimension in search.space.dimensions}
    earlier = [
        trial.params
        for trial in study.get_trials(deepcopy=False)
        if trial.user_attrs.get(_NUMBER) == number and set(trial.params) == keys
    ]
    if earlier:
        study.sampler = Repeated(earlier[-1])
    else:
        seed = np.random.SeedSequence([search.seed, number]).generate_state(1)[0]
        study.sampler = search.sampler(seed=int(seed))
    trial = study.ask()
    trial.set_user_attr(_NUMBER, number)
    return trial, search.space.suggest(trial)  # type: ignore[arg-type]  # it takes more kinds of choices


def best_trials(search: Search, study: optuna.Study) -> list[dict[str, Any]]:
    """The trials that no other one beats in all objectives, in the order of the first: of one objective, the best."""
    found = [
        {
            "job": trial.user_attrs[_NUMBER],
            "values": dict(zip(search.directions, trial.values, strict=True)),
            "overrides": {dimension.key: trial.params[dimension.key] for dimension in search.space.dimensions},
        }
        for trial in study.best_trials
    ]
    first, direction = next(iter(search.directions.items()))
    sign = 1 if direction == "minimize" else -1
    return sorted(found, key=lambda one: (sign * one["values"][first], one["job"]))


def write_best(search: Search, study: optuna.Study) -> str:
    """Writes ``best.yaml``; returns what to say: how many trials there are, and the best."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if is_finished(trial)]
    failed = sum(trial.state == TrialState.FAIL for trial in trials)
    lines = [f"search: {len(trials)} of {search.n_trials} trials, {failed} of them failed"]
    best = best_trials(search, study) if len(trials) > failed else []
    for one in best:
        values = ", ".join(f"{name} {value:.6g}" for name, value in one["values"].items())
        overrides = " ".join(f"{key}={value}" for key, value in one["overrides"].items())
        lines.append(f"  best: {values}  (job {one['job']}: {overrides})")
    if best:
        runs.write_atomically(search.folder / BEST_FILE, yaml.safe_dump(best, sort_keys=False))
        lines.append(f"best of the search: {search.folder / BEST_FILE}")
    return "\n".join(lines)
