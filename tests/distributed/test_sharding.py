"""Fully sharded training in two gloo processes: the numbers are those of DDP and of one process."""

import pytest
import torch

pytestmark = pytest.mark.ddp

SETTINGS = {"gradient_clip_val": 0.5}


def assert_same(actual, expected, tolerance):
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            actual[name], value, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def read(path):
    return torch.load(path, weights_only=True)


def run(pool, folder, kind, optimizer="sgd", steps=5, ckpt_path=None, **settings):
    """Results of both ranks, and the checkpoint."""
    found = pool.run("train_sharded", kind, optimizer, {**SETTINGS, **settings}, str(folder), steps, ckpt_path)
    return found, read(folder / f"{kind}.ckpt")


def momenta(checkpoint):
    """Optimizer states in the order of its groups: the numbers that stand for parameters are the strategy's own."""
    (optimizer,) = checkpoint["optimizer_states"]
    return [optimizer["state"].get(number) for group in optimizer["param_groups"] for number in group["params"]]


@pytest.mark.parametrize("kind", ["sharded", "sharded_kept"])
def test_a_sharded_training_ends_where_ddp_and_one_process_do(gloo_pool, workers, tmp_path, kind):
    expected, ddp = run(gloo_pool, tmp_path, "ddp")
    found, sharded = run(gloo_pool, tmp_path, kind)
    workers.train_sharded("one", "sgd", dict(SETTINGS), str(tmp_path), 5, None)
    start = {name: value.clone() for name, value in ddp["state_dict"].items()}
    for other in (ddp, read(tmp_path / "one.ckpt")):
        assert_same(sharded["state_dict"], other["state_dict"], 2e-6)
    assert sharded["global_step"] == 5
    assert start["model.clip.image.blocks.1.inner.weight"].shape == (32, 8), "whole in the checkpoint"
    for one, other in zip(momenta(sharded), momenta(ddp), strict=True):
        torch.testing.assert_close(one["momentum_buffer"], other["momentum_buffer"], rtol=1e-5, atol=1e-6)
    for here, there in zip(found, expected, strict=True):
        assert here["units"] == 6 + 1 + 2, "blocks, embeddings, and the two towers that hold blocks"
        assert set(here["in_training"]) == {6 * 6 + 1}, "cut while it trains"
        cut_or_kept = {6 * 6 + 1} if kind == "sharded" else {0}
        assert set(here["between"]) == cut_or_kept, "between forward and backward, after a validation too"
        assert set(here["in_validation"]) == {0}, "whole while it encodes"
        torch.testing.assert_close(here["features"], there["features"], rtol=1e-5, atol=1e-5)
        assert here["metrics"] == pytest.approx(there["metrics"], rel=1e-4, abs=1e-5)
        assert here["scale"] <= 100 * (1 + 1e-6)
    assert len(found[0]["refit"]) != len(found[1]["refit"]), "the ranks validated different numbers of batches"


@pytest.mark.parametrize("optimizer", ["adamw_fused", "adamw_foreach", "adamw_plain"])
def test_adamw_in_every_implementation(gloo_pool, tmp_path, optimizer):
    _, ddp = run(gloo_pool, tmp_path, "ddp", optimizer)
    _, sharded = run(gloo_pool, tmp_path, "sharded", optimizer)
    assert_same(sharded["state_dict"], ddp["state_dict"], 2e-4)  # AdamW amplifies the rounding of small gradients
    for one, other in zip(momenta(sharded), momenta(ddp), strict=True):
        torch.testing.assert_close(one["exp_avg"], other["exp_avg"], rtol=1e-3, atol=1e-5)
        assert int(one["step"]) == int(other["step"]) == 5


@pytest.mark.parametrize("settings", [{"frozen": True}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": None}])
def test_locked_towers_accumulation_and_no_clipping(gloo_pool, tmp_path, settings):
    _, ddp = run(gloo_pool, tmp_path, "ddp", **settings)
    _, sharded = run(gloo_pool, tmp_path, "sharded", **settings)
    assert_same(sharded["state_dict"], ddp["state_dict"], 2e-6)


def test_a_sharded_training_in_bfloat16(gloo_pool, tmp_path):
    _, ddp = run(gloo_pool, tmp_path, "ddp", precision="bf16-mixed")
    _, sharded = run(gloo_pool, tmp_path, "sharded", precision="bf16-mixed")
    assert {value.dtype for value in sharded["state_dict"].values()} <= {torch.float32, torch.int64, torch.bool}
    assert_same(sharded["state_dict"], ddp["state_dict"], 2e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw_fused", "adamw_foreach"])
@pytest.mark.parametrize("goes_on_as", ["sharded", "ddp"])
def test_a_sharded_training_resumes(gloo_pool, tmp_path, goes_on_as, optimizer):
    _, whole = run(gloo_pool, tmp_path, "sharded", optimizer, steps=6)
    (tmp_path / "first").mkdir()
    run(gloo_pool, tmp_path / "first", "sharded", optimizer, steps=3)
    path = str(tmp_path / "first" / "sharded.ckpt")
    _, resumed = run(gloo_pool, tmp_path, goes_on_as, optimizer, steps=6, ckpt_path=path)
    assert resumed["global_step"] == 6
    assert_same(resumed["state_dict"], whole["state_dict"], 2e-6 if optimizer == "sgd" else 2e-4)
    for one, other in zip(momenta(resumed), momenta(whole), strict=True):
        key = "momentum_buffer" if optimizer == "sgd" else "exp_avg"
        torch.testing.assert_close(one[key], other[key], rtol=1e-3, atol=1e-5)


def test_the_norm_of_cut_and_whole_gradients(gloo_pool):
    parts = [torch.arange(6.0).view(3, 2), torch.ones(5)]  # cut unevenly
    whole = [torch.full((2, 2), 3.0)]
    expected = float(torch.cat([g.flatten() for g in [*parts, *whole]]).norm())
    assert gloo_pool.run("cut_norm", parts, whole) == [pytest.approx(expected)] * 2
