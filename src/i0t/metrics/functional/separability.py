"""Linear separability of the two modalities: can a linear model tell image rows from text rows?"""

# N images, M texts, D feature width.
import numpy as np
import torch
from torch import Tensor

from i0t.metrics.functional.checks import check_both, check_matches

DEFAULT_TEST_FRACTION = {"logreg": 0.2, "ols": 0.3}


def linear_separability(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor | None = None,
    *,
    method: str = "logreg",
    test_fraction: float | None = None,
    seed: int = 0,
) -> Tensor:
    """Held-out separability (LS) of image embeddings (label 1) from text embeddings (label 0).

    One text per image, the first in row order, so that the classes balance; train and test are split by image. Images
    without text are left out. ``"logreg"`` (arXiv 2405.18570): accuracy of scikit-learn's LogisticRegression, C = 1;
    1 is separable, .5 is chance, and *below* .5 is what means subtracted on the same rows give. ``"ols"``
    (arXiv 2412.14384 §3.1): 1 - mean squared error of least squares on 0/1 labels, whose value for inseparable data is
    ``1 - .25 (1 + (D + 1) / (n - D - 2))`` at n training rows, not .5.

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised.
        text_image_index: ``(M,)`` image row of every text; None pairs row i with row i.
        method: ``"logreg"`` or ``"ols"``.
        test_fraction: Part of the images held out; None is .2 for ``"logreg"`` and .3 for ``"ols"``.
        seed: Of the split.

    Returns:
        Scalar ``()``: accuracy in ``[0, 1]`` (``"logreg"``), or at most 1 and unbounded below (``"ols"``).

    Raises:
        ValueError: If a row is not a unit vector, shapes or indices do not fit, an option is unknown, or fewer than two
            images have text.
    """
    if method not in DEFAULT_TEST_FRACTION:
        raise ValueError(f"method must be one of {', '.join(map(repr, DEFAULT_TEST_FRACTION))}, got {method!r}")
    fraction = DEFAULT_TEST_FRACTION[method] if test_fraction is None else test_fraction
    if not 0 < fraction < 1:
        raise ValueError(f"test_fraction must lie strictly between 0 and 1, got {fraction}")
    image, text = check_both(image_features, text_features)
    matches = check_matches(text_image_index, image, text)
    image_rows, text_rows = _first_texts(matches, len(image))
    train, test = _split(len(image_rows), fraction, seed)
    images, texts = image[image_rows].double().cpu().numpy(), text[text_rows].double().cpu().numpy()
    score = _fit_and_score(
        np.concatenate([images[train], texts[train]]), np.concatenate([images[test], texts[test]]), method
    )
    return torch.tensor(score, dtype=image.dtype, device=image.device)


def _first_texts(matches: Tensor, num_images: int) -> tuple[Tensor, Tensor]:
    """Images that have text, ``(K,)``, and the first text row of each, ``(K,)``."""
    num_texts = len(matches)
    first = torch.full((num_images,), num_texts, device=matches.device)
    first.scatter_reduce_(0, matches, torch.arange(num_texts, device=matches.device), reduce="amin")
    image_rows = (first < num_texts).nonzero().squeeze(1)
    return image_rows, first[image_rows]


def _split(num_images: int, test_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random train and test positions among the images, one at least on either side."""
    if num_images < 2:
        raise ValueError(f"linear separability needs two images with text at least, got {num_images}")
    num_test = min(max(round(test_fraction * num_images), 1), num_images - 1)
    order = np.random.default_rng(seed).permutation(num_images)
    return order[num_test:], order[:num_test]


def _fit_and_score(train: np.ndarray, test: np.ndarray, method: str) -> float:
    """Fit on rows whose first half is images and second half texts; score on rows laid out likewise."""
    # Imported here: scikit-learn costs a second, which only this metric should pay.
    from sklearn.linear_model import LinearRegression, LogisticRegression

    train_labels = np.repeat([1, 0], len(train) // 2)
    test_labels = np.repeat([1, 0], len(test) // 2)
    if method == "logreg":
        classifier = LogisticRegression(max_iter=1000).fit(train, train_labels)
        return float(classifier.score(test, test_labels))
    regression = LinearRegression().fit(train, train_labels)
    return float(1 - np.mean((regression.predict(test) - test_labels) ** 2))
