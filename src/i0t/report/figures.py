"""The figures of a report: each function draws prepared data and returns a matplotlib figure.

Shapes: K sampled pairs.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from i0t.report.samples import CosineSample, Projection
from i0t.report.style import (
    IMAGE_COLOR,
    INK,
    MATCHED_COLOR,
    SERIES_COLORS,
    TEXT_COLOR,
    UNMATCHED_COLOR,
    blank_figure,
    new_axes,
)

Points = Sequence[tuple[int, float]]
SMOOTH_ABOVE = 100  # a curve with more points than this gets a running mean drawn over it
_GAP_NAMES = frozenset({"rmg", "centroid_distance", "linear_separability", "gap"})


def history_panels(history: Mapping[str, Points]) -> dict[str, dict[str, Points]]:
    """Sorts the logged values of a training run into the panels that show them.

    Args:
        history: Logged name (``train/loss``, ``val/rmg``) to (step, value) points.

    Returns:
        Panel title to its curves: losses, the gap on the validation data, and the other validation values (those
        within [0, 1] apart from the rest). Panels without a curve are left out; of ``train/`` only losses are shown.
    """
    panels: dict[str, dict[str, Points]] = {
        "Loss": {},
        "Modality gap on validation data": {},
        "Validation scores": {},
        "Other validation values": {},
    }
    for name, raw in history.items():
        points = [(step, value) for step, value in raw if np.isfinite(value)]
        title = _panel_of(name, [value for _, value in points])
        if title is not None and points:
            panels[title][name] = points
    return {title: curves for title, curves in panels.items() if curves}


def _panel_of(name: str, values: Sequence[float]) -> str | None:
    last = name.rsplit("/", 1)[-1]
    if "loss" in last:
        return "Loss"
    if not name.startswith("val"):
        return None
    if last in _GAP_NAMES or "/gap/" in name:
        return "Modality gap on validation data"
    return "Validation scores" if all(0 <= value <= 1 for value in values) else "Other validation values"


def running_mean(values: Sequence[float], window: int) -> np.ndarray:
    """Centred running mean with an odd window that shrinks at both ends.

    Args:
        values: ``(T,)`` values.
        window: Odd number of values averaged.
    """
    padded = np.convolve(np.asarray(values, dtype=float), np.ones(window), mode="same")
    count = np.convolve(np.ones(len(values)), np.ones(window), mode="same")
    return padded / count


def draw_curves(title: str, curves: Mapping[str, Points]) -> Figure:
    """Values against training steps; long noisy curves faintly, with their running mean on top."""
    figure, (axes,) = new_axes(title)
    for index, (name, points) in enumerate(curves.items()):
        steps, values = zip(*points, strict=True)
        color = SERIES_COLORS[index % len(SERIES_COLORS)]
        style = "-" if index < len(SERIES_COLORS) else "--"
        if len(points) > SMOOTH_ABOVE:
            window = len(points) // 50 * 2 + 1
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
            axes.plot(steps, running_mean(values, window), style, color=color, label=f"{name} (mean of {window})")
        else:
            axes.plot(steps, values, style, color=color, label=name, marker="o", markersize=3)
    axes.set_xlabel("training step", fontsize=9, color=INK)
    legend = axes.legend(fontsize=8, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def draw_projection(title: str, projection: Projection, *, limit: float, paired: bool) -> Figure:
    """Both modalities in two dimensions, matched pairs joined by lines.

    Args:
        title: The row's name.
        projection: Coordinates.
        limit: Both axes run from ``-limit`` to ``limit``, so that panels compare.
        paired: Whether image k and text k belong together.
    """
    figure, (axes,) = new_axes(title, width=4.4, height=4.5)
    images, texts = projection.images.numpy(), projection.texts.numpy()
    if paired:
        joins = np.stack([images, texts], axis=1)
        axes.add_collection(LineCollection(list(joins), colors="#6E7781", linewidths=0.5, alpha=0.35))
    axes.scatter(images[:, 0], images[:, 1], s=14, color=IMAGE_COLOR, label="image", linewidths=0, alpha=0.85, zorder=3)
    axes.scatter(
        texts[:, 0], texts[:, 1], s=18, color=TEXT_COLOR, label="text", marker="^", linewidths=0, alpha=0.85, zorder=3
    )
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    labels = [
        f"component {number} ({share:.0%} of the variance)"
        for number, share in enumerate(projection.explained, start=1)
    ]
    axes.set_xlabel(labels[0], fontsize=9, color=INK)
    axes.set_ylabel(labels[1], fontsize=9, color=INK)
    axes.legend(fontsize=8, loc="upper right", framealpha=0.9, edgecolor="none")
    return figure


def draw_cosines(title: str, cosines: CosineSample, *, limits: tuple[float, float], paired: bool) -> Figure:
    """Histograms of image-text cosines, matched and not, with both kinds inside a modality as outlines.

    Args:
        title: The row's name.
        cosines: The sampled cosines.
        limits: Horizontal range shared by all panels.
        paired: Whether the set knows its pairs; otherwise image-text cosines are of any image with any text.
    """
    figure, (axes,) = new_axes(title)
    bins = np.linspace(*limits, 61).tolist()
    if len(cosines.matched):
        axes.hist(
            cosines.matched.numpy(),
            bins,
            density=True,
            color=MATCHED_COLOR,
            alpha=0.75,
            label="image-text, matched",
        )
    if len(cosines.unmatched):
        label = "image-text, not matched" if paired else "image-text, pairs unknown"
        axes.hist(cosines.unmatched.numpy(), bins, density=True, color=UNMATCHED_COLOR, alpha=0.6, label=label)
    outlines = (("image-image", cosines.image_image, IMAGE_COLOR), ("text-text", cosines.text_text, TEXT_COLOR))
    for label, values, color in outlines:
        if len(values):
            axes.hist(values.numpy(), bins, density=True, histtype="step", color=color, linewidth=1.1, label=label)
    axes.set_xlim(*limits)
    axes.set_yticks([])
    axes.set_xlabel("cosine similarity", fontsize=9, color=INK)
    axes.set_ylabel("density", fontsize=9, color=INK)
    axes.set_ylim(top=1.25 * axes.get_ylim()[1])  # the legend stands above the bars, not on them
    axes.legend(fontsize=8, frameon=False, loc="upper center", ncols=2, borderaxespad=0)
    return figure


def draw_examples(examples: Sequence[tuple[np.ndarray, str]], *, columns: int = 4) -> Figure:
    """A grid of images with their captions below.

    Args:
        examples: ``(H, W, 3)`` uint8 image and caption, each.
        columns: Images side by side.
    """
    rows = -(-len(examples) // columns)
    figure = blank_figure(2.2 * columns, 2.5 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(left=0.02, right=0.98, bottom=0.2 / rows, top=0.98, wspace=0.1, hspace=0.3)
    for axes in grid.flat:
        axes.axis("off")
    for axes, (image, caption) in zip(grid.flat, examples, strict=False):
        axes.imshow(image, interpolation="nearest" if max(image.shape) <= 64 else "antialiased")
        axes.set_title(wrap_caption(caption), y=-0.05, pad=0, va="top", fontsize=8, color=INK, parse_math=False)
    return figure


def wrap_caption(caption: str, *, width: int = 30, lines: int = 3) -> str:
    """The caption broken into at most ``lines`` lines; what is cut off is shown by an ellipsis."""
    # MAD joins its words by hyphens; break_on_hyphens (the default) breaks there.
    return "\n".join(textwrap.wrap(caption, width=width, max_lines=lines, placeholder=" …"))
