"""How the embeddings are distributed on the sphere: alignment, uniformity, and the entropy of the logits."""

# N images, M texts, D feature width.
import math

import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_both, check_matches, check_unit_rows
from i0t.metrics.functional.sums import block_size, matched_squared_distances, row_blocks


def alignment(image_features: Tensor, text_features: Tensor, text_image_index: Tensor | None = None) -> Tensor:
    """Mean squared distance of matched pairs, ``mean_k ||x_i(k) - y_k||^2`` (Wang & Isola 2020, with alpha = 2).

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised.
        text_image_index: ``(M,)`` image row of every text; None pairs row i with row i.

    Returns:
        Scalar ``()`` in ``[0, 4]``; smaller is better aligned.

    Raises:
        ValueError: If a row is not a unit vector, or shapes or indices do not fit.

    Example:
        >>> alignment(torch.eye(2), torch.eye(2).flip(0))
        tensor(2.)
    """
    image, text = check_both(image_features, text_features)
    matches = check_matches(text_image_index, image, text)
    return matched_squared_distances(image, text, matches).mean().to(image.dtype)


def uniformity(features: Tensor) -> Tensor:
    """Uniformity of one modality, ``log mean_{i<j} exp(-2 ||x_i - x_j||^2)`` (Wang & Isola 2020, with t = 2).

    Computed block by block: no matrix over all pairs is kept.

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
    num_rows = len(rows)
    if num_rows < 2:
        raise ValueError(f"uniformity needs two rows at least, got {num_rows}")
    # Exponents lie in [-8, 0], so that a plain sum of exponentials neither over- nor underflows.
    squared_norms = rows.square().sum(dim=1)
    total = torch.zeros((), dtype=torch.float64, device=rows.device)
    for block in row_blocks(num_rows, min(block_size(num_rows), 1024)):
        inside = _pair_affinities(rows, squared_norms, block, block)
        total += inside.triu_(diagonal=1).sum(dtype=torch.float64)
        if block.stop < num_rows:
            after = _pair_affinities(rows, squared_norms, block, slice(block.stop, num_rows))
            total += after.sum(dim=1).sum(dtype=torch.float64)
    return (total / (num_rows * (num_rows - 1) / 2)).log().to(rows.dtype)


def _pair_affinities(rows: Tensor, squared_norms: Tensor, first: slice, second: slice) -> Tensor:
    """``exp(-2 ||x_i - x_j||^2)`` for i in ``first`` and j in ``second``."""
    exponent = (rows[first] @ rows[second].T).mul_(2)
    exponent.sub_(squared_norms[first, None]).sub_(squared_norms[second]).clamp_(max=0)  # -||x_i - x_j||^2
    return exponent.mul_(2).exp_()


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
    image, text = check_both(image_features, text_features)
    scale = float(logit_scale)
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"logit_scale must be a positive finite factor, got {scale}; exp() a logarithm first")
    total = torch.zeros((), dtype=torch.float64, device=image.device)
    for rows in row_blocks(len(image), block_size(len(text))):
        logits = scale * (image[rows] @ text.T)
        logits -= logits.amax(dim=1, keepdim=True)
        weights = logits.exp()
        mass = weights.sum(dim=1)
        total += (mass.log() - (weights * logits).sum(dim=1) / mass).sum(dtype=torch.float64)
    return (total / len(image)).to(image.dtype)
