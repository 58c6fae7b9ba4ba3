"""Zero-shot classification from class prompts, and its accuracy."""

# N images, C classes, T prompts per class, D feature width.
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from i0t.metrics.functional.checks import check_row_numbers, check_unit_rows
from i0t.metrics.functional.sums import block_size, row_blocks


def zero_shot_predictions(
    image_features: Tensor,
    prompt_features: Tensor,
    mask: Tensor | None = None,
    *,
    aggregate: str = "mean",
) -> Tensor:
    """Class of every image by the cosine with class prompts.

    ``"mean"``: each prompt is normalised, the prompts of a class are averaged, the mean is normalised (the CLIP
    protocol; I0T's CIFAR-100 script averages *un-normalised* prompts). ``"max"``: the best prompt stands for its class.
    Of equal classes the lower number wins.

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        prompt_features: ``(C, T, D)`` float, any finite non-zero rows where ``mask`` is true; they are normalised here.
        mask: ``(C, T)`` bool, which prompts exist (classes may have fewer than T); None is all.
        aggregate: ``"mean"`` or ``"max"``.

    Returns:
        ``(N,)`` int64 in ``[0, C)``.

    Raises:
        ValueError: If an image row is not a unit vector, shapes do not fit, a class has no prompt, a prompt is zero or
            not finite, or ``aggregate`` is unknown.

    Example:
        >>> zero_shot_predictions(torch.eye(2), torch.eye(2)[:, None])
        tensor([0, 1])
    """
    blocks = _class_scores(image_features, prompt_features, mask, aggregate)
    return torch.cat([scores.argmax(dim=1) for _, scores in blocks])


def zero_shot_ranks(
    image_features: Tensor,
    prompt_features: Tensor,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    aggregate: str = "mean",
) -> Tensor:
    """Rank of the true class of every image, from 1: how many classes come before it.

    Of equal classes the lower number comes first, so that rank 1 is what :func:`zero_shot_predictions` predicts.

    Args:
        image_features: As there.
        prompt_features: As there.
        labels: ``(N,)`` integers in ``[0, C)``.
        mask: As there.
        aggregate: As there.

    Returns:
        ``(N,)`` int64 in ``[1, C]``; top-k accuracy is the share of ranks of k or better.

    Raises:
        ValueError: As there, and if the labels do not fit.

    Example:
        >>> zero_shot_ranks(torch.eye(2), torch.eye(2)[:, None], torch.tensor([0, 0]))
        tensor([1, 2])
    """
    if tuple(labels.shape) != (len(image_features),):
        raise ValueError(f"labels must have shape ({len(image_features)},), got {tuple(labels.shape)}")
    true = check_row_numbers(labels, prompt_features.shape[0], "labels").to(image_features.device)
    ranks = []
    for rows, scores in _class_scores(image_features, prompt_features, mask, aggregate):
        mine = scores.gather(1, true[rows, None])
        earlier = torch.arange(scores.shape[1], device=scores.device) < true[rows, None]
        ranks.append(1 + ((scores > mine) | ((scores == mine) & earlier)).sum(dim=1))
    return torch.cat(ranks)


def _class_scores(
    image_features: Tensor, prompt_features: Tensor, mask: Tensor | None, aggregate: str
) -> Iterator[tuple[slice, Tensor]]:
    """Score of every class for blocks of images: which rows, and ``(rows, C)``."""
    if aggregate not in ("mean", "max"):
        raise ValueError(f"aggregate must be 'mean' or 'max', got {aggregate!r}")
    image = check_unit_rows(image_features, "image_features")
    prompts, exists = _check_prompts(prompt_features, mask, image)
    num_classes, num_prompts = exists.shape
    if aggregate == "mean":
        averaged = prompts.sum(dim=1) / exists.sum(dim=1, keepdim=True)
        prompts, exists, num_prompts = normalize(averaged, dim=-1), exists.any(dim=1), 1
    candidates, exists = prompts.reshape(num_classes * num_prompts, -1), exists.reshape(-1)
    for rows in row_blocks(len(image), block_size(len(candidates))):
        scores = (image[rows] @ candidates.T).masked_fill_(~exists, -torch.inf)
        yield rows, scores.view(-1, num_classes, num_prompts).amax(dim=2)


def _check_prompts(prompt_features: Tensor, mask: Tensor | None, image: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised prompts ``(C, T, D)``, zero where there is none, and which exist ``(C, T)``."""
    width = image.shape[1]
    if prompt_features.ndim != 3 or 0 in prompt_features.shape or prompt_features.shape[2] != width:
        raise ValueError(
            f"prompt_features must have shape (classes, prompts, {width}), got {tuple(prompt_features.shape)}"
        )
    shape = prompt_features.shape[:2]
    exists = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    if exists.shape != shape or exists.dtype != torch.bool:
        raise ValueError(f"mask must be bool of shape {tuple(shape)}, got {exists.dtype} {tuple(exists.shape)}")
    exists = exists.to(image.device)
    if not bool(exists.any(dim=1).all()):
        raise ValueError(f"class {int((~exists.any(dim=1)).nonzero()[0])} has no prompt")
    prompts = prompt_features.detach().to(image).masked_fill(~exists[..., None], 0)
    norms = torch.linalg.vector_norm(prompts, dim=2)
    wrong = exists & ~((norms > 0) & norms.isfinite())
    if bool(wrong.any()):
        class_number, prompt = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"prompt_features[{class_number}, {prompt}] has norm {float(norms[class_number, prompt]):.4g};"
            " mask out prompts that do not exist"
        )
    return normalize(prompts, dim=-1), exists


def zero_shot_accuracy(predictions: Tensor, labels: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Accuracy and balanced accuracy of predicted classes.

    Args:
        predictions: ``(N,)`` integers in ``[0, C)``.
        labels: ``(N,)`` integers in ``[0, C)``.
        num_classes: C.

    Returns:
        ``accuracy``, and ``balanced_accuracy`` (I0T's figure), the mean recall of the classes that occur in ``labels``;
        scalars ``()`` in ``[0, 1]``.

    Raises:
        ValueError: If shapes differ, there is no row, or a class is out of range.

    Example:
        >>> zero_shot_accuracy(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 2]), 3)
        {'accuracy': tensor(0.7500), 'balanced_accuracy': tensor(0.5000)}
    """
    if predictions.ndim != 1 or predictions.shape != labels.shape or len(labels) == 0:
        raise ValueError(
            f"predictions and labels must be non-empty vectors of one length, got shapes {tuple(predictions.shape)}"
            f" and {tuple(labels.shape)}"
        )
    predicted = check_row_numbers(predictions, num_classes, "predictions")
    actual = check_row_numbers(labels, num_classes, "labels").to(predicted.device)
    sizes = torch.bincount(actual, minlength=num_classes)
    correct = torch.bincount(actual[predicted == actual], minlength=num_classes)
    occurs = sizes > 0
    return {
        "accuracy": correct.sum() / len(actual),
        "balanced_accuracy": (correct[occurs] / sizes[occurs]).mean(),
    }
