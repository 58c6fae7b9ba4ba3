"""Parameters after twenty steps in several processes equal those of one process with the same global batch."""

import pytest
import torch

LOSSES = ("clip", "cyclip", "siglip", "cloob", "uniformity_alignment", "long_clip")
REDUCERS = ("none", "posthoc", "mean_shift", "async_bn", "layer_norm")
# In float32 AdamW divides rounding by its own size: what it amplifies is no error of the gradient.
TOLERANCES = {"sgd": {"rtol": 1e-6, "atol": 1e-6}, "adamw": {"rtol": 1e-8, "atol": 1e-9}}


@pytest.fixture(scope="module")
def one_process(workers):
    """States after a training in this process, each computed once."""
    known = {}

    def state(loss, reducer, optimizer):
        key = (loss, reducer, optimizer)
        if key not in known:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # as the pools have
            known[key] = workers.train_whole(loss, reducer, optimizer, None)
            torch.set_num_threads(threads)
        return known[key]

    return state


def check(pool, one_process, loss, reducer, optimizer, chunk):
    _, alone = one_process(loss, reducer, optimizer)
    for _, state in pool.run("train_whole", loss, reducer, optimizer, chunk):
        assert state.keys() == alone.keys()
        for name, value in state.items():
            torch.testing.assert_close(value, alone[name], **TOLERANCES[optimizer], msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.ddp
@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize(
    ("loss", "reducer", "optimizer"),
    [("cyclip", "async_bn", "sgd"), ("clip", "none", "adamw"), ("siglip", "posthoc", "adamw")],
)
def test_two_processes_train_as_one(gloo_pool, one_process, loss, reducer, optimizer, chunk):
    check(gloo_pool, one_process, loss, reducer, optimizer, chunk)


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_and_reducer_trains_in_two_processes_as_in_one(
    gloo_pool, one_process, loss, reducer, optimizer, chunk
):
    check(gloo_pool, one_process, loss, reducer, optimizer, chunk)


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("reducer", REDUCERS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_and_reducer_trains_in_four_processes_as_in_one(
    gloo_pool_of_four, one_process, loss, reducer, optimizer, chunk
):
    check(gloo_pool_of_four, one_process, loss, reducer, optimizer, chunk)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_training_moves_far_beyond_the_tolerance(one_process, loss, optimizer):
    start, end = one_process(loss, "none", optimizer)
    for part in ("image.0.weight", "text.0.weight"):
        assert (end[f"model.clip.{part}"] - start[f"model.clip.{part}"]).abs().max() > 2e-3
