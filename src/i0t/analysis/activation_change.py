"""Mean activations before and after a gap reducer, as numbers, a table and a picture.

Shapes: D embedding width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from i0t.analysis.activations import ActivationProfile, robust_z_scores
from i0t.analysis.colors import AXIS_COLOR, IMAGE_COLOR, INK, TEXT_COLOR
from i0t.metrics.functional.activations import ActivationPeak

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOVED = 0.01  # a peak that the reducer moved by less than this is drawn once


@dataclass(frozen=True)
class ActivationChange:
    """What a gap reducer does to the mean of every dimension.

    Attributes:
        before: The means of the embeddings as they are.
        after: Those that the reducer leaves.
        labelled_peaks: How many peaks per modality the picture labels, the largest first.
    """

    before: ActivationProfile
    after: ActivationProfile
    labelled_peaks: int = 3

    @property
    def title(self) -> str:
        """Heading in the report."""
        return "Which dimensions carry the gap"

    def as_json(self) -> dict[str, Any]:
        """All D means of both modalities (the first is dimension 1) and every peak, before and after."""
        return {
            stage: {
                "image": _modality(profile.image_means, profile.image_peaks),
                "text": _modality(profile.text_means, profile.text_peaks),
            }
            for stage, profile in (("before", self.before), ("after", self.after))
        }

    def header(self) -> tuple[str, ...]:
        """Names of the table's columns."""
        return ("modality", "dimension (from 1)", "mean before", "mean after", "peak")

    def lines(self) -> list[tuple[str | int | float | None, ...]]:
        """A line per modality and dimension, the largest absolute mean before or after first."""
        lines: list[tuple[str | int | float | None, ...]] = []
        modalities = (
            ("image", self.before.image_means, self.after.image_means, self.before.image_peaks, self.after.image_peaks),
            ("text", self.before.text_means, self.after.text_means, self.before.text_peaks, self.after.text_peaks),
        )
        for name, before, after, peaks_before, peaks_after in modalities:
            was = {peak.index_from_0 for peak in peaks_before}
            stays = {peak.index_from_0 for peak in peaks_after}
            for dimension, means in enumerate(zip(before.tolist(), after.tolist(), strict=True)):
                lines.append((name, dimension + 1, *means, _peak_word(dimension in was, dimension in stays)))
        return sorted(lines, key=lambda line: -max(abs(float(mean)) for mean in line[2:4] if mean is not None))

    def draw(self, axes: Axes) -> None:
        """Bars of the means after the reducer; a hollow circle where a peak was before, if the reducer moved it."""
        modalities = (
            ("image", self.before.image_peaks, self.after.image_means, self.after.image_peaks, IMAGE_COLOR, -0.2),
            ("text", self.before.text_peaks, self.after.text_means, self.after.text_peaks, TEXT_COLOR, 0.2),
        )
        axes.axhline(0, color=AXIS_COLOR, linewidth=0.7)
        gone: list[ActivationPeak] = []
        for name, peaks_before, means, peaks_after, color, offset in modalities:
            bars = _bars(means, offset)
            axes.plot(*bars, color=color, linewidth=max(0.7, min(3.0, 250 / len(means))), label=f"{name} mean")
            for peak in peaks_after[: self.labelled_peaks]:
                _name_peak(axes, peak, len(means))
            moved = [p for p in peaks_before if abs(p.mean - float(means[p.index_from_0])) > _MOVED]
            for peak in moved[: self.labelled_peaks]:
                axes.plot(peak.index_from_1, peak.mean, "o", color=color, fillstyle="none", markersize=5)
                _name_peak(axes, peak, len(means))
            gone += moved
        if gone:
            axes.plot([], [], "o", color=INK, fillstyle="none", markersize=5, label="before the reducer")
        self._finish(axes)

    def _finish(self, axes: Axes) -> None:
        """Labels, room for the names of peaks, and a sentence where there is no peak."""
        axes.margins(x=0.02, y=0.22)
        axes.set_xlabel("dimension, counting from 1", fontsize=9, color=INK)
        axes.set_ylabel("mean activation", fontsize=9, color=INK)
        axes.legend(fontsize=8, framealpha=0.9, edgecolor="none", loc="lower right")
        if not self.after.image_peaks and not self.after.text_peaks:
            largest = max(float(means.abs().max()) for means in (self.after.image_means, self.after.text_means))
            note = f"no peak after the reducer; largest absolute mean {largest:.3f}"
            axes.text(0.98, 0.97, note, transform=axes.transAxes, fontsize=8, ha="right", va="top", color=INK)


def _bars(means: Tensor, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """A vertical stroke per dimension as one broken line, which is drawn ten times as fast as many."""
    places = np.repeat(np.arange(1, len(means) + 1) + offset, 3)
    heights = np.zeros((len(means), 3))
    heights[:, 1] = means.cpu().numpy()
    heights[:, 2] = np.nan
    return places, heights.ravel()


def _modality(means: Tensor, peaks: Sequence[ActivationPeak]) -> dict[str, Any]:
    scores = robust_z_scores(means).tolist()
    return {
        "means": means.tolist(),
        "peaks": [
            {
                "index_from_0": peak.index_from_0,
                "index_from_1": peak.index_from_1,
                "mean": peak.mean,
                "robust_z": scores[peak.index_from_0],
            }
            for peak in peaks
        ],
    }


def _peak_word(before: bool, after: bool) -> str:
    if before and after:
        return "before and after"
    return "before" if before else "after" if after else ""


def _name_peak(axes: Axes, peak: ActivationPeak, dim: int) -> None:
    """Dimension and mean, on the side where there is room, so that names near the edge are not cut off."""
    left = peak.index_from_1 > 0.7 * dim
    axes.annotate(
        f"{peak.index_from_1}: {peak.mean:+.2f}".replace("-", "\N{MINUS SIGN}"),
        (peak.index_from_1, peak.mean),
        xytext=(-5 if left else 5, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        fontsize=8,
        color=INK,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.6},
    )
