import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from i0t.metrics import functional as F
from i0t.metrics.functional import zero_shot


def naive(image, prompts, mask, aggregate):
    predictions = []
    for x in image.double().numpy():
        scores = []
        for c in range(len(prompts)):
            rows = [prompts[c, t].double().numpy() for t in range(prompts.shape[1]) if mask[c, t]]
            rows = [row / np.linalg.norm(row) for row in rows]
            mean = np.mean(rows, axis=0)
            scores.append(x @ mean / np.linalg.norm(mean) if aggregate == "mean" else max(x @ row for row in rows))
        predictions.append(int(np.argmax(scores)))
    return predictions


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("aggregate", ["mean", "max"])
@pytest.mark.parametrize("masked", [False, True])
def test_against_loops(paired_set, monkeypatch, dtype, aggregate, masked):
    image, _, _ = paired_set(50, gap=0.0, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randn(7, 4, 8, generator=generator) * torch.tensor([0.1, 1.0, 3.0, 10.0])[:, None]
    mask = torch.ones(7, 4, dtype=torch.bool)
    if masked:
        mask = torch.rand(7, 4, generator=generator) < 0.5
        mask[:, 1] = True
        prompts[~mask] = torch.nan
    monkeypatch.setattr(zero_shot, "block_size", lambda *_: 8)
    predictions = F.zero_shot_predictions(image, prompts, mask if masked else None, aggregate=aggregate)
    assert predictions.tolist() == naive(image, prompts, mask, aggregate)
    assert predictions.dtype == torch.int64
    assert len(predictions.unique()) > 3


@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_ranks_of_the_true_class_against_a_loop(paired_set, monkeypatch, aggregate):
    image, _, _ = paired_set(40, gap=0.0)
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randn(6, 3, 8, generator=generator)
    prompts[4] = prompts[1]  # two classes that always score alike
    labels = torch.randint(0, 6, (40,), generator=generator)
    monkeypatch.setattr(zero_shot, "block_size", lambda *_: 7)
    ranks = F.zero_shot_ranks(image, prompts, labels, aggregate=aggregate)
    unit = torch.nn.functional.normalize(prompts, dim=2)
    for row in range(40):
        scores = []
        for c in range(6):
            rows = [unit[c, t] for t in range(3)]
            mean = torch.nn.functional.normalize(torch.stack(rows).mean(0), dim=0)
            scores.append(float(image[row] @ mean) if aggregate == "mean" else max(float(image[row] @ r) for r in rows))
        order = sorted(range(6), key=lambda c: (-round(scores[c], 5), c))
        assert int(ranks[row]) == 1 + order.index(int(labels[row]))
    predicted = F.zero_shot_predictions(image, prompts, aggregate=aggregate)
    assert torch.equal(ranks == 1, predicted == labels)
    assert len(ranks.unique()) > 4
    with pytest.raises(ValueError, match=r"labels must have shape \(40,\)"):
        F.zero_shot_ranks(image, prompts, labels[:3])


def test_mean_and_max_differ_where_they_should():
    image = torch.tensor([[1.0, 0.0]])
    prompts = torch.tensor([[[1.0, 0.0], [-0.8, 0.6]], [[0.8, 0.6], [0.8, 0.6]]])
    assert F.zero_shot_predictions(image, prompts, aggregate="max").tolist() == [0]
    assert F.zero_shot_predictions(image, prompts, aggregate="mean").tolist() == [1]


def test_accuracy_against_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 5, (200,), generator=generator) ** 2 // 4  # classes 0, 1, 2 and 4, uneven
    predictions = torch.where(torch.rand(200, generator=generator) < 0.6, labels, labels.flip(0))
    scores = F.zero_shot_accuracy(predictions, labels, 6)
    assert float(scores["accuracy"]) == pytest.approx(np.mean(predictions.numpy() == labels.numpy()))
    assert float(scores["balanced_accuracy"]) == pytest.approx(balanced_accuracy_score(labels, predictions))
    assert float(scores["balanced_accuracy"]) != pytest.approx(float(scores["accuracy"]), abs=1e-3)


def test_bad_arguments():
    rows, prompts = torch.eye(2), torch.ones(3, 2, 2)
    with pytest.raises(ValueError, match="aggregate must be 'mean' or 'max', got 'median'"):
        F.zero_shot_predictions(rows, prompts, aggregate="median")
    with pytest.raises(ValueError, match="class 1 has no prompt"):
        F.zero_shot_predictions(rows, prompts, torch.tensor([[True, True], [False, False], [True, False]]))
    with pytest.raises(ValueError, match=r"prompt_features\[2, 1\] has norm 0"):
        F.zero_shot_predictions(rows, prompts * torch.tensor([[1.0, 1], [1, 1], [1, 0]])[..., None])
    with pytest.raises(ValueError, match="mask must be bool"):
        F.zero_shot_predictions(rows, prompts, torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"shape \(classes, prompts, 2\)"):
        F.zero_shot_predictions(rows, torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"labels\[1\] is 3"):
        F.zero_shot_accuracy(torch.tensor([0, 1]), torch.tensor([0, 3]), 3)
    with pytest.raises(ValueError, match="non-empty vectors of one length"):
        F.zero_shot_accuracy(torch.tensor([0, 1]), torch.tensor([0]), 3)
