"""MAD's images one at a time with scikit-image, operation by operation: the yardstick of the fast generator.

Written from the definitions (Morpho-MNIST, Castro et al. 2019; arXiv 2404.07983), as a plain user of scikit-image would
write it. It computes one variant per call, as MAD's script does, and consumes the same `Draws` as the fast path.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from skimage import draw, morphology, transform

from i0t.data.mad_generator import VARIANTS, Draws, MorphologyParameters


def binarise(image: np.ndarray) -> np.ndarray:
    """Ink is what reaches the middle between least and greatest value; an image of zeros has no ink."""
    values = image.astype(np.uint8)
    low, high = float(values.min()), float(values.max())
    return (values >= low + (high - low) * 0.5) & (values > 0)


class WorkingImage:
    """A binary image at the working resolution whose medial axis is found when it is asked for."""

    def __init__(self, digit: np.ndarray, parameters: MorphologyParameters, tie_break: int) -> None:
        self.parameters = parameters
        self.tie_break = tie_break
        expanded = transform.pyramid_expand(digit, upscale=parameters.scale, order=3)
        self.replace((255.0 * expanded).astype(np.uint8))

    def replace(self, image: np.ndarray) -> None:
        """Binarise anew and forget the medial axis."""
        self.ink = binarise(image)
        self._axis: tuple[np.ndarray, np.ndarray] | None = None

    def axis(self) -> tuple[np.ndarray, np.ndarray]:
        """Skeleton and distance map, ``(H, H)`` each."""
        if self._axis is None:
            self._axis = morphology.medial_axis(self.ink, return_distance=True, rng=self.tie_break)
        return self._axis

    def mean_thickness(self) -> float:
        """Mean thickness of the strokes, in low-resolution pixels."""
        skeleton, distance = self.axis()
        return float(2.0 * np.mean(distance[skeleton]) / self.parameters.scale)


def change_thickness(image: WorkingImage, kind: str) -> None:
    parameters = image.parameters
    radius = int(parameters.amount * parameters.scale * image.mean_thickness() / 2.0)
    operation = morphology.dilation if kind == "thickening" else morphology.erosion
    image.replace(operation(image.ink, morphology.disk(radius)))


def swell(image: WorkingImage, position: float) -> None:
    parameters = image.parameters
    pixels = np.argwhere(image.axis()[0])
    centre = pixels[int(position * len(pixels))][::-1]
    radius = (parameters.radius * np.sqrt(image.mean_thickness()) / 2.0) * parameters.scale

    def inverse_map(xy: np.ndarray) -> np.ndarray:
        offset = xy - centre
        distance = np.hypot(*offset.T)
        weight = (distance / radius) ** (parameters.strength - 1)
        weight[distance > radius] = 1.0
        return centre + weight[:, None] * offset

    # The default interpolation of a binary image is the nearest neighbour, zero outside.
    image.replace(transform.warp(image.ink, inverse_map))


def erase_around(skeleton: np.ndarray, num_neighbours: int, radius: int) -> np.ndarray:
    ring = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    counts = ndimage.convolve(skeleton.astype(int), ring, mode="constant") * skeleton
    padded = np.pad(skeleton, radius)
    brush = ~morphology.disk(radius).astype(bool)
    for row, column in np.argwhere(counts == num_neighbours):
        padded[row : row + 2 * radius + 1, column : column + 2 * radius + 1] &= brush
    return padded[radius : padded.shape[0] - radius, radius : padded.shape[1] - radius]


def stroke_angle(skeleton: np.ndarray, row: int, column: int, reach: int) -> float:
    window = np.pad(skeleton, reach)[row : row + 2 * reach + 1, column : column + 2 * reach + 1].astype(float)
    y, x = np.mgrid[: window.shape[0], : window.shape[1]]
    mass = window.sum()
    x_mean, y_mean = float((x * window).sum() / mass), float((y * window).sum() / mass)
    xx = float((x * x * window).sum() / mass) - x_mean * x_mean
    xy = float((x * y * window).sum() / mass) - x_mean * y_mean
    yy = float((y * y * window).sum() / mass) - y_mean * y_mean
    return 0.5 * math.atan2(2.0 * xy, xx - yy)


def fracture(image: WorkingImage, positions: np.ndarray) -> None:
    parameters = image.parameters
    skeleton, distance = image.axis()
    prune = int(parameters.prune * parameters.scale)
    pruned = erase_around(erase_around(skeleton, 1, prune), 3, prune)
    pixels = np.argwhere(pruned if pruned.any() else skeleton)
    radius = math.ceil((parameters.thickness * parameters.scale - 1) / 2)
    brush = ~morphology.disk(radius).astype(bool)
    # Room for lines that leave the frame, so that every stamp is whole.
    room = 2 * radius + int(distance.max()) + parameters.scale
    canvas = np.pad(image.ink, room)
    for position in positions:
        row, column = pixels[int(position * len(pixels))]
        angle = stroke_angle(skeleton, row, column, 2 * parameters.scale) + math.pi / 2.0
        length = float(distance[row, column]) + 0.5 * parameters.scale
        step = length * np.array([math.sin(angle), math.cos(angle)])
        start, stop = ((np.array([row, column]) + sign * step).astype(int) for sign in (1, -1))
        for i, j in zip(*draw.line(*start, *stop), strict=True):
            top, left = i + room - radius, j + room - radius
            canvas[top : top + 2 * radius + 1, left : left + 2 * radius + 1] &= brush
    image.replace(canvas[room : canvas.shape[0] - room, room : canvas.shape[1] - room])


def make_small(image: np.ndarray, offset: np.ndarray, small: float) -> np.ndarray:
    scaled = transform.rescale(image.astype(np.float32) / 255, small, anti_aliasing=False)
    framed = np.zeros_like(image)
    margins = [size - side for size, side in zip(image.shape, scaled.shape, strict=True)]
    row, column = (margin - margin // 2 if step else margin // 2 for margin, step in zip(margins, offset, strict=True))
    framed[row : row + scaled.shape[0], column : column + scaled.shape[1]] = (scaled * 255).astype(np.uint8)
    return framed


def render_variant(digit: np.ndarray, draws: Draws, variant: int, parameters: MorphologyParameters) -> np.ndarray:
    """One variant of one digit, ``(28, 28)`` uint8; nothing is shared between calls."""
    thickness, swelling, fractured, scale = VARIANTS[variant]
    image = WorkingImage(digit, parameters, draws.tie_break)
    if not image.ink.any():
        return np.zeros_like(digit)
    if thickness != "no thickthinning":
        change_thickness(image, thickness)
    if swelling == "swelling":
        swell(image, draws.swelling[variant])
    if fractured == "fracture":
        fracture(image, draws.fractures[variant])
    reduced = transform.pyramid_reduce(image.ink, downscale=parameters.scale, order=3)
    result = (255.0 * reduced).astype(np.uint8)
    return make_small(result, draws.small_offset[variant], parameters.small) if scale == "small" else result


def render_variants(digit: np.ndarray, draws: Draws, parameters: MorphologyParameters) -> np.ndarray:
    """All 24 variants, ``(24, 28, 28)`` uint8."""
    return np.stack([render_variant(digit, draws, variant, parameters) for variant in range(len(VARIANTS))])
