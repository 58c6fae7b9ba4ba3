"""How the embeddings are distributed on the sphere: alignment, uniformity, and the entropy of the logits."""

# N images, M texts, D feature width.
import math

import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_both, check_unit_rows
from i0t.metrics.functional.pairing import make_pairing, pair_squared_distances
from i0t.metrics.functional.sums import block_size, row_blocks

# A tile of affinities of 8 MiB in float32.
TILE_ROWS = 1024
TILE_COLUMNS = 2048
# A block of logits of 4 MiB in float32.
ENTROPY_ENTRIES = 2**20


def alignment(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor | None = None,
    *,
    pairs: Tensor | None = None,
) -> Tensor:
    """Mean squared distance of matched pairs, ``mean_k ||x_i(k) - y_k||^2`` (Wang & Isola 2020, with alpha = 2).

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised.
        text_image_index: ``(M,)`` image row of every text; None, without ``pairs``, pairs row i with row i.
        pairs: ``(P, 2)`` image row and text row of every pair, instead of ``text_image_index``.

    Returns:
        Scalar ``()`` in ``[0, 4]``; smaller is better aligned.

    Raises:
        ValueError: If a row is not a unit vector, or shapes or indices do not fit.

    Example:
        >>> alignment(torch.eye(2), torch.eye(2).flip(0))
        tensor(2.)
    """
    image, text = check_both(image_features, text_features)
    pairing = make_pairing(image, text, text_image_index, pairs=pairs)
    return pair_squared_distances(image, text, pairing).mean().to(image.dtype)


def uniformity(features: Tensor) -> Tensor:
    """Uniformity of one modality, ``log mean_{i<j} exp(-2 ||x_i - x_j||^2)`` (Wang & Isola 2020, with t = 2).

    Computed tile by tile: no matrix over all pairs is kept.

    Args:
        features: ``(N, D)`` float, L2-normalised, N >= 2.

    Returns:
        Scalar ``()`` in ``[-8, 0]``; 0 where all rows coincide, smaller is more uniform.

    Raises:
        ValueError: If a row is not a unit vector or there is a single row.

    Example:
        >>> uniformity(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        tensor(-8.)
    """
    rows = check_unit_rows(features, "features")
    return _mean_affinities(rows).mean().log().clamp_max(0).to(rows.dtype)


def uniformity_contributions(features: Tensor) -> Tensor:
    """What each row adds to :func:`uniformity` to first order (Hájek projection), for bootstraps.

    With ``h_i`` the mean affinity of row i with the others and U the mean of ``h``, the logarithm over a reweighted set
    is to first order ``log U + 2 (weighted mean of h / U - 1)``: the weighted mean of these contributions. Exact
    recomputation would cost N^2 per resample.

    Args:
        features: ``(N, D)`` float, L2-normalised, N >= 2.

    Returns:
        ``(N,)`` float64, whose mean is the uniformity.

    Raises:
        ValueError: As :func:`uniformity`.

    Example:
        >>> uniformity_contributions(torch.eye(3)).shape
        torch.Size([3])
    """
    mean_affinity = _mean_affinities(check_unit_rows(features, "features"))
    overall = mean_affinity.mean()
    return overall.log().clamp_max(0) + 2 * (mean_affinity / overall - 1)


def _mean_affinities(rows: Tensor) -> Tensor:
    """Mean over j != i of ``exp(-2 ||x_i - x_j||^2)`` for every row i, ``(N,)`` float64.

    Each tile of the upper triangle serves its rows and its columns, and is small enough to stay in the cache. The
    exponent ``4 x.y - 2|x|^2 - 2|y|^2`` is one product of rows that carry their norms as two more columns.
    """
    num_rows = len(rows)
    if num_rows < 2:
        raise ValueError(f"uniformity needs two rows at least, got {num_rows}")
    norms = rows.square().sum(dim=1, keepdim=True)
    one = torch.ones_like(norms)
    left, right = torch.cat([4 * rows, -2 * norms, one], dim=1), torch.cat([rows, one, -2 * norms], dim=1)
    total = torch.zeros(num_rows, dtype=torch.float64, device=rows.device)
    position = torch.arange(num_rows, device=rows.device)
    tile = rows.new_empty(TILE_ROWS * TILE_COLUMNS)
    for above in row_blocks(num_rows, TILE_ROWS):
        for start in range(above.start, num_rows, TILE_COLUMNS):
            beside = slice(start, min(start + TILE_COLUMNS, num_rows))
            shape = (above.stop - above.start, beside.stop - beside.start)
            out = tile[: shape[0] * shape[1]].view(shape)
            torch.mm(left[above], right[beside].T, out=out).exp_()
            if start < above.stop:  # the tile meets the diagonal: only pairs i < j count
                out.masked_fill_(position[beside] <= position[above, None], 0)
            total[above] += out.sum(dim=1)
            total[beside] += out.sum(dim=0)
    return total / (num_rows - 1)


def logit_entropy(image_features: Tensor, text_features: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Mean entropy of the image-to-text matching distribution (arXiv 2404.07983), in nats.

    ``mean_i H(softmax_j(s x_i . y_j))`` over all texts of the set.

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised; need not be paired with the images.
        logit_scale: s, the factor itself (100 for CLIP), not its logarithm.

    Returns:
        Scalar ``()`` in ``[0, log M]``.

    Raises:
        ValueError: If a row is not a unit vector, the widths differ, or the scale is not a positive finite number.

    Example:
        >>> logit_entropy(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, -1.0]]), 100.0)
        tensor(0.6931)
    """
    entropies = logit_entropies(image_features, text_features, logit_scale)
    dtype = torch.promote_types(torch.promote_types(image_features.dtype, text_features.dtype), torch.float32)
    return entropies.mean().to(dtype)


def logit_entropies(query_features: Tensor, item_features: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Entropy of the matching distribution of every query over all items, in nats; its mean is :func:`logit_entropy`.

    A bias of the logits (SigLIP) changes nothing. Computed block by block: no matrix over all pairs is kept.

    Args:
        query_features: ``(Q, D)`` float, L2-normalised: images, or texts for the entropy from text to image.
        item_features: ``(K, D)`` float, L2-normalised, of the other modality.
        logit_scale: As there.

    Returns:
        ``(Q,)`` float64 in ``[0, log K]``.

    Raises:
        ValueError: As there.

    Example:
        >>> x = torch.eye(2)
        >>> logit_entropies(x, x, 1.0)
        tensor([0.5822, 0.5822], dtype=torch.float64)
    """
    query, item = check_both(query_features, item_features)
    scale = float(logit_scale)
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"logit_scale must be a positive finite factor, got {scale}; exp() a logarithm first")
    # Written in place: small results kept one by one between large blocks let the heap grow to the size of the matrix.
    entropies = torch.empty(len(query), dtype=torch.float64, device=query.device)
    for rows in row_blocks(len(query), block_size(len(item), entries=ENTROPY_ENTRIES)):
        logits = (query[rows] @ item.T).mul_(scale)
        logits -= logits.amax(dim=1, keepdim=True)
        weights = logits.exp()
        mass = weights.sum(dim=1)
        expected = logits.mul_(weights).sum(dim=1) / mass
        entropies[rows] = (mass.log() - expected).clamp_min_(0)
    return entropies
