"""Losses in two processes through gloo, under DistributedDataParallel, against one process."""

import pytest
import torch
import torch.nn.functional as F

pytestmark = pytest.mark.ddp

WIDE, NARROW = 16, 4  # of a global batch of 8: tiles, and D x D matrices
SOFTMAX_LOSSES = ["clip", "cyclip", "cyclip_unequal", "cloob", "uniformity_alignment"]
LOSSES = [*SOFTMAX_LOSSES, "siglip"]  # whose value does not depend on how a batch is cut
NOT_USED = {"logit_bias": [*SOFTMAX_LOSSES, "long_clip"], "logit_scale": ["cloob"]}


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 7, generator=generator, dtype=torch.float64)
    return images, torch.randn(8, 5, generator=generator, dtype=torch.float64)


def average(results):
    """Mean over ranks of dicts of tensors."""
    return {name: sum(result[name] for result in results) / len(results) for name in results[0]}


def assert_close(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(
            actual[name], expected[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def assert_step(results, loss_name, expected, tolerance):
    """Every rank has the expected gradients and parameters, and the parts' averages are the expected parts."""
    parts, gradients, parameters = expected
    assert_close(average([result[0] for result in results]), parts, tolerance)
    for name, gradient in gradients.items():
        used = loss_name not in NOT_USED.get(name, [])
        assert (gradient.abs().max() > 1e-3) == used, name
    for _, rank_gradients, rank_parameters in results:
        assert_close(rank_gradients, gradients, tolerance)
        assert_close(rank_parameters, parameters, tolerance)


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("loss_name", LOSSES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-6)])
def test_ddp_step_equals_whole_batch(gloo_pool, workers, batch, loss_name, width, dtype, tolerance):
    step = (loss_name, width, dtype, *batch)
    assert_step(gloo_pool.run("train_step", *step), loss_name, workers.train_step(*step), tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("loss_name", LOSSES)
def test_ddp_step_on_four_ranks_equals_whole_batch(gloo_pool_of_four, workers, batch, loss_name, width):
    step = (loss_name, width, torch.float64, *batch)
    assert_step(gloo_pool_of_four.run("train_step", *step), loss_name, workers.train_step(*step), 1e-9)


@pytest.mark.parametrize("width", [WIDE, 3])  # of a local batch of 4
@pytest.mark.parametrize("loss_name", [*LOSSES, "long_clip"])
def test_ddp_step_with_local_negatives_is_the_mean_of_two_batches(gloo_pool, workers, batch, loss_name, width):
    """The oracle knows nothing of negatives: it is one process with half of the batch, twice."""
    results = gloo_pool.run("train_step", loss_name, width, torch.float64, *batch, "local")
    halves = [
        workers.train_step(loss_name, width, torch.float64, images, texts)
        for images, texts in zip(*(rows.chunk(2) for rows in batch), strict=True)
    ]
    for (parts, *_), (half_parts, *_) in zip(results, halves, strict=True):
        assert_close(parts, half_parts, 1e-9)
    expected = tuple(average([half[kind] for half in halves]) for kind in range(3))
    assert_step(results, loss_name, expected, 1e-9)


@pytest.mark.parametrize("loss_name", LOSSES)
def test_local_and_global_negatives_differ(workers, gloo_pool, batch, loss_name):
    whole = workers.train_step(loss_name, WIDE, torch.float64, *batch)[0]["loss"]
    local = gloo_pool.run("train_step", loss_name, WIDE, torch.float64, *batch, "local")
    assert abs(average([result[0] for result in local])["loss"] - whole) > 1e-2


def long_clip_by_hand(workers, images, texts, num_ranks, num_components):
    """Long-CLIP's loss of a whole batch whose principal components are those of each rank's share."""

    def coarse(rows):
        centred = rows - rows.mean(0)
        kept = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -num_components:]
        return rows.mean(0) + centred @ kept @ kept.T

    def contrastive(image, text):
        logits, targets = scale * image @ text.T, torch.arange(len(image))
        both = [F.cross_entropy(each, targets, label_smoothing=0.1) for each in (logits, logits.T)]
        return sum(both) / 2

    model = workers.TwoTowers(3, torch.float64)  # 4 rows of width 3: no two eigenvalues agree
    image, text, scale, _, short = model(images, texts)
    coarse_image = torch.cat([coarse(rows) for rows in image.chunk(num_ranks)])
    parts = {"long": contrastive(image, text), "short": contrastive(coarse_image, short)}
    sum(parts.values()).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if name != "logit_bias"}
    return {name: part.detach() for name, part in parts.items()}, gradients


def test_long_clip_has_global_negatives_and_local_components(gloo_pool, workers, batch):
    parts, gradients = long_clip_by_hand(workers, *batch, num_ranks=2, num_components=2)
    results = gloo_pool.run("train_step", "long_clip", 3, torch.float64, *batch)
    actual = average([result[0] for result in results])
    assert actual.pop("loss") == pytest.approx(float(sum(parts.values())), rel=1e-9)
    assert_close(actual, parts, 1e-9)
    for _, rank_gradients, _ in results:
        assert rank_gradients.pop("logit_bias").abs() < 1e-12
        assert_close(rank_gradients, gradients, 1e-4)  # damped by (0.001 / relative gap)^2
    other, _ = long_clip_by_hand(workers, *batch, num_ranks=1, num_components=2)
    assert abs(other["short"] - parts["short"]) > 1e-3
