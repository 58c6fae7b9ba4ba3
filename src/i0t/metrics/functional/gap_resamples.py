"""All measures of the gap that are sums over rows, on the set and on every resample of it, from one pass over the rows.

Means over pairs of rows are quadratic in sums, so a resample costs a product of its counts with the sums of the units.
A row that is drawn twice never pairs with its own copy: copies of one image are not different images.
"""

# N images, M texts, D width, G image units, H text units, R resamples.
from typing import NamedTuple

import torch
from torch import Tensor

from i0t.metrics.functional.bootstrap import unit_sums, weighted_sums
from i0t.metrics.functional.checks import check_both
from i0t.metrics.functional.gap import MATCHED_DISTANCE_FLOOR, sibling_cosines
from i0t.metrics.functional.pairing import Pairing, pair_cosines, pair_squared_distances
from i0t.metrics.functional.redraws import Redraws
from i0t.metrics.functional.sums import squared_norms


class _Rows(NamedTuple):
    """Sums over the rows of one modality in every unit."""

    total: Tensor  # (units, D)
    size: Tensor  # (units,)
    squares: Tensor  # (units,) sum of |x|^2


class _Drawn(NamedTuple):
    """The same sums in every resample."""

    total: Tensor  # (R, D)
    size: Tensor  # (R,)
    # Over ordered pairs of different rows: sum of cosines, and number.
    cosines: Tensor  # (R,)
    pairs: Tensor  # (R,)
    squares: Tensor  # (R,) each row with itself


def centroid_distances(image_features: Tensor, text_features: Tensor, redraws: Redraws) -> Tensor:
    """Centroid distance in every resample, ``(R,)`` float64; biased upwards, see :func:`without_resampling_bias`.

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised.
        redraws: Resamples of these rows.

    Example:
        >>> from i0t.metrics.functional import redraw_set
        >>> x = torch.eye(2)
        >>> redraws = redraw_set(2, 2, image_of_text=None, has_pairs=False, num_resamples=3)
        >>> centroid_distances(x, -x, redraws).shape
        torch.Size([3])
    """
    image, text = check_both(image_features, text_features)
    means = []
    for rows, units, counts in (
        (image, redraws.image_units, redraws.image_counts),
        (text, redraws.text_units, redraws.text_counts),
    ):
        means.append(_mean_rows(_rows_of_units(rows, units, counts.shape[1]), counts))
    return torch.linalg.vector_norm(means[0] - means[1], dim=1)


def without_resampling_bias(replicates: Tensor, value: float) -> Tensor:
    """Replicates of a distance of means, freed of the noise that resampling adds on top of the sample's own.

    The mean square of the replicates exceeds the square of the value by the variance of the means; without it they
    scatter around the value rather than above it.

    Args:
        replicates: ``(R,)`` zero or more.
        value: The same distance on the set itself.

    Returns:
        ``(R,)`` zero or more.

    Example:
        >>> without_resampling_bias(torch.tensor([1.5, 1.7]), 1.4).shape
        torch.Size([2])
    """
    excess = replicates.square().nanmean() - value**2
    return (replicates.square() - excess).clamp_min(0).sqrt()


def resampled_mean_distances(features: Tensor, point: Tensor, units: Tensor, counts: Tensor) -> Tensor:
    """Distance of the mean row from a fixed point in every resample.

    Args:
        features: ``(N, D)`` float.
        point: ``(D,)``.
        units: ``(N,)`` int64, unit of every row.
        counts: ``(R, G)``.

    Returns:
        ``(R,)`` float64; biased upwards, see :func:`without_resampling_bias`.

    Example:
        >>> x = torch.eye(2)
        >>> resampled_mean_distances(x, torch.zeros(2), torch.arange(2), torch.ones(1, 2))
        tensor([0.7071], dtype=torch.float64)
    """
    means = _mean_rows(_rows_of_units(features, units, counts.shape[1]), counts)
    return torch.linalg.vector_norm(means - point.to(means), dim=1)


def gap_measures(
    image_features: Tensor, text_features: Tensor, pairing: Pairing, redraws: Redraws
) -> dict[str, Tensor]:
    """The paired measures of the gap in every resample.

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised.
        pairing: Of their rows.
        redraws: Resamples of these rows; the first of ``redraws.with_original()`` is the set itself.

    Returns:
        ``unbiased_centroid_distance`` (squared), ``instance_distance``, ``rmg``, ``rmg_with_diagonal``, ``alignment``
        and ``matched_cosine``, each ``(R,)`` float64; NaN where a resample holds too few different rows.

    Example:
        >>> from i0t.metrics.functional import make_pairing, redraw_set
        >>> x = torch.eye(4)
        >>> redraws = redraw_set(4, 4, image_of_text=torch.arange(4), has_pairs=True, num_resamples=2)
        >>> sorted(gap_measures(x, x, make_pairing(x, x), redraws))
        ['alignment', 'instance_distance', 'matched_cosine', 'rmg', 'rmg_with_diagonal', 'unbiased_centroid_distance']
    """
    image, text = check_both(image_features, text_features)
    image_drawn = _draw(_rows_of_units(image, redraws.image_units, redraws.image_counts.shape[1]), redraws.image_counts)
    text_drawn = _draw(_rows_of_units(text, redraws.text_units, redraws.text_counts.shape[1]), redraws.text_counts)
    cosine, matched = _pair_means(image, text, pairing, redraws)
    measures = {"unbiased_centroid_distance": _unbiased(image, text, pairing, redraws, image_drawn, text_drawn)}
    between = ((1 - cosine) / 2).where(cosine < 1, MATCHED_DISTANCE_FLOOR)
    between = between.where(~cosine.isnan(), torch.nan)
    for name, diagonal in (("rmg", False), ("rmg_with_diagonal", True)):
        spread = (_spread(image_drawn, diagonal) + _spread(text_drawn, diagonal)) / 2
        measures[name] = between / (between + spread)
    return {**measures, **matched, "matched_cosine": cosine}


def _rows_of_units(rows: Tensor, units: Tensor, num_units: int) -> _Rows:
    units = units.to(rows.device)
    sums = unit_sums(rows, units, num_units), torch.bincount(units, minlength=num_units).double()
    return _Rows(*(s.cpu() for s in (*sums, unit_sums(squared_norms(rows), units, num_units))))


def _mean_rows(rows: _Rows, counts: Tensor) -> Tensor:
    """Mean row of every resample, ``(R, D)``."""
    sums = weighted_sums(counts, torch.cat([rows.total, rows.size[:, None]], dim=1))
    return sums[:, :-1] / sums[:, -1:]


def _draw(rows: _Rows, counts: Tensor) -> _Drawn:
    # The counts are the large matrix: all sums of one power come from one product with them.
    once = weighted_sums(counts, torch.cat([rows.total, rows.size[:, None], rows.squares[:, None]], dim=1))
    total, size, squares = once[:, :-2], once[:, -2], once[:, -1]
    own, own_pairs = _paired_sums(counts, rows.squares, rows.size, power=2)
    return _Drawn(
        total, size, cosines=total.square().sum(dim=1) - own, pairs=size.square() - own_pairs, squares=squares
    )


def _paired_sums(counts: Tensor, first: Tensor, second: Tensor, *, power: int) -> tuple[Tensor, Tensor]:
    """:func:`weighted_sums` of two vectors ``(G,)`` in one go."""
    sums = weighted_sums(counts, torch.stack([first, second], dim=1), power=power)
    return sums[:, 0], sums[:, 1]


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return (numerator / denominator).where(denominator > 0, torch.nan)


def _spread(drawn: _Drawn, include_diagonal: bool) -> Tensor:
    """Distance ``(1 - mean cosine) / 2`` inside a modality; the diagonal has every drawn row once."""
    cosines, pairs = drawn.cosines, drawn.pairs
    if include_diagonal:
        cosines, pairs = cosines + drawn.squares, pairs + drawn.size
    return ((1 - _ratio(cosines, pairs)) / 2).clamp_min(0)


def _pair_means(image: Tensor, text: Tensor, pairing: Pairing, redraws: Redraws) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean cosine of the pairs, and their distances; a pair is drawn with its image."""
    units = redraws.image_units[pairing.image.cpu()]
    squared = pair_squared_distances(image, text, pairing)
    values = torch.stack([pair_cosines(image, text, pairing), squared.sqrt(), squared], dim=1).cpu()
    counts = redraws.image_counts
    sizes = torch.bincount(units, minlength=counts.shape[1]).double()
    sums = weighted_sums(counts, torch.cat([unit_sums(values, units, counts.shape[1]), sizes[:, None]], dim=1))
    cosine, distance, alignment = (_ratio(column, sums[:, -1]) for column in sums[:, :-1].unbind(dim=1))
    return cosine, {"instance_distance": distance, "alignment": alignment}


def _unbiased(
    image: Tensor, text: Tensor, pairing: Pairing, redraws: Redraws, image_drawn: _Drawn, text_drawn: _Drawn
) -> Tensor:
    """The unbiased squared centroid distance: every mean over rows of different images."""
    within_image = _ratio(image_drawn.cosines, image_drawn.pairs)
    siblings, num_siblings = _siblings(text, pairing, redraws, len(image))
    text_total = text_drawn.total.square().sum(dim=1)
    within_text = _ratio(text_total - siblings, text_drawn.size.square() - num_siblings)
    # A pair is left out of the cross mean as often as its image meets its text: copies of both, or of the image alone.
    units, counts = redraws.image_units[pairing.image.cpu()], redraws.image_counts
    power = 2 if redraws.texts_follow else 1
    cosines = unit_sums(pair_cosines(image, text, pairing).cpu(), units, counts.shape[1])
    sizes = torch.bincount(units, minlength=counts.shape[1]).double()
    matched, num_matched = _paired_sums(counts, cosines, sizes, power=power)
    across = (image_drawn.total * text_drawn.total).sum(dim=1) - matched
    return within_image + within_text - 2 * _ratio(across, image_drawn.size * text_drawn.size - num_matched)


def _siblings(text: Tensor, pairing: Pairing, redraws: Redraws, num_images: int) -> tuple[Tensor, Tensor]:
    """Sum of cosines and number of ordered pairs of texts that share an image, ``(R,)`` each."""
    counts = redraws.text_counts
    if pairing.image_of_text is None:
        cosines, num_siblings = sibling_cosines(text, pairing, num_images)
        return cosines.cpu().expand(len(counts)), torch.full((len(counts),), num_siblings, dtype=torch.float64)
    of_text = pairing.image_of_text
    squares = squared_norms(unit_sums(text, of_text, num_images)).cpu()
    sizes = torch.bincount(of_text, minlength=num_images).double().cpu().square()
    per_unit = (unit_sums(values, redraws.image_units, counts.shape[1]) for values in (squares, sizes))
    return _paired_sums(counts, *per_unit, power=2)
