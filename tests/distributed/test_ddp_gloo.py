"""Two processes through gloo: every result equals that of one process with the whole batch."""

import pytest
import torch
from torch import nn

from i0t.gap_reducers.async_bn import AsyncBatchNorm

pytestmark = pytest.mark.ddp


@pytest.fixture
def data():
    """9 images with 1 to 3 captions, cut into shards of 5 and 4 images; no row is unit."""
    generator = torch.Generator().manual_seed(5)
    counts = torch.tensor([1, 2, 3, 1, 2, 2, 1, 3, 1])
    image = torch.randn(9, 6, generator=generator) + 1
    text = torch.randn(int(counts.sum()), 6, generator=generator) - 2
    pairs = torch.stack([torch.repeat_interleave(torch.arange(9), counts), torch.arange(int(counts.sum()))], dim=1)
    return image, text, pairs, [5, 4], [int(counts[:5].sum()), int(counts[5:].sum())]


def assert_equal_dicts(actual, expected, **tolerance):
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


# --- the pool itself ---


def test_pool_runs_in_two_processes(gloo_pool):
    assert gloo_pool.run("world") == [(0, 2, True), (1, 2, True)]


@pytest.mark.parametrize("failing_rank", [0, 1])
def test_worker_exception_reaches_the_test_with_its_traceback(gloo_pool, failing_rank):
    with pytest.raises(AssertionError, match=rf"(?s)rank {failing_rank}: Traceback.*workers\.py.*a marked failure"):
        gloo_pool.run("raise_on", failing_rank)
    assert gloo_pool.run("world") == [(0, 2, True), (1, 2, True)]


@pytest.mark.slow
def test_dead_and_silent_workers_do_not_hang(gloo_pool):
    with pytest.raises(AssertionError, match="rank 1: died in die_on"):
        gloo_pool.run("die_on", 1)
    with pytest.raises(AssertionError, match="rank 0: no answer to sleep_on"):
        gloo_pool.run("sleep_on", 0, 60, timeout=0.5)
    assert gloo_pool.run("world") == [(0, 2, True), (1, 2, True)]


# --- collectives ---


def test_gather_and_its_gradient(gloo_pool):
    x = torch.randn(6, 3, dtype=torch.float64)
    weights = torch.randn(2, 6, 3, dtype=torch.float64)
    results = gloo_pool.run("gather_gradient", x, weights)
    expected = 2 * x * weights.sum(0)  # every rank's loss reaches every row
    for rank, (gathered, gradient) in enumerate(results):
        torch.testing.assert_close(gathered, x, rtol=0, atol=0)
        torch.testing.assert_close(gradient, expected.chunk(2)[rank], rtol=1e-14, atol=1e-14)


def test_gather_of_uneven_batches_is_an_error(gloo_pool):
    with pytest.raises(AssertionError, match=r"(?s)rank 0: .*hold different.*rank 1: .*rows \[3, 2\]; drop"):
        gloo_pool.run("gather_uneven", [3, 2])  # both ranks raise, so that none waits


def test_reduce_and_its_gradient(gloo_pool):
    x = torch.randn(2, 4, dtype=torch.float64)
    weights = torch.randn(2, 4, dtype=torch.float64)
    for total, gradient in gloo_pool.run("reduce_gradient", x, weights):
        torch.testing.assert_close(total, x.sum(0))
        torch.testing.assert_close(gradient, 2 * x.sum(0) * weights.sum(0))


def test_reduce_without_gradient_in_place_and_not(gloo_pool):
    x = torch.tensor([[1.0, 2.0], [10.0, 20.0]])
    for rank, (mine, returned, copied, total, rows) in enumerate(gloo_pool.run("reduce_in_place", x)):
        assert mine.tolist() == returned.tolist() == total.tolist() == [11.0, 22.0]
        assert copied.tolist() == x[rank].tolist()
        assert rows == [5, 6]


# --- reducers ---


def test_batch_norm_over_uneven_ranks_equals_batchnorm1d(gloo_pool):
    rows = torch.randn(8, 4, dtype=torch.float64) * 3 + 5
    upstream = torch.randn(8, 4, dtype=torch.float64)
    oracle = nn.BatchNorm1d(4, momentum=0.1, eps=1e-5).double()
    torch.manual_seed(1)
    oracle.weight.data.uniform_(0.5, 2)
    oracle.bias.data.normal_()
    whole = rows.clone().requires_grad_()
    expected = oracle(whole)
    (expected * upstream).sum().backward()
    for rank, result in enumerate(gloo_pool.run("batch_norm_step", rows, [5, 3], upstream)):
        out, input_gradient, (weight_gradient, bias_gradient), running_mean, running_var = result
        torch.testing.assert_close(out, expected.detach().split([5, 3])[rank], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(input_gradient, whole.grad.split([5, 3])[rank], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(weight_gradient, oracle.weight.grad)
        torch.testing.assert_close(bias_gradient, oracle.bias.grad)
        torch.testing.assert_close(running_mean, oracle.running_mean)
        torch.testing.assert_close(running_var, oracle.running_var)


def test_batch_norm_with_one_row_in_all_ranks_is_an_error(gloo_pool):
    with pytest.raises(AssertionError, match=r"(?s)rank 0.*got 1: raise batch_size.*rank 1.*got 1: raise batch_size"):
        gloo_pool.run("batch_norm_single_row")


@pytest.mark.parametrize("fit_samples", [None, 5])
def test_posthoc_on_uneven_shards_equals_one_process(gloo_pool, workers, data, fit_samples):
    expected = workers.fit_posthoc(fit_samples, *data)
    assert int(expected["num_fit_images"]) == (fit_samples or 9)
    for state in gloo_pool.run("fit_posthoc", fit_samples, *data):
        assert_equal_dicts(state, expected, rtol=0, atol=1e-7)


def test_posthoc_without_pairs_draws_both_modalities_over_all_ranks(gloo_pool, workers, data):
    image, text, pairs, image_sizes, text_sizes = data
    unpaired = (image, text, pairs[:0], image_sizes, text_sizes)
    expected = workers.fit_posthoc(7, *unpaired)
    for state in gloo_pool.run("fit_posthoc", 7, *unpaired):
        assert_equal_dicts(state, expected, rtol=0, atol=1e-7)


def test_bad_row_on_one_rank_raises_on_every_rank(gloo_pool, data):
    image, *rest = data
    image[7] = 0
    for message in gloo_pool.run("fit_error_posthoc", image, *rest):
        assert message == "1 of 9 image features are zero, NaN or infinite: nothing was fitted"


def test_async_bn_statistics_on_uneven_shards_equal_one_process(gloo_pool, workers, data):
    expected = workers.fit_async_bn("cyclip", 0, 1e-3, *data)
    first, second = gloo_pool.run("fit_async_bn", "cyclip", 3, 1e-3, *data)
    assert_equal_dicts(second, first, rtol=0, atol=0)  # same parameters on all ranks
    for name, value in first.items():
        if "weight" in name or "bias" in name:
            assert (value - expected[name]).abs().max() > 1e-4  # it did train
        else:
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-7)


@pytest.mark.parametrize("fit_samples", [None, 5])
def test_async_bn_recalibrates_on_uneven_shards_as_one_process_fits(gloo_pool, workers, data, fit_samples):
    batch_rows = torch.randn(8, data[0].shape[1])
    fitted = AsyncBatchNorm(data[0].shape[1], loss=None, epochs=0, fit_samples=fit_samples, seed=4)
    fitted.fit(workers.embeddings(*data))
    expected = dict(fitted.named_buffers())
    assert int(expected["num_fit_images"]) == (fit_samples or 9)
    for before, after in gloo_pool.run("recalibrate_async_bn", batch_rows, fit_samples, *data):
        assert int(before["num_fit_images"]) == 0
        assert (before["image_norm.running_mean"] - after["image_norm.running_mean"]).abs().max() > 0.01
        assert_equal_dicts({name: after[name] for name in expected}, expected, rtol=0, atol=1e-7)
        for name in ("text_norm.weight", "image_norm.bias"):
            assert torch.equal(before[name], after[name]), name


def test_layer_norm_in_ranks_has_the_gradients_of_the_whole_batch(gloo_pool, workers):
    images, texts = torch.randn(8, 5, dtype=torch.float64), torch.randn(8, 5, dtype=torch.float64)
    expected = workers.layer_norm_gradient(images, texts)
    assert all(gradient.abs().max() > 1e-3 for gradient in expected.values())
    for gradients in gloo_pool.run("layer_norm_gradient", images, texts):
        assert_equal_dicts(gradients, expected, rtol=1e-9, atol=1e-10)


def test_mean_shift_on_uneven_shards_equals_one_process(gloo_pool, workers, data):
    expected = workers.fit_mean_shift(*data)
    for state in gloo_pool.run("fit_mean_shift", *data):
        assert_equal_dicts(state, expected, rtol=0, atol=1e-7)


def test_async_bn_gradients_equal_whole_batch(gloo_pool, workers):
    images, texts = torch.randn(8, 5, dtype=torch.float64), torch.randn(8, 5, dtype=torch.float64)
    expected = workers.async_bn_gradient(images, texts)
    for gradients in gloo_pool.run("async_bn_gradient", images, texts):
        assert_equal_dicts(gradients, expected, rtol=1e-9, atol=1e-10)


def test_the_image_tower_of_mad_is_that_of_one_process_with_the_whole_batch(gloo_pool, workers):
    images = torch.randn(8, 3, 12, 12, dtype=torch.float64)
    upstream = torch.randn(8, 5, dtype=torch.float64)
    out, gradients, buffers = workers.tower_step(images, upstream, [8])
    shards = gloo_pool.run("tower_step", images, upstream, [5, 3])
    torch.testing.assert_close(torch.cat([found[0] for found in shards]), out, rtol=1e-9, atol=1e-9)
    for _, found_gradients, found_buffers in shards:
        torch.testing.assert_close(found_gradients, gradients, rtol=1e-8, atol=1e-9)
        for name, value in found_buffers.items():
            if "num_batches" not in name:
                torch.testing.assert_close(value, buffers[name], rtol=1e-9, atol=1e-9)
