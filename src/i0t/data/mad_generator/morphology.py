"""All 24 variants of one digit (Castro et al. 2019, with the choices of MAD, arXiv 2404.07983).

Order of operations: enlarge, thicken or thin, swell, fracture, reduce, make small. The three thicknesses are shared by
all their variants, and so are their medial axes; a digit needs nine of them instead of the forty of one image at a
time.

Where this departs from MAD's script, on purpose:

* an image without ink stays without ink; the script's threshold would turn it into a white frame;
* the fracture's brush is centred on its line and clipped at the frame, as in Castro et al.'s code; the script draws it
  three working pixels up and to the left, and leaves out any stamp that crosses the frame;
* random numbers come from a seed, those of the medial axis included.

Shapes: H = 28 * scale rows and columns at the working resolution.
"""

from __future__ import annotations

from math import ceil, cos, pi, sin

import numpy as np
from scipy import ndimage
from skimage.draw import line

from i0t.data.mad_generator.draws import Draws, pick
from i0t.data.mad_generator.factors import IMAGE_SIZE, VARIANT_CODES, MorphologyParameters
from i0t.data.mad_generator.pyramid import expand, reduce_stack, shrink_into_frame
from i0t.data.mad_generator.skeleton import MedialAxis, disk_offsets, medial_axis

_FRACTURE_EXTENSION = 0.5
"""Reach of a fracture beyond the edge of the stroke on each side, in low-resolution pixels."""

_NO_PARAMETERS = MorphologyParameters()


def render_variants(digit: np.ndarray, draws: Draws, parameters: MorphologyParameters = _NO_PARAMETERS) -> np.ndarray:
    """All morphological variants of one digit.

    Args:
        digit: ``(28, 28)`` uint8, bright ink on a dark ground.
        draws: The digit's random numbers.
        parameters: Strengths of the operations.

    Returns:
        ``(24, 28, 28)`` uint8 in the order of ``factors.VARIANTS``.

    Raises:
        ValueError: If the digit has another shape or type.
    """
    if digit.shape != (IMAGE_SIZE, IMAGE_SIZE) or digit.dtype != np.uint8:
        raise ValueError(f"a digit must be (28, 28) uint8, got {digit.shape} {digit.dtype}")
    ink = expand(digit, parameters.scale)
    if not ink.any():
        return np.zeros((len(VARIANT_CODES), IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    images, image_of_variant = _working_images(ink, draws, parameters)
    variants = reduce_stack(images, parameters.scale)[image_of_variant]
    is_small = VARIANT_CODES[:, 3] == 1
    variants[is_small] = shrink_into_frame(variants[is_small], draws.small_offset[is_small], parameters)
    return variants


def _working_images(ink: np.ndarray, draws: Draws, parameters: MorphologyParameters) -> tuple[np.ndarray, np.ndarray]:
    """The distinct images at the working resolution, and which of them each variant is."""
    axis = medial_axis(ink, draws.tie_break, parameters)
    by_thickness = (ink, thicken(ink, axis), thin(ink, axis))
    axes = (axis, *(medial_axis(image, draws.tie_break, parameters) for image in by_thickness[1:]))
    images: list[np.ndarray] = list(by_thickness)
    image_of_variant = np.empty(len(VARIANT_CODES), dtype=np.intp)
    for variant, (thickness, swollen, fractured, _) in enumerate(VARIANT_CODES):
        image_of_variant[variant] = len(images) if swollen or fractured else thickness
        if not (swollen or fractured):
            continue
        image, axis = by_thickness[thickness], axes[thickness]
        if swollen:
            image = swell(image, axis, float(draws.swelling[variant]))
        if fractured:
            axis = medial_axis(image, draws.tie_break, parameters) if swollen else axis
            image = fracture(image, axis, draws.fractures[variant])
        images.append(image)
    return np.stack(images), image_of_variant


def _thickness_radius(axis: MedialAxis) -> int:
    """Radius, in working pixels, of the disk that changes the thickness by the relative amount."""
    return int(axis.parameters.amount * axis.parameters.scale * axis.mean_thickness / 2.0)


def thicken(ink: np.ndarray, axis: MedialAxis) -> np.ndarray:
    """Binary dilation by a disk of radius ``int(amount * scale * T / 2)`` (Castro et al. 2019).

    A pixel is within the dilation exactly if its Euclidean distance to the ink is at most the radius.

    Args:
        ink: ``(H, H)`` bool.
        axis: Its medial axis.
    """
    radius = _thickness_radius(axis)
    if radius == 0 or ink.all():
        return ink
    box = tuple(slice(max(side.start - radius, 0), side.stop + radius) for side in axis.box)
    thick = np.zeros_like(ink)
    # Compared as integers: the square root of a square may be off by one unit in the last place.
    thick[box] = np.rint(ndimage.distance_transform_edt(~ink[box]) ** 2) <= radius * radius
    return thick


def thin(ink: np.ndarray, axis: MedialAxis) -> np.ndarray:
    """Binary erosion by a disk of radius ``int(amount * scale * T / 2)`` (Castro et al. 2019).

    A pixel survives exactly if its Euclidean distance to the background exceeds the radius; what lies outside the frame
    is no background. The radius is at most ``amount`` < 1 times the mean of the distance map over the skeleton,
    which its maximum reaches, so that thinning never erases a digit.

    Args:
        ink: ``(H, H)`` bool.
        axis: Its medial axis.
    """
    radius = _thickness_radius(axis)
    if ink.all():
        return ink
    thinned = np.zeros_like(ink)
    thinned[axis.box] = np.rint(axis.box_distance**2) > radius * radius
    return thinned


def swell(ink: np.ndarray, axis: MedialAxis, position: float) -> np.ndarray:
    """Local swelling by a radial power transform (Castro et al. 2019).

    Output pixel r takes the input at ``r0 + (r - r0) (|r - r0| / R)^(strength - 1)``, nearest neighbour, where
    ``|r - r0| <= R = radius sqrt(T) / 2 * scale``. Points move towards the centre only, never out of the frame.

    Args:
        ink: ``(H, H)`` bool.
        axis: Its medial axis.
        position: In [0, 1): which skeleton pixel is the centre r0.
    """
    parameters = axis.parameters
    site = int(pick(position, len(axis.rows)))
    centre = (int(axis.rows[site]), int(axis.columns[site]))
    radius = float((parameters.radius * np.sqrt(axis.mean_thickness) / 2.0) * parameters.scale)
    reach = int(radius) + 1
    window = tuple(
        slice(max(c - reach, 0), min(c + reach + 1, size)) for c, size in zip(centre, ink.shape, strict=True)
    )
    y = np.arange(window[0].start, window[0].stop, dtype=np.float64)[:, None] - centre[0]
    x = np.arange(window[1].start, window[1].stop, dtype=np.float64)[None, :] - centre[1]
    distance = np.hypot(x, y)
    weight = (distance / radius) ** (parameters.strength - 1)
    weight[distance > radius] = 1.0
    rows = np.floor(centre[0] + weight * y + 0.5).astype(np.intp)
    columns = np.floor(centre[1] + weight * x + 0.5).astype(np.intp)
    swollen = ink.copy()
    swollen[window] = ink[rows, columns]
    return swollen


def fracture(ink: np.ndarray, axis: MedialAxis, positions: np.ndarray) -> np.ndarray:
    """Cuts across the stroke, away from its tips and forks (Castro et al. 2019).

    Each cut is a line across the local direction of the skeleton, of half length ``d + .5 scale`` at a centre whose
    distance to the background is d, drawn by a disk of radius ``ceil((thickness * scale - 1) / 2)``. A digit hardly
    larger than the brush may vanish: the image is then empty, and stays so.

    Args:
        ink: ``(H, H)`` bool.
        axis: Its medial axis.
        positions: ``(num_fractures,)`` in [0, 1): which of the admissible skeleton pixels the centres are.
    """
    parameters = axis.parameters
    brush_radius = ceil((parameters.thickness * parameters.scale - 1) / 2)
    sites = axis.fracture_sites[pick(positions, len(axis.fracture_sites))]
    points: list[tuple[np.ndarray, np.ndarray]] = []
    for site, angle in zip(sites, axis.angles(sites), strict=True):
        length = float(axis.distance[site]) + _FRACTURE_EXTENSION * parameters.scale
        across = angle + pi / 2.0
        row, column = float(axis.rows[site]), float(axis.columns[site])
        row_step, column_step = length * sin(across), length * cos(across)
        start = (int(row + row_step), int(column + column_step))
        points.append(line(*start, int(row - row_step), int(column - column_step)))
    rows = np.concatenate([row for row, _ in points])
    columns = np.concatenate([column for _, column in points])
    return _erase(ink, rows, columns, brush_radius)


def _erase(ink: np.ndarray, rows: np.ndarray, columns: np.ndarray, radius: int) -> np.ndarray:
    """Ink without the disks around the given points, which may lie outside the frame."""
    height, width = ink.shape
    near = (rows >= -radius) & (rows < height + radius) & (columns >= -radius) & (columns < width + radius)
    padding = 2 * radius
    canvas = np.zeros((height + 2 * padding, width + 2 * padding), dtype=bool)
    frame = (slice(padding, padding + height), slice(padding, padding + width))
    canvas[frame] = ink
    offsets = disk_offsets(radius)
    index = (rows[near] + padding) * canvas.shape[1] + columns[near] + padding
    canvas.reshape(-1)[index[:, None] + (offsets[:, 0] * canvas.shape[1] + offsets[:, 1])] = False
    return canvas[frame]
