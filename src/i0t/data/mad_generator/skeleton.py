"""Medial axis of a binary digit, and what is measured along it (Morpho-MNIST, Castro et al. 2019).

scikit-image's `medial_axis` rebuilds a table of 512 neighbourhoods on every call, which is nine tenths of the time that
MAD's script takes. Here the table is kept, the distance transform sees the digit's bounding box only, and the visiting
order comes from one integer key per pixel. The result is scikit-image's to the last pixel.

Shapes: S skeleton pixels, in row-major order; C centres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import atan2

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage
from skimage.morphology import _skeletonize, disk

from i0t.data.mad_generator.factors import MorphologyParameters

_EIGHT_CONNECTED = np.ones((3, 3), dtype=int)
_ANGLE_WINDOW = 2
"""Half side, in low-resolution pixels, of the window whose second moments give the local direction of the stroke."""


@lru_cache(maxsize=1)
def _neighbourhood_tables() -> tuple[np.ndarray, np.ndarray]:
    """Per 3 x 3 neighbourhood: must its centre be kept, and how many of its pixels are background.

    A pixel is kept if removing it changes the number of connected components, or if fewer than three pixels are set.
    """
    patterns = ((np.arange(512)[:, None] >> np.arange(9)) & 1).astype(bool).reshape(512, 3, 3)
    keep = np.zeros(512, dtype=np.uint8)
    for index in np.flatnonzero(patterns[:, 1, 1]):
        without_centre = patterns[index & ~16]
        components = ndimage.label(patterns[index], _EIGHT_CONNECTED)[1]
        keep[index] = patterns[index].sum() < 3 or components != ndimage.label(without_centre, _EIGHT_CONNECTED)[1]
    return keep, 9 - patterns.sum(axis=(1, 2))


@lru_cache(maxsize=8)
def disk_offsets(radius: int) -> np.ndarray:
    """``(K, 2)`` row and column offsets of the pixels of a digital disk."""
    return np.argwhere(disk(radius)) - radius


@dataclass(frozen=True)
class MedialAxis:
    """Skeleton of a binary image and its Euclidean distance map.

    Attributes:
        rows: ``(S,)`` rows of the skeleton's pixels.
        columns: ``(S,)`` their columns.
        distance: ``(S,)`` their distance to the background, in working pixels.
        box: Bounding box of the ink with one line of background around it, within the frame; at least 3 x 3.
        box_distance: Distance map within ``box``; it is zero outside.
        frame: Height and width of the image.
        parameters: Scale and pruning radius.
    """

    rows: np.ndarray
    columns: np.ndarray
    distance: np.ndarray
    box: tuple[slice, slice]
    box_distance: np.ndarray
    frame: tuple[int, int]
    parameters: MorphologyParameters

    @property
    def mean_thickness(self) -> float:
        """Mean thickness of the strokes, in low-resolution pixels."""
        return float(2.0 * np.mean(self.distance) / self.parameters.scale)

    @cached_property
    def _padding(self) -> int:
        return max(int(self.parameters.prune * self.parameters.scale), _ANGLE_WINDOW * self.parameters.scale, 1)

    @cached_property
    def _width(self) -> int:
        return self.frame[1] + 2 * self._padding

    @cached_property
    def _flat_index(self) -> np.ndarray:
        return (self.rows + self._padding) * self._width + self.columns + self._padding

    def _flat_image(self) -> np.ndarray:
        image = np.zeros((self.frame[0] + 2 * self._padding) * self._width, dtype=np.uint8)
        image[self._flat_index] = 1
        return image

    def _flat_offsets(self, offsets: np.ndarray) -> np.ndarray:
        return offsets[:, 0] * self._width + offsets[:, 1]

    @cached_property
    def fracture_sites(self) -> np.ndarray:
        """``(K,)`` indices of the skeleton pixels away from stroke tips, then forks; all of them if none is.

        Disks are erased around pixels with one neighbour; then, on what is left, around those with three.
        """
        image = self._flat_image()
        around = self._flat_offsets(np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]))
        brush = self._flat_offsets(disk_offsets(int(self.parameters.prune * self.parameters.scale)))
        for num_neighbours in (1, 3):
            left = self._flat_index[image[self._flat_index] > 0]
            counts = image[left[:, None] + around].sum(axis=1)
            image[left[counts == num_neighbours][:, None] + brush] = 0
        sites = np.flatnonzero(image[self._flat_index])
        return sites if len(sites) else np.arange(len(self.rows))

    def angles(self, sites: np.ndarray) -> list[float]:
        """Direction of the stroke at some of the skeleton's pixels: major axis of the skeleton's second moments.

        Args:
            sites: ``(C,)`` indices of skeleton pixels.

        Returns:
            C angles in radians, from the column axis towards the row axis.
        """
        reach = _ANGLE_WINDOW * self.parameters.scale
        offsets, weights = _moment_weights(reach)
        window = self._flat_image()[self._flat_index[sites][:, None] + self._flat_offsets(offsets)]
        # Sums of integers, hence exact in any order.
        moments = window.astype(np.float64) @ weights
        return [_major_axis(*row) for row in moments.tolist()]


@lru_cache(maxsize=4)
def _moment_weights(reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Offsets of a window's pixels and the weights of its moments of order 0 to 2."""
    y, x = (axis.ravel() for axis in np.indices((2 * reach + 1, 2 * reach + 1)))
    weights = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1).astype(np.float64)
    return np.stack([y, x], axis=1) - reach, weights


def _major_axis(m00: float, m10: float, m01: float, m20: float, m11: float, m02: float) -> float:
    """Orientation of the major axis from raw moments; x is the column, y the row."""
    x, y = m10 / m00, m01 / m00
    return 0.5 * atan2(2.0 * (m11 / m00 - x * y), (m20 / m00 - x * x) - (m02 / m00 - y * y))


def medial_axis(ink: np.ndarray, tie_break: int, parameters: MorphologyParameters) -> MedialAxis:
    """Skeleton and distance map of a binary image.

    Pixels are visited by distance to the background, then by the number of background neighbours, then at random: the
    last does change the skeleton, so the seed is part of the definition. An image without background has the
    distances that SciPy gives it, as in scikit-image.

    Args:
        ink: ``(H, W)`` bool with at least one pixel set.
        tie_break: Seed of the random order; equals ``skimage.morphology.medial_axis(ink, rng=tie_break)``.
        parameters: Kept in the result.
    """
    box = (_extent(np.any(ink, axis=1)), _extent(np.any(ink, axis=0)))
    inside = np.ascontiguousarray(ink[box])
    distance = ndimage.distance_transform_edt(inside)
    keep, background = _neighbourhood_tables()
    result = inside.astype(np.uint8)
    rows, columns = (np.ascontiguousarray(axis) for axis in np.nonzero(inside))
    corner = background[_skeletonize._table_lookup_index(result)[rows, columns]]
    squared = np.rint(distance[rows, columns] ** 2).astype(np.int64)
    # One unique integer per pixel sorts as (distance, cornerness, tie-breaker) does.
    count = len(rows)
    key = (squared * 16 + corner) * count + np.random.default_rng(tie_break).permutation(count)
    _skeletonize._skeletonize_loop(result, rows, columns, np.argsort(key).astype(np.int32), keep)
    rows, columns = np.nonzero(result)
    return MedialAxis(
        rows=rows + box[0].start,
        columns=columns + box[1].start,
        distance=distance[rows, columns],
        box=box,
        box_distance=distance,
        frame=(ink.shape[0], ink.shape[1]),
        parameters=parameters,
    )


def _extent(occupied: ArrayLike) -> slice:
    """Occupied lines and one more on each side, within the frame; at least three, which the table lookup needs."""
    lines, size = np.flatnonzero(np.asarray(occupied)), np.size(occupied)
    start, stop = max(int(lines[0]) - 1, 0), min(int(lines[-1]) + 2, size)
    start = max(min(start, size - 3), 0)
    return slice(start, max(stop, start + 3))
