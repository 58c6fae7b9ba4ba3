"""The paper's tables as data: what is printed in which row, and which run fills it.

Every number stands in ``tables/table_<n>.yaml``; ``tables/measures.yaml`` says what the columns are.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import yaml

TABLE_NUMBERS = (1, 2, 3, 4, 5, 7, 8, 9)

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast where libyaml is there


@dataclass(frozen=True, kw_only=True)
class Source:
    """A number of ``metrics.json`` that a column may be read from.

    Attributes:
        metric: Its name behind split and row, e.g. ``gap/centroid_distance``.
        where: Facts that the run's data must have, each with the values that are allowed; ``None`` is one.
        note: Why this is not quite the paper's number; empty where it is.
        only_protocol: The note holds for rows of this protocol only (``transductive``); empty: for all.
    """

    metric: str
    where: Mapping[str, list[Any]] = field(default_factory=dict)
    note: str = ""
    only_protocol: str = ""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What a column says.

    Attributes:
        data: Name of the data set that is measured.
        split: Its split.
        sources: Where the number stands, the first that a run has.
        expects: Facts of the run's data under the paper's protocol.
        scale: From the run's number to the printed one (100 for per cent).
        note: What to know of the published column.
    """

    data: str
    split: str
    sources: tuple[Source, ...]
    expects: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: its header in the paper, what it says, and with how many decimals."""

    header: str
    measure: Measure
    decimals: int


@dataclass(frozen=True, kw_only=True)
class ModelOf:
    """Which model a row is about: one that a run trained, or one with public weights.

    Attributes:
        architecture: Names of the architecture, any of them.
        trained_as: Name of the training run.
        pretrained: Tags or file names of public weights, any of them.
        component: Config of ``conf/model`` that builds it, where the architecture has several.
        seeds: Of training, any of them; empty: all.
    """

    architecture: tuple[str, ...]
    trained_as: str | None = None
    pretrained: tuple[str, ...] = ()
    component: str | None = None
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReducerOf:
    """Which row of a run's comparison it is.

    Attributes:
        kind: Stem of the reducer's config and module.
        own: The reducer that the model was trained with, as its checkpoint holds it.
        fit_split: Split of the measured data that it was fitted on; ``None`` says nothing.
        fit_samples: On how many images; ``None``: all.
        settings: Arguments it was made with.
    """

    kind: str
    own: bool = False
    fit_split: str | None = None
    fit_samples: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of a table.

    Attributes:
        name: As printed.
        model: Of the runs that fill it.
        reducer: Of the runs that fill it.
        published: Printed number by header; NaN where NaN is printed; ``None`` for the whole row: not known.
        notes: What to know of the printed numbers, by header; of the whole row under every header.
    """

    name: str
    model: ModelOf
    reducer: ReducerOf
    published: Mapping[str, float] | None
    notes: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the paper."""

    number: int
    title: str
    columns: tuple[Column, ...]
    rows: tuple[PublishedRow, ...]
    notes: tuple[str, ...]


def load_table(number: int) -> Table:
    """Reads a table from the package.

    Args:
        number: One of :data:`TABLE_NUMBERS`.
    """
    assert number in TABLE_NUMBERS, number
    measures = _measures()
    node = _read(f"table_{number}")
    columns = tuple(
        Column(header=header, measure=measures[column["measure"]], decimals=column["decimals"])
        for header, column in node["columns"].items()
    )
    assert node["table"] == number, f"table_{number}.yaml says table {node['table']}"
    return Table(
        number=number,
        title=node["title"],
        columns=columns,
        rows=tuple(_row(row, columns) for row in node["rows"]),
        notes=tuple(node.get("notes", ())),
    )


def _read(stem: str) -> dict[str, Any]:
    text = (resources.files("i0t.paper") / "tables" / f"{stem}.yaml").read_text(encoding="utf-8")
    content = yaml.load(text, Loader=_LOADER)
    assert isinstance(content, dict), stem
    return content


@functools.cache
def _measures() -> dict[str, Measure]:
    return {name: _measure(node) for name, node in _read("measures").items()}


def _measure(node: Mapping[str, Any]) -> Measure:
    sources = tuple(Source(**source) for source in node["sources"])
    return Measure(**{**node, "sources": sources})


def _row(node: Mapping[str, Any], columns: tuple[Column, ...]) -> PublishedRow:
    cell_notes = node.get("cell_notes", {})
    of_row = (node["note"],) if "note" in node else ()
    notes = {}
    for column in columns:
        of_column = (column.measure.note,) if column.measure.note else ()
        of_cell = (cell_notes[column.header],) if column.header in cell_notes else ()
        notes[column.header] = (*of_column, *of_row, *of_cell)
    lists = ("architecture", "pretrained", "seeds")
    model: dict[str, Any] = {key: tuple(value) if key in lists else value for key, value in node["model"].items()}
    return PublishedRow(
        name=node["row"],
        model=ModelOf(**model),
        reducer=ReducerOf(**node["reducer"]),
        published=node.get("published"),
        notes=notes,
    )
