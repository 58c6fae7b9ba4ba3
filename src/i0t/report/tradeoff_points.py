"""The points of a figure over the jobs of a sweep: one number against others, along a varied key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from i0t.report.jobs import JobRow, Spread, rows_of, spread_of

ROW = "row"
_UNFITTED = "none"


class TradeoffPoint(NamedTuple):
    """Jobs that differ only in what is averaged over: their seed.

    Attributes:
        row: Name of the row.
        colour: Value of the key that colours.
        order: Value of the key along which points of one colour are joined; ``None`` without such a key.
        setting: What else its jobs override, such as ``data=coco``: points of different settings are not joined.
        num_jobs: How many jobs.
        x: Of the horizontal axis.
        y: Of the vertical axes, by the name of the number; those that the jobs have.
    """

    row: str
    colour: Any
    order: Any
    setting: str
    num_jobs: int
    x: Spread
    y: Mapping[str, Spread]


def tradeoff_points(
    jobs: Sequence[Mapping[str, Any]],
    *,
    x: str,
    y: Sequence[str],
    colour: str,
    order: str | None = None,
    row: str | None = None,
    over: Sequence[str] = ("seed",),
) -> list[TradeoffPoint]:
    """The points, by colour and then along the order; see :func:`write_tradeoff`."""
    every = row is None and order == ROW  # before and after
    rows = [r for r in rows_of(jobs) if every or (r.name == row if row else r.about.get("protocol") != _UNFITTED)]
    having = [r for r in rows if x in r.numbers and any(key in r.numbers for key in y)]
    if not having:
        known = sorted({key for r in rows for key in r.numbers})
        raise ValueError(
            f"no {'row' if row is None else f'row {row!r}'} of {len(jobs)} jobs has {x} and one of {', '.join(y)}; "
            f"there are {', '.join(known) or 'no numbers'}"
        )
    for key in filter(None, (colour, order)):
        if all(r.value_of(key) is None for r in having):
            raise ValueError(
                f"the jobs do not say {key!r}; name a setting of the reducer (strength), an override, or a path in "
                "their config (data.batch_size) or metrics.json (model.trained_as)"
            )
    groups: dict[tuple[Any, ...], list[JobRow]] = {}
    for r in having:
        values = (r.value_of(colour), None if order is None else r.value_of(order))
        groups.setdefault((*r.identity(without=over), *map(str, values)), []).append(r)
    settings = [_setting(members[0], colour, order, over) for members in groups.values()]
    shared = set.intersection(*map(set, settings))  # Hydra writes what all jobs override into each of them
    told = [", ".join(f"{key}={value}" for key, value in setting if (key, value) not in shared) for setting in settings]
    points = [
        _point(members, x, y, colour, order, setting) for members, setting in zip(groups.values(), told, strict=True)
    ]
    return sorted(
        points, key=lambda p: (_rank(p.colour), p.row, p.setting, _rank(p.x.mean if order is None else p.order))
    )


def _setting(row: JobRow, colour: str, order: str | None, over: Sequence[str]) -> list[tuple[str, str]]:
    """The overrides that neither colour nor order nor repetition stand for; along x alone, those of the data."""
    named = [key.rsplit(".", 1)[-1] for key in (colour, order) if key is not None]
    others = [(key, value) for key, value in row.identity(without=[*over, *named]) if key != "row"]
    if order is None:
        others = [(key, value) for key, value in others if key.partition(".")[0] == "data"]
    return others


def _point(
    rows: Sequence[JobRow], x: str, y: Sequence[str], colour: str, order: str | None, setting: str
) -> TradeoffPoint:
    def spread(key: str) -> Spread | None:
        return spread_of(rows, lambda row: row.numbers.get(key), key)

    across, first = spread(x), rows[0]
    assert across is not None
    found = {key: value for key in y if (value := spread(key)) is not None}
    along = None if order is None else first.value_of(order)
    return TradeoffPoint(first.name, first.value_of(colour), along, setting, len(rows), across, found)


def _rank(value: Any) -> tuple[int, float, str]:
    """Numbers in their order, then words in theirs."""
    if isinstance(value, (int, float)):
        return (0, float(value), "")
    return (1, 0.0, "" if value is None else str(value))
