"""The size of the modality gap: distances between the two modalities' centroids and between matched pairs."""

# N images, M texts, D feature width.
import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_both
from i0t.metrics.functional.pairing import (
    Pairing,
    make_pairing,
    pair_cosines,
    pair_squared_distances,
    sibling_texts,
)
from i0t.metrics.functional.sums import group_sums, row_sum, squared_norm_sum

# The reference implementation's floor of a matched distance that rounding or perfect agreement brings to zero.
MATCHED_DISTANCE_FLOOR = 1e-3


def centroid_distance(image_features: Tensor, text_features: Tensor) -> Tensor:
    """Distance between the modality centroids, CD or L2M (arXiv 2412.14384 §3.1; arXiv 2404.07983).

    ``||mean_i x_i - mean_j y_j||_2``; the means are not normalised. I0T calls it severe from .63, low below .19. It is
    biased upwards by the sampling noise of the means: see :func:`unbiased_centroid_distance`.

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised; need not be paired with the images.

    Returns:
        Scalar ``()`` in ``[0, 2]``.

    Raises:
        ValueError: If a row is not a unit vector or the widths differ.

    Example:
        >>> centroid_distance(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]))
        tensor(2.)
    """
    image, text = check_both(image_features, text_features)
    difference = row_sum(image) / len(image) - row_sum(text) / len(text)
    return torch.linalg.vector_norm(difference).to(image.dtype)


def unbiased_centroid_distance(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor | None = None,
    *,
    pairs: Tensor | None = None,
) -> Tensor:
    """Unbiased estimate of the *squared* distance between the modality centroids.

    ``mean x_i.x_j + mean y_k.y_l - 2 mean x_i.y_k``, each mean over the pairs of rows that belong to different images
    (texts of one image are one image's), since rows of one image are dependent. It is an estimate of a square that may
    come out below zero: print it as it is.

    Args:
        image_features: ``(N, D)`` float, L2-normalised, N >= 2.
        text_features: ``(M, D)`` float, L2-normalised.
        text_image_index: ``(M,)`` image row of every text; None, without ``pairs``, pairs row i with row i.
        pairs: ``(P, 2)`` image row and text row of every pair, instead of ``text_image_index``: the form for texts that
            belong to many images, such as the prompts of classes.

    Returns:
        Scalar ``()``, squared feature units; zero in expectation where both modalities have the same mean.

    Raises:
        ValueError: If a row is not a unit vector, shapes or indices do not fit, or no two texts or images belong to
            different images.

    Example:
        >>> x = torch.eye(3)
        >>> round(unbiased_centroid_distance(x, x).item(), 4)
        0.0
    """
    image, text = check_both(image_features, text_features)
    pairing = make_pairing(image, text, text_image_index, pairs=pairs)
    num_images, num_texts, num_pairs = len(image), len(text), len(pairing.text)
    siblings, num_siblings = sibling_cosines(text, pairing, num_images)
    text_pairs = num_texts**2 - num_siblings
    if num_images < 2 or not text_pairs > 0:
        raise ValueError(
            f"the unbiased centroid distance needs texts of two images at least, got {num_images} image rows and"
            f" {len(pairing.image.unique())} of them with text"
        )
    image_sum, text_sum = row_sum(image), row_sum(text)
    within_image = (image_sum @ image_sum - squared_norm_sum(image)) / (num_images * (num_images - 1))
    within_text = (text_sum @ text_sum - siblings) / text_pairs
    matched = pair_cosines(image, text, pairing).sum()
    across = (image_sum @ text_sum - matched) / (num_texts * num_images - num_pairs)
    return (within_image + within_text - 2 * across).to(image.dtype)


def sibling_cosines(text: Tensor, pairing: Pairing, num_images: int) -> tuple[Tensor, int]:
    """Sum of the cosines of all ordered pairs of texts that share an image, each with itself included; their number.

    Args:
        text: ``(M, D)``.
        pairing: Of the texts with ``num_images`` images.
        num_images: N.

    Returns:
        Scalar ``()`` float64, and the number of these pairs.
    """
    if pairing.image_of_text is not None:
        sizes = torch.bincount(pairing.image_of_text, minlength=num_images)
        return squared_norm_sum(group_sums(text, pairing.image_of_text, num_images)), int(sizes.square().sum())
    first, second = sibling_texts(pairing)
    # Texts without any image are their own siblings too.
    alone = torch.ones(len(text), dtype=torch.bool)
    alone[pairing.text.cpu()] = False
    own = alone.nonzero().squeeze(1)
    siblings = Pairing(torch.cat([first, own]).to(text.device), torch.cat([second, own]).to(text.device), None)
    return pair_cosines(text, text, siblings).sum(), len(siblings.text)


def instance_distance(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor | None = None,
    *,
    pairs: Tensor | None = None,
) -> Tensor:
    """Mean distance of matched pairs, L2I (arXiv 2404.07983): ``mean ||x_i - y_k||_2`` over the pairs (i, k).

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised.
        text_image_index: ``(M,)`` image row of every text; None, without ``pairs``, pairs row i with row i.
        pairs: ``(P, 2)`` image row and text row of every pair, instead of ``text_image_index``: the form for texts that
            belong to many images, such as the prompts of classes.

    Returns:
        Scalar ``()`` in ``[0, 2]``.

    Raises:
        ValueError: If a row is not a unit vector, or shapes or indices do not fit.

    Example:
        >>> instance_distance(torch.eye(2), torch.eye(2))
        tensor(0.)
    """
    image, text = check_both(image_features, text_features)
    pairing = make_pairing(image, text, text_image_index, pairs=pairs)
    return pair_squared_distances(image, text, pairing).sqrt().mean().to(image.dtype)


def relative_modality_gap(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor | None = None,
    *,
    pairs: Tensor | None = None,
    include_diagonal: bool = False,
) -> Tensor:
    """Relative modality gap, RMG (arXiv 2404.07983): matched distance relative to the spread inside the modalities.

    ``P / (P + (D_I + D_T) / 2)`` with the distance ``(1 - cos) / 2``: P of the mean matched cosine, D_I and D_T of the
    mean cosine between two rows of one modality. Captions of one image count in D_T, as in the reference
    implementation, which also floors P to 1e-3 where it is not positive (perfect agreement gives a small positive RMG).

    Args:
        image_features: ``(N, D)`` float, L2-normalised, N >= 2.
        text_features: ``(M, D)`` float, L2-normalised, M >= 2.
        text_image_index: ``(M,)`` image row of every text; None, without ``pairs``, pairs row i with row i.
        pairs: ``(P, 2)`` image row and text row of every pair, instead of ``text_image_index``: the form for texts that
            belong to many images, such as the prompts of classes.
        include_diagonal: Let every row meet itself in D_I and D_T, as the reference's training code does on CC12M.

    Returns:
        Scalar ``()`` in ``(0, 1]``.

    Raises:
        ValueError: If a row is not a unit vector, shapes or indices do not fit, or a modality has a single row while
            the diagonal is left out.

    Example:
        >>> x = torch.eye(3)
        >>> relative_modality_gap(x, x).item(), round(relative_modality_gap(x, -x).item(), 4)
        (0.0019960079807788134, 0.6667)
    """
    image, text = check_both(image_features, text_features)
    pairing = make_pairing(image, text, text_image_index, pairs=pairs)
    matched = (1 - pair_cosines(image, text, pairing).mean()) / 2
    matched = torch.where(matched > 0, matched, MATCHED_DISTANCE_FLOOR)
    spread = (_spread(image, "image", include_diagonal) + _spread(text, "text", include_diagonal)) / 2
    return (matched / (matched + spread)).to(image.dtype)


def _spread(features: Tensor, modality: str, include_diagonal: bool) -> Tensor:
    """Distance ``(1 - mean cosine) / 2`` over the pairs of rows of one modality, float64, never below zero."""
    num_rows = len(features)
    if num_rows < 2 and not include_diagonal:
        raise ValueError(f"the relative modality gap needs two {modality} rows at least, got {num_rows}")
    total = row_sum(features)
    cosines, num_pairs = total @ total, num_rows**2
    if not include_diagonal:
        cosines, num_pairs = cosines - squared_norm_sum(features), num_pairs - num_rows
    return ((1 - cosines / num_pairs) / 2).clamp_min(0)
