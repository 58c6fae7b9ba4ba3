"""One number of a sweep's jobs against others: how performance goes with the gap, say, by strength and checkpoint."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from i0t.report.detail_table import Cell, format_cell
from i0t.report.style import INK, SERIES_COLORS, axes_grid, png_bytes
from i0t.report.table import default_headers
from i0t.report.table_formats import markdown_table
from i0t.report.tradeoff_points import ROW, TradeoffPoint, tradeoff_points
from i0t.report.whole_files import write_whole

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_NAMED_POINTS = 12  # a line with more points than this does not name them
_CLOSE = 25  # pixels: nearer points do not get the same name twice
_LONGEST_NAME = 36


def write_tradeoff(
    jobs: Sequence[Mapping[str, Any]],
    folder: Path,
    *,
    x: str,
    y: str | Sequence[str],
    colour: str,
    order: str | None = None,
    row: str | None = None,
    over: Sequence[str] = ("seed",),
    name: str = "tradeoff",
) -> list[Path]:
    """Writes ``<name>.png``, ``.csv`` and ``.md``, each whole or not at all.

    Args:
        jobs: As :func:`i0t.report.jobs.read_jobs` reads them.
        folder: Where to.
        x: Number of the horizontal axis, without split and row: ``gap/centroid_distance``.
        y: One number, or one per picture: ``retrieval/t2i_r1``.
        colour: What the jobs vary: a setting of the reducer (``strength``), an override or a path in the config
            (``data.batch_size``) or in ``metrics.json`` (``model.trained_as``).
        order: The key along which the points of a colour are joined and named; by default they are joined by x.
        row: The row of every job that is drawn; by default all but those that fit nothing,
            which are drawn only where rows are joined (``order="row"``).
        over: Last words of the override keys in which jobs may differ and yet be one point, of which mean and standard
            deviation are taken: ``("seed", "ckpt_path")`` for checkpoints that differ in their training seed.
        name: Stem of the files.

    Returns:
        The files.

    Raises:
        ValueError: If no job has these numbers, or a key is none of theirs.
    """
    keys = [y] if isinstance(y, str) else list(y)
    points = tradeoff_points(jobs, x=x, y=keys, colour=colour, order=order, row=row, over=over)
    header, lines = _table(points, x=x, y=keys, colour=colour, order=order)
    cells = [list(map(format_cell, line)) for line in lines]
    contents: dict[str, str | bytes] = {
        "png": png_bytes(draw_tradeoff(points, x=x, y=keys, colour=colour, order=order)),
        "csv": _csv(header, lines),
        "md": f"{markdown_table(header, cells)}\n\n{_note(points)}\n",
    }
    return [write_whole(folder / f"{name}.{ending}", content) for ending, content in contents.items()]


def draw_tradeoff(
    points: Sequence[TradeoffPoint], *, x: str, y: Sequence[str], colour: str, order: str | None = None
) -> Figure:
    """A picture per vertical number, one line per colour and row.

    Args:
        points: From :func:`tradeoff_points`.
        x: Name of the horizontal number.
        y: Names of the vertical ones.
        colour: Name of the key that colours.
        order: Name of the key along which points are joined.
    """
    y = [key for key in y if any(key in point.y for point in points)]
    figure, grid = axes_grid(len(y), columns=min(2, len(y)), width=5.6, height=4.2, share_y=False)
    colours = _colours(list(dict.fromkeys(_name(p.colour) for p in points)), points)
    rows = list(dict.fromkeys(p.row for p in points))
    for axes, key in zip(grid, y, strict=True):
        axes.set_xlabel(_axis_label(x), fontsize=9, color=INK)
        axes.set_ylabel(_axis_label(key), fontsize=9, color=INK)
        axes.margins(0.08)
        for line in _lines_of(points):
            shown = [p for p in line if key in p.y]
            label = ", ".join(_names_of_line(line[0], points))
            marker = _MARKERS[rows.index(line[0].row) % len(_MARKERS)]
            _draw_line(axes, shown, key, colours[_name(line[0].colour)], marker, label)
        _name_points(axes, _lines_of(points), key)
    legend = grid[0].legend(title=_words(colour), fontsize=7.5, title_fontsize=8, framealpha=0.85, edgecolor="none")
    for text in [*legend.get_texts(), legend.get_title()]:
        text.set_parse_math(False)
    named = "" if order is None else f"numbers at points: {_words(order)}; "
    grid[0].set_title(named + _bars(points), fontsize=8, color=INK, loc="left", parse_math=False)
    return figure


def _names_of_line(first: TradeoffPoint, points: Sequence[TradeoffPoint]) -> list[str]:
    """The value of the colour; then the row and the setting, where there are several (of this colour and row)."""
    alike = [point for point in points if _name(point.colour) == _name(first.colour) and point.row == first.row]
    names = [_name(first.colour)]
    if len({point.row for point in points}) > 1 and first.order != first.row:
        names.append(first.row)
    if len({point.setting for point in alike}) > 1:
        names.append(_name(first.setting))
    return list(dict.fromkeys(names))


def _draw_line(axes: Axes, points: Sequence[TradeoffPoint], key: str, color: str, marker: str, label: str) -> None:
    xs, ys = [p.x.mean for p in points], [p.y[key].mean for p in points]
    axes.plot(xs, ys, marker=marker, markersize=5, linewidth=1.2, color=color, label=label)
    for point in points:
        across, up = point.x, point.y[key]
        if across.low is not None and across.high is not None:
            axes.plot([across.low, across.high], [up.mean, up.mean], color=color, linewidth=0.9, alpha=0.55)
        if up.low is not None and up.high is not None:
            axes.plot([across.mean, across.mean], [up.low, up.high], color=color, linewidth=0.9, alpha=0.55)


def _name_points(axes: Axes, lines: Sequence[Sequence[TradeoffPoint]], key: str) -> None:
    """Values of the order beside the points; where points of several lines meet, a value is written once."""
    axes.autoscale_view()
    named: list[tuple[str, float, float]] = []
    for line in lines:
        for point in line if len(line) <= _NAMED_POINTS else ():
            if point.order is None or key not in point.y:
                continue
            name, place = _name(point.order), (point.x.mean, point.y[key].mean)
            right, up = axes.transData.transform(place)
            if all(name != other or abs(right - x) > _CLOSE or abs(up - y) > _CLOSE for other, x, y in named):
                axes.annotate(name, place, (4, 4), textcoords="offset points", fontsize=7, color=INK, parse_math=False)
                named.append((name, right, up))


def _lines_of(points: Sequence[TradeoffPoint]) -> list[list[TradeoffPoint]]:
    lines: dict[tuple[str, str, str], list[TradeoffPoint]] = {}
    for point in points:
        row = "" if point.order == point.row else point.row  # rows may be what is joined
        lines.setdefault((_name(point.colour), row, point.setting), []).append(point)
    return list(lines.values())


def _colours(names: Sequence[str], points: Sequence[TradeoffPoint]) -> dict[str, str]:
    """Numbers get an ordered scale, which colour-blind readers see as one; words get distinct colours."""
    if len(names) > 2 and all(isinstance(p.colour, (int, float)) for p in points):
        scale = colormaps["viridis"]
        return {name: to_hex(scale(0.88 * index / (len(names) - 1))) for index, name in enumerate(names)}
    return {name: SERIES_COLORS[index % len(SERIES_COLORS)] for index, name in enumerate(names)}


def _name(value: Any) -> str:
    """A value as a legend shows it; of a long path the end."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST_NAME else f"…{text[1 - _LONGEST_NAME :]}"


def _words(key: str) -> str:
    """The last words of a key: ``compare.mine.fit_samples`` is ``fit samples``."""
    return key.rsplit(".", 1)[-1].replace("_", " ")


def _axis_label(key: str) -> str:
    header = default_headers([key]).get(key)
    return key if header is None else f"{header}  ({key})"


def _bars(points: Sequence[TradeoffPoint]) -> str:
    """What the bars are, in words."""
    counts = {p.num_jobs for p in points}
    if counts == {1}:
        return "bars: 95 % bootstrap intervals" if any(p.x.low is not None for p in points) else "single jobs"
    few, many = min(counts), max(counts)
    return f"bars: ± sd over {few if few == many else f'{few} to {many}'} seeds"


def _table(
    points: Sequence[TradeoffPoint], *, x: str, y: Sequence[str], colour: str, order: str | None
) -> tuple[list[str], list[list[Cell]]]:
    varied = {key: at for at, key in enumerate((colour, order)) if key not in (None, ROW)}
    numbers = [f"{key}{suffix}" for key in (x, *y) for suffix in ("", " low", " high")]
    lines: list[list[Cell]] = []
    for p in points:
        cells: list[Cell] = [
            p.row,
            *(_cell((p.colour, p.order)[at]) for at in varied.values()),
            p.setting,
            p.num_jobs,
        ]
        for spread in (p.x, *(p.y.get(key) for key in y)):
            cells += [None] * 3 if spread is None else [spread.mean, spread.low, spread.high]
        lines.append(cells)
    return ["row", *varied, "setting", "jobs", *numbers], lines


def _cell(value: Any) -> Cell:
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _note(points: Sequence[TradeoffPoint]) -> str:
    return (
        "low and high: mean minus and plus the standard deviation over jobs that differ in their seed; for a single "
        f"job its 95 % bootstrap interval over images. {len(points)} points."
    )


def _csv(header: Sequence[str], lines: Sequence[Sequence[Cell]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(lines)
    return text.getvalue()
