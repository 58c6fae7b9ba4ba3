import numpy as np
import pytest
import torch

from i0t.metrics import functional as F


def naive(image, text, index, test_fraction, seed, ols):
    """One caption per image by a plain loop, the documented split, normal equations or sklearn."""
    first = {}
    for k, i in enumerate(index.tolist()):
        first.setdefault(i, k)
    images = sorted(first)
    order = np.random.default_rng(seed).permutation(len(images))
    num_test = round(test_fraction * len(images))

    def rows(positions):
        x = [image[images[p]].tolist() for p in positions]
        y = [text[first[images[p]]].tolist() for p in positions]
        return np.array(x + y), np.array([1] * len(x) + [0] * len(y))

    train, labels = rows(order[num_test:])
    test, truth = rows(order[:num_test])
    if not ols:
        from sklearn.linear_model import LogisticRegression

        return np.mean(LogisticRegression().fit(train, labels).predict(test) == truth)
    weights = np.linalg.lstsq(np.c_[train, np.ones(len(train))], labels, rcond=None)[0]
    return 1 - np.mean((np.c_[test, np.ones(len(test))] @ weights - truth) ** 2)


@pytest.mark.parametrize("captions", [1, 5])
@pytest.mark.parametrize(("method", "fraction"), [("logreg", 0.2), ("ols", 0.3)])
def test_against_a_plain_recipe(paired_set, captions, method, fraction):
    image, text, index = paired_set(60, captions, gap=0.1, dtype=torch.float64)
    value = F.linear_separability(image, text, index, method=method, seed=3)
    assert float(value) == pytest.approx(naive(image, text, index, fraction, 3, method == "ols"), abs=1e-6)
    value = F.linear_separability(image, text, index, method=method, test_fraction=0.5, seed=4)
    assert float(value) == pytest.approx(naive(image, text, index, 0.5, 4, method == "ols"), abs=1e-6)


@pytest.mark.parametrize("method", ["logreg", "ols"])
def test_scores_belong_to_the_held_out_images(paired_set, method):
    image, text, index = paired_set(60, 2, gap=0.15, noise=1.0, dtype=torch.float64)
    rows, scores = F.separability_scores(image, text, index, method=method, seed=3)
    num_test = 12 if method == "logreg" else 18
    assert sorted(rows.tolist()) == sorted(np.random.default_rng(3).permutation(60)[:num_test].tolist())
    assert float(scores.mean()) == float(F.linear_separability(image, text, index, method=method, seed=3))
    if method == "logreg":
        from sklearn.linear_model import LogisticRegression

        first = {i: index.tolist().index(i) for i in range(60)}
        train = [i for i in range(60) if i not in rows.tolist()]
        x = np.concatenate([image[train].numpy(), text[[first[i] for i in train]].numpy()])
        model = LogisticRegression().fit(x, [1] * len(train) + [0] * len(train))
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            pair = np.stack([image[row].numpy(), text[first[row]].numpy()])
            assert score == np.mean(model.predict(pair) == [1, 0])
        assert len(scores.unique()) > 1


def test_shared_prompts_balance_with_one_image_each(paired_set):
    image, text, _ = paired_set(200, 1, 8, gap=0.1, dtype=torch.float64)
    classes = torch.randint(0, 40, (200,), generator=torch.Generator().manual_seed(0))
    pairs = torch.stack([torch.arange(200), classes], 1)
    first = [int((classes == c).nonzero()[0]) for c in range(40)]
    value = F.linear_separability(image, text[:40], pairs=pairs, seed=1)
    assert float(value) == pytest.approx(float(F.linear_separability(image[first], text[:40], seed=1)))


def mean_accuracy(paired_set, gap, captions=1):
    values = [
        F.linear_separability(*paired_set(800, captions, 8, gap=gap, noise=1.0, seed=s), seed=s) for s in range(5)
    ]
    return float(torch.stack(values).mean())


def test_known_answers(paired_set):
    assert mean_accuracy(paired_set, 0.0) == pytest.approx(0.5, abs=0.05)
    assert 0.6 < mean_accuracy(paired_set, 0.15) < 0.95
    assert mean_accuracy(paired_set, 2.0) == 1.0


def test_several_captions_leave_the_classes_balanced(paired_set):
    # With all 5 captions per image the majority class alone would give .83.
    image, text, index = paired_set(800, 5, 8, gap=0.0, noise=1.0)
    values = [float(F.linear_separability(image, text, index, seed=seed)) for seed in range(5)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.06)


def test_shuffled_modality_labels_are_at_chance(paired_set):
    image, text, index = paired_set(1000, 1, 8, gap=2.0)
    text = text[torch.argsort(index)]
    swap = (torch.rand(1000, generator=torch.Generator().manual_seed(0)) < 0.5)[:, None]
    value = F.linear_separability(torch.where(swap, text, image), torch.where(swap, image, text))
    assert float(value) == pytest.approx(0.5, abs=0.08)


def test_least_squares_on_inseparable_data_gives_its_finite_sample_value():
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(3):
        rows = torch.nn.functional.normalize(torch.randn(2, 600, 256, generator=generator), dim=2)
        values.append(float(F.linear_separability(rows[0], rows[1], method="ols")))
    n = 840  # 1,200 rows, 70 % of them for training
    expected = 1 - 0.25 * (1 + 257 / (n - 258))  # .64, neither chance nor the .75 of endless data
    assert np.mean(values) == pytest.approx(expected, abs=0.03)


def test_options_are_checked(paired_set):
    image, text, index = paired_set(10)
    with pytest.raises(ValueError, match="method must be one of 'logreg', 'ols', got 'svm'"):
        F.linear_separability(image, text, index, method="svm")
    with pytest.raises(ValueError, match="strictly between 0 and 1, got 1"):
        F.linear_separability(image, text, index, test_fraction=1.0)
    with pytest.raises(ValueError, match="two images with text at least, got 1"):
        F.linear_separability(image, text, torch.zeros(10, dtype=torch.int64))
