import math

import open_clip
import pytest
import torch

from i0t.losses.clip import ClipLoss, clip_loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_plain_loops(naive, unit_rows, smoothing, scale, dtype, tolerance):
    x, y = unit_rows(9, 5, dtype=dtype), unit_rows(9, 5, seed=1, dtype=dtype)
    parts = clip_loss(x, y, torch.tensor(scale, dtype=torch.float64), label_smoothing=smoothing)
    assert parts.keys() == {"loss", "contrastive"}
    assert parts["loss"].item() == pytest.approx(naive["contrastive"](x, y, scale, smoothing), rel=tolerance)
    assert parts["contrastive"] is parts["loss"]


def test_two_pairs_by_hand():
    """Cosines [[1, 0], [.6, .8]]: rows log(1 + e^-1), log(1 + e^-.2); columns log(1 + e^-.4), log(1 + e^-.8)."""
    x = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    y = torch.eye(2)
    by_hand = sum(math.log1p(math.exp(-d)) for d in (1.0, 0.2, 0.4, 0.8)) / 4
    assert clip_loss(x, y, torch.tensor(1.0))["loss"].item() == pytest.approx(by_hand, rel=1e-6)


def test_ties_give_the_logarithm_of_the_batch():
    x = torch.tensor([[1.0, 0.0]]).expand(7, 2)
    for smoothing in (0.0, 0.3):
        loss = clip_loss(x, x, torch.tensor(100.0), label_smoothing=smoothing)["loss"]
        assert loss.item() == pytest.approx(math.log(7), rel=1e-6)


def test_logit_scale_100_is_finite_and_exact_at_both_ends():
    x = torch.eye(4, requires_grad=True)
    assert clip_loss(x, x, torch.tensor(100.0))["loss"].item() == 0.0
    wrong = clip_loss(x, x.roll(1, 0), torch.tensor(100.0))["loss"]
    assert wrong.item() == pytest.approx(100.0, rel=1e-6)
    wrong.backward()
    assert torch.isfinite(x.grad).all()


def test_equals_open_clip_with_its_gradients(unit_rows):
    x, y = (unit_rows(16, 8, seed=s, dtype=torch.float32) for s in (0, 1))
    results = []
    for loss in (ClipLoss(), open_clip.ClipLoss()):
        leaves = [x.clone().requires_grad_(), y.clone().requires_grad_(), torch.tensor(20.0, requires_grad=True)]
        out = loss(*leaves)
        value = out["loss"] if isinstance(out, dict) else out
        value.backward()
        results.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_gradcheck(unit_rows):
    x, y = unit_rows(4, 3).requires_grad_(), unit_rows(4, 3, seed=1).requires_grad_()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: clip_loss(*a, label_smoothing=0.1)["loss"], (x, y, scale))


def test_bias_changes_nothing_but_is_in_the_graph(unit_rows):
    x, y = unit_rows(5, 3), unit_rows(5, 3, seed=1)
    bias = torch.tensor(-10.0, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(10.0)
    with_bias = ClipLoss()(x, y, scale, bias)["loss"]
    torch.testing.assert_close(with_bias, ClipLoss()(x, y, scale)["loss"])
    with_bias.backward()
    assert abs(bias.grad.item()) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_gradients_are_nearer_to_float64_than_open_clips(unit_rows, dtype):
    """Matched pairs at CLIP's scale, where open_clip's half-precision logits are wrong by tenths."""
    x, y = unit_rows(96, 32, dtype=torch.float32), unit_rows(96, 32, seed=1, dtype=torch.float32)
    y = torch.nn.functional.normalize(x + 0.9 * y, dim=1)

    def gradients(loss, dtype, enabled):
        leaves = [each.to(dtype).clone().requires_grad_() for each in (x, y, torch.tensor(100.0))]
        with torch.autocast("cpu", half, enabled=enabled):
            out = loss(*leaves)
        (out["loss"] if isinstance(out, dict) else out).backward()
        assert all(leaf.grad.dtype == dtype for leaf in leaves)
        return torch.cat([leaf.grad.double().flatten() for leaf in leaves])

    half = dtype
    exact = gradients(open_clip.ClipLoss(), torch.float64, False)
    ours, theirs = (gradients(loss, torch.float32, True) for loss in (ClipLoss(), open_clip.ClipLoss()))
    assert (ours - exact).norm() < 0.5 * (theirs - exact).norm()


def test_half_precision_rows_give_a_float32_loss(unit_rows):
    x, y = unit_rows(6, 32, dtype=torch.bfloat16), unit_rows(6, 32, seed=1, dtype=torch.bfloat16)
    scale = torch.tensor(100.0)
    loss = clip_loss(x, y, scale)["loss"]
    assert loss.dtype == torch.float32
    assert loss.item() == clip_loss(x.float(), y.float(), scale)["loss"].item()


def test_unequal_shapes_are_an_error():
    with pytest.raises(ValueError, match=r"one text per image.*\(3, 2\).*\(4, 2\)"):
        clip_loss(torch.ones(3, 2), torch.ones(4, 2), torch.tensor(1.0))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_bad_smoothing_is_an_error(smoothing):
    with pytest.raises(ValueError, match="label_smoothing"):
        ClipLoss(label_smoothing=smoothing)
