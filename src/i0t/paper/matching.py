"""Which runs fill a cell of a table, and what their numbers come to."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from i0t.paper.finished_runs import FinishedRun
from i0t.paper.published import Measure, ModelOf, PublishedRow, ReducerOf, Source

PUBLISHED_SUFFIX = "_published"
_OF_RUN = "_of_run"  # behind the name of a checkpoint's own row where the comparison has one of that name


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A number of a run that may stand in a cell.

    Attributes:
        run: Where it is from.
        value: As printed, in the column's scale.
        seed: What tells repetitions apart: the seed of training and, for means of a part of the data, of its draw.
        deviations: In what the run differs from the paper's protocol.
    """

    run: FinishedRun
    value: float
    seed: tuple[Any, ...]
    deviations: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the runs of a cell come to; nothing (``values`` empty) where there is none.

    Attributes:
        values: One per seed.
        folders: Where they are from.
        deviations: From the paper's protocol, of any of the runs.
        remarks: Runs that were set aside, and why.
        is_run: Whether there is a run, be it one without this number.
    """

    values: tuple[float, ...] = ()
    folders: tuple[Path, ...] = ()
    deviations: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    is_run: bool = False

    @property
    def mean(self) -> float | None:
        """Over seeds; NaN if one of them is."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation (divided by n - 1) over seeds; ``None`` for less than two."""
        if len(self.values) < 2:
            return None
        return statistics.stdev(self.values) if all(map(math.isfinite, self.values)) else math.nan


def as_published(model: ModelOf) -> ModelOf | None:
    """The variant trained with the paper's local negatives; ``None`` for public weights."""
    return None if model.trained_as is None else replace(model, trained_as=model.trained_as + PUBLISHED_SUFFIX)


def measured(row: PublishedRow, model: ModelOf, measure: Measure, runs: Sequence[FinishedRun]) -> Measured:
    """Fills a cell: the runs nearest to the paper's protocol, of each seed the newest.

    Args:
        row: Of the table.
        model: Whose runs to take: the row's, or its variant as published.
        measure: What the column says.
        runs: All that were collected.
    """
    of_cell = [run for run in runs if _measures(run, measure) and _is_of(run, model)]
    of_row = [(run, name) for run in of_cell for name in _rows_of(run, row.reducer)]
    found = [candidate for run, name in of_row for candidate in _candidates(run, name, row, model, measure)]
    if not found:
        return Measured(is_run=bool(of_row), remarks=_unmeasured(of_row, measure))
    fewest = min(len(candidate.deviations) for candidate in found)
    nearest = [candidate for candidate in found if len(candidate.deviations) == fewest]
    newest: dict[tuple[Any, ...], Candidate] = {}
    for candidate in sorted(nearest, key=lambda c: (c.run.finished, str(c.run.folder))):
        newest[candidate.seed] = candidate
    used = [newest[seed] for seed in sorted(newest, key=_in_order)]
    folders = dict.fromkeys(candidate.run.folder for candidate in used)
    return Measured(
        values=tuple(candidate.value for candidate in used),
        folders=tuple(folders),
        deviations=tuple(dict.fromkeys(text for candidate in used for text in candidate.deviations)),
        remarks=_set_aside(found, nearest, folders),
        is_run=True,
    )


def _in_order(seed: tuple[Any, ...]) -> list[str]:
    return [str(part).zfill(20) for part in seed]


def _unmeasured(of_row: Sequence[tuple[FinishedRun, str]], measure: Measure) -> tuple[str, ...]:
    """Which number the newest run lacks, with what the run itself says of it."""
    if not of_row:
        return ()
    run, name = max(of_row, key=lambda found: found[0].finished)
    wanted = tuple(dict.fromkeys(source.metric for source in measure.sources))
    said = [note for note in run.rows[name].get("notes") or () if _names_any(str(note), wanted)]
    return (f"{run.folder} has no number for this column", *said)


def _names_any(note: str, metrics: Sequence[str]) -> bool:
    return any(note.startswith(f"no {metric.rpartition('/')[2]}:") for metric in metrics)


def _set_aside(found: Sequence[Candidate], nearest: Sequence[Candidate], used: Mapping[Path, None]) -> tuple[str, ...]:
    """How many runs are in no number, and why."""
    near = {candidate.run.folder for candidate in nearest}
    older = len(near - set(used))
    other = len({candidate.run.folder for candidate in found} - near)
    remarks = []
    if older:
        remarks.append(f"{older} older {'run' if older == 1 else 'runs'} of the same seed set aside")
    if other:
        remarks.append(f"{other} {'run' if other == 1 else 'runs'} further from the paper's protocol set aside")
    return tuple(remarks)


def _measures(run: FinishedRun, measure: Measure) -> bool:
    return run.data.get("data") == measure.data and run.data.get("split") == measure.split


def _is_of(run: FinishedRun, model: ModelOf) -> bool:
    """Whether the run is about the model; a trained one is known by its name alone, public weights by what they are."""
    if run.model.get("trained_as") != model.trained_as:
        return False
    if model.seeds and run.model.get("seed") not in model.seeds:
        return False
    if model.trained_as is not None:
        return True
    pretrained = run.model.get("pretrained")
    return (
        isinstance(pretrained, str)
        and PurePath(pretrained).name in model.pretrained
        and run.model.get("architecture") in model.architecture
        and run.model.get("component", model.component) == model.component
    )


def _rows_of(run: FinishedRun, reducer: ReducerOf) -> list[str]:
    """Names of the rows of a run's comparison that are the reducer's."""
    names = [name for name, about in run.rows.items() if _is_reducer(run, about, reducer)]
    if reducer.own:
        own = reducer.kind + _OF_RUN
        return [name for name in names if name == (own if own in names else reducer.kind)]
    return [name for name in names if not name.endswith(_OF_RUN)] or names


def _is_reducer(run: FinishedRun, about: Mapping[str, Any], reducer: ReducerOf) -> bool:
    if str(about.get("reducer")).split(".")[-2:-1] != [reducer.kind]:
        return False
    settings = about.get("settings") or {}
    if any(settings.get(name) != value for name, value in reducer.settings.items()):
        return False
    if reducer.fit_split is None:
        return True
    fitted_here = about.get("fit_split") == reducer.fit_split and about.get("fit_data") is None
    return fitted_here and _fit_samples(run, settings) == reducer.fit_samples


def _fit_samples(run: FinishedRun, settings: Mapping[str, Any]) -> Any:
    """The number of images a reducer was to be fitted on; ``None`` where that is all there are."""
    asked, there = settings.get("fit_samples"), run.data.get("num_images")
    return None if isinstance(asked, int) and isinstance(there, int) and asked >= there else asked


def _candidates(
    run: FinishedRun, name: str, row: PublishedRow, model: ModelOf, measure: Measure
) -> Iterator[Candidate]:
    """The number of a row in the first place where the run has it; none if it has it nowhere."""
    about = run.rows[name]
    for source in measure.sources:
        value = run.numbers.get(f"{measure.split}/{name}/{source.metric}")
        if value is None or any(run.data.get(key) not in allowed for key, allowed in source.where.items()):
            continue
        drawn = (about.get("settings") or {}).get("seed") if row.reducer.fit_samples is not None else None
        yield Candidate(
            run=run,
            value=measure.scale * value,
            seed=(run.model.get("seed"), drawn),
            deviations=(*_of_model(run, model), *_of_data(run, measure), *_of_source(source, about)),
        )
        return


def _of_model(run: FinishedRun, model: ModelOf) -> Iterator[str]:
    architecture = run.model.get("architecture")
    if architecture not in model.architecture:
        yield f"another architecture than the paper's: {architecture}, not {model.architecture[0]}"


def _of_data(run: FinishedRun, measure: Measure) -> Iterator[str]:
    """What the data differ in from what the paper measured on."""
    warnings = [str(warning) for warning in run.data.get("warnings") or ()]
    yield from warnings
    for key, expected in measure.expects.items():
        found = run.data.get(key, "(not said)")
        found = len(found) if isinstance(found, list) else found
        counted_already = key == "num_images" and run.data.get("limit") is None and warnings
        if found != expected and not counted_already:
            yield f"{measure.data}: {key} is {_said(found)}, under the paper's protocol {_said(expected)}"


def _said(value: Any) -> str:
    if isinstance(value, str):
        return value if value.startswith("(") else f'"{value}"'
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _of_source(source: Source, about: Mapping[str, Any]) -> Iterator[str]:
    if source.note and source.only_protocol in ("", about.get("protocol")):
        yield source.note
