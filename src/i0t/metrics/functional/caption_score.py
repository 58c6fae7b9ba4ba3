"""How well a caption fits an image (CLIP-S, PAC-S, I0T-S), with and without references, and against preferences.

The scores differ in the embeddings and in the weight alone: CLIP-S (Hessel et al. 2021, Eq. 1) has 2.5, PAC-S (Sarto et
al. 2023) 2.0 with embeddings of its own, and I0T-S (arXiv 2412.14384, Sec. 4.2 and Fig. 5) 1.0 on centred embeddings.
"""

# J scored captions, K references, Q preferences, N images, M texts, D width.
from __future__ import annotations

import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_both, check_row_numbers, check_unit_rows
from i0t.metrics.functional.sums import row_blocks

_ROWS_AT_ONCE = 512  # gathered rows stay in the processor's cache: twice as fast as thousands at once


def caption_cosines(image_features: Tensor, text_features: Tensor, candidates: Tensor | None = None) -> Tensor:
    """Cosine of every candidate caption with its image.

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised.
        candidates: ``(J, 2)`` integers (image row, text row); None: text row j with image row j.

    Returns:
        ``(J,)`` float64 in [-1, 1], up to rounding.

    Raises:
        ValueError: If a row is not of unit length, widths differ, or a candidate points outside.

    Example:
        >>> caption_cosines(torch.eye(2), torch.eye(2), torch.tensor([[0, 0], [0, 1]]))
        tensor([1., 0.], dtype=torch.float64)
    """
    image, text = check_both(image_features, text_features)
    if candidates is None:
        if len(image) != len(text):
            raise ValueError(f"{len(image)} images and {len(text)} captions are not one each; give candidates")
        rows = torch.arange(len(image), device=image.device)
        return _cosines(image, text, rows, rows)
    image_rows, text_rows = _columns(candidates, "candidates", len(image), len(text))
    return _cosines(image, text, image_rows.to(image.device), text_rows.to(image.device))


def reference_cosines(text_features: Tensor, candidate_rows: Tensor, references: Tensor) -> Tensor:
    """Cosine of every candidate caption with the reference most like it (Hessel et al. 2021, Eq. 2).

    Args:
        text_features: ``(M, D)`` float, L2-normalised.
        candidate_rows: ``(J,)`` integers, the text row of every candidate.
        references: ``(K, 2)`` integers (candidate in ``[0, J)``, text row of one of its references).

    Returns:
        ``(J,)`` float64; NaN where a candidate has no reference.

    Raises:
        ValueError: If a row is not of unit length or an index points outside.

    Example:
        >>> reference_cosines(torch.eye(2), torch.tensor([0, 1]), torch.tensor([[0, 0], [0, 1]]))
        tensor([1., nan], dtype=torch.float64)
    """
    text = check_unit_rows(text_features, "text_features")
    rows = check_row_numbers(candidate_rows, len(text), "candidate_rows").to(text.device)
    owner, reference = (column.to(text.device) for column in _columns(references, "references", len(rows), len(text)))
    best = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=text.device)
    best.scatter_reduce_(0, owner, _cosines(text, text, rows[owner], reference), reduce="amax")
    return best.masked_fill(best == -torch.inf, torch.nan)


def caption_scores(cosines: Tensor, *, weight: float = 2.5, clipped: bool = True) -> Tensor:
    """Scores without references: ``weight * max(cosine, 0)``, or ``weight * cosine`` where they are not clipped.

    Clipping is what CLIP-S, PAC-S and I0T's code do. After a centring reducer about half of all wrong captions have a
    negative cosine, and clipping makes them tie.

    Args:
        cosines: ``(J,)`` of :func:`caption_cosines`.
        weight: w; positive.
        clipped: Whether negative cosines count as 0.

    Returns:
        ``(J,)`` of the same type.

    Raises:
        ValueError: If the weight is not positive.

    Example:
        >>> caption_scores(torch.tensor([0.5, -0.5]), weight=2.0)
        tensor([1., 0.])
    """
    if not weight > 0:
        raise ValueError(f"weight must be positive, got {weight}; CLIP-S has 2.5, PAC-S 2.0 and I0T-S 1.0")
    return weight * (cosines.clamp_min(0) if clipped else cosines)


def reference_scores(scores: Tensor, reference_cosines: Tensor) -> Tensor:
    """Scores with references: the harmonic mean of score S and reference cosine R (Hessel et al. 2021, Eq. 2).

    ``2 S R / (|S| + R)`` with R clipped at 0, and 0 / 0 = 0. S is weighted already, as in the published code. For
    S >= 0 this is the papers' formula. For the negative S of unclipped scores theirs has a pole at S = -R; with the
    absolute value it goes on growing with S.

    Args:
        scores: ``(J,)`` of :func:`caption_scores`.
        reference_cosines: ``(J,)``, NaN where a caption has no reference.

    Returns:
        ``(J,)``; NaN where a caption has no reference.

    Example:
        >>> reference_scores(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, -0.5]))
        tensor([1., 0., 0.])
    """
    reference = reference_cosines.clamp_min(0)
    total = scores.abs() + reference
    return (2 * scores * reference / total).masked_fill(total == 0, 0)


def preference_hits(scores: Tensor, preferences: Tensor) -> Tensor:
    """Whether the preferred caption of each pair scores higher: 1, or 0, or one half for equal scores.

    The published code takes the first caption of the file where both score the same; one half is the expectation over
    both orders, and needs no luck.

    Args:
        scores: ``(J,)``.
        preferences: ``(Q, 2)`` integers (preferred caption, other caption).

    Returns:
        ``(Q,)`` float64; NaN where a caption has no score.

    Raises:
        ValueError: If an index points outside.

    Example:
        >>> preference_hits(torch.tensor([0.9, 0.1]), torch.tensor([[0, 1], [1, 0], [0, 0]]))
        tensor([1.0000, 0.0000, 0.5000], dtype=torch.float64)
    """
    preferred, other = _columns(preferences, "preferences", len(scores), len(scores))
    difference = scores[preferred.to(scores.device)].double() - scores[other.to(scores.device)].double()
    # The sign of NaN is 0 in torch.
    return ((difference.sign() + 1) / 2).masked_fill(difference.isnan(), torch.nan)


def _columns(pairs: Tensor, name: str, num_first: int, num_second: int) -> tuple[Tensor, Tensor]:
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"{name} must be (rows, 2), got shape {tuple(pairs.shape)}")
    first, second = pairs.unbind(dim=1)
    return check_row_numbers(first, num_first, f"{name}[:, 0]"), check_row_numbers(second, num_second, f"{name}[:, 1]")


def _cosines(first: Tensor, second: Tensor, first_rows: Tensor, second_rows: Tensor) -> Tensor:
    """Row by row in float64, so that equal captions of equal images tie exactly."""
    blocks = [
        (first[first_rows[part]].double() * second[second_rows[part]].double()).sum(dim=1)
        for part in row_blocks(len(first_rows), _ROWS_AT_ONCE)
    ]
    return torch.cat(blocks) if blocks else torch.zeros(0, dtype=torch.float64, device=first.device)
