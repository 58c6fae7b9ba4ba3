"""Linear separability of the two modalities: can a linear model tell image rows from text rows?"""

# N images, M texts, D feature width.
import numpy as np
import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_both
from i0t.metrics.functional.pairing import make_pairing, one_to_one

DEFAULT_TEST_FRACTION = {"logreg": 0.2, "ols": 0.3}


def linear_separability(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor | None = None,
    *,
    pairs: Tensor | None = None,
    method: str = "logreg",
    test_fraction: float | None = None,
    seed: int = 0,
) -> Tensor:
    """Held-out separability (LS) of image embeddings (label 1) from text embeddings (label 0).

    One text per image, the first in row order, so that the classes balance; train and test are split by image. Images
    without text are left out, and so are further images of a text that is paired already (prompts of classes). The
    value is the mean of :func:`separability_scores`. ``"logreg"`` (arXiv 2405.18570): accuracy of scikit-learn's
    LogisticRegression, C = 1; 1 is separable, .5 is chance, and *below* .5 is what means subtracted on the same rows
    give. ``"ols"`` (arXiv 2412.14384 §3.1): 1 - mean squared error of least squares on 0/1 labels, whose value for
    inseparable data is ``1 - .25 (1 + (D + 1) / (n - D - 2))`` at n training rows, not .5.

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised.
        text_image_index: ``(M,)`` image row of every text; None, without ``pairs``, pairs row i with row i.
        pairs: ``(P, 2)`` image row and text row of every pair, instead of ``text_image_index``.
        method: ``"logreg"`` or ``"ols"``.
        test_fraction: Part of the images held out; None is .2 for ``"logreg"`` and .3 for ``"ols"``.
        seed: Of the split.

    Returns:
        Scalar ``()``: accuracy in ``[0, 1]`` (``"logreg"``), or at most 1 and unbounded below (``"ols"``).

    Raises:
        ValueError: If a row is not a unit vector, shapes or indices do not fit, an option is unknown, or fewer than two
            images have text.

    Example:
        >>> x = torch.nn.functional.normalize(torch.eye(8) + 1, dim=-1)
        >>> linear_separability(x, -x).item()
        1.0
    """
    _, scores = separability_scores(
        image_features,
        text_features,
        text_image_index,
        pairs=pairs,
        method=method,
        test_fraction=test_fraction,
        seed=seed,
    )
    dtype = torch.promote_types(torch.promote_types(image_features.dtype, text_features.dtype), torch.float32)
    return scores.mean().to(device=image_features.device, dtype=dtype)


def separability_scores(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor | None = None,
    *,
    pairs: Tensor | None = None,
    method: str = "logreg",
    test_fraction: float | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """What each held-out image adds to :func:`linear_separability`, to bootstrap over with the classifier fixed.

    Args:
        image_features: As there, and so are all other arguments.
        text_features: As there.
        text_image_index: As there.
        pairs: As there.
        method: As there.
        test_fraction: As there.
        seed: As there.

    Returns:
        ``(K,)`` int64 rows of the held-out images, and the ``(K,)`` float64 score of each with its text: the share of
        the two that is told right, or 1 - their mean squared error.

    Example:
        >>> x = torch.nn.functional.normalize(torch.eye(8) + 1, dim=-1)
        >>> images, scores = separability_scores(x, -x)
        >>> len(images), scores.tolist()
        (2, [1.0, 1.0])
    """
    if method not in DEFAULT_TEST_FRACTION:
        raise ValueError(f"method must be one of {', '.join(map(repr, DEFAULT_TEST_FRACTION))}, got {method!r}")
    fraction = DEFAULT_TEST_FRACTION[method] if test_fraction is None else test_fraction
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction must lie strictly between 0 and 1, got {fraction}")
    image, text = check_both(image_features, text_features)
    pairing = make_pairing(image, text, text_image_index, pairs=pairs)
    image_rows, text_rows = one_to_one(pairing, len(image), len(text))
    train, test = _split(len(image_rows), fraction, seed)
    images, texts = image[image_rows].double().cpu().numpy(), text[text_rows].double().cpu().numpy()
    right = _fit_and_score(
        np.concatenate([images[train], texts[train]]), np.concatenate([images[test], texts[test]]), method
    )
    scores = torch.from_numpy(right.reshape(2, -1).mean(axis=0))
    return image_rows.cpu()[torch.from_numpy(test)], scores


def _split(num_images: int, test_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random train and test positions among the images, one at least on either side."""
    if num_images < 2:
        raise ValueError(f"linear separability needs two images with text at least, got {num_images}")
    num_test = min(max(round(test_fraction * num_images), 1), num_images - 1)
    order = np.random.default_rng(seed).permutation(num_images)
    return order[num_test:], order[:num_test]


def _fit_and_score(train: np.ndarray, test: np.ndarray, method: str) -> np.ndarray:
    """Fit on rows whose first half is images and second half texts; score of each row of a set laid out likewise."""
    # Imported here: scikit-learn costs a second, which only this metric should pay.
    from sklearn.linear_model import LinearRegression, LogisticRegression

    train_labels = np.repeat([1, 0], len(train) // 2)
    test_labels = np.repeat([1, 0], len(test) // 2)
    if method == "logreg":
        classifier = LogisticRegression(max_iter=1000).fit(train, train_labels)
        return (classifier.predict(test) == test_labels).astype(np.float64)
    regression = LinearRegression().fit(train, train_labels)
    return 1 - (regression.predict(test) - test_labels) ** 2
