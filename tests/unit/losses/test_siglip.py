import math

import pytest
import torch
from open_clip.loss import SigLipLoss as OpenClipSigLipLoss

from i0t.losses.siglip import SigLipLoss, siglip_loss


def log_sigmoid(value):
    return -math.log1p(math.exp(-value)) if value > 0 else value - math.log1p(math.exp(value))


@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (117.0, -12.9), (1.0, 0.0)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_plain_loops(unit_rows, scale, bias, dtype, tolerance):
    x, y = unit_rows(9, 5, dtype=dtype), unit_rows(9, 5, seed=1, dtype=dtype)
    expected = 0.0
    for i, row in enumerate(x.double().tolist()):
        for j, column in enumerate(y.double().tolist()):
            logit = scale * sum(a * b for a, b in zip(row, column, strict=True)) + bias
            expected -= log_sigmoid(logit if i == j else -logit) / 9
    parts = siglip_loss(
        x, y, torch.tensor(scale, dtype=torch.float64), logit_bias=torch.tensor(bias, dtype=torch.float64)
    )
    assert parts.keys() == {"loss", "sigmoid"}
    assert parts["loss"].item() == pytest.approx(expected, rel=tolerance)
    assert parts["sigmoid"] is parts["loss"]


def test_two_pairs_by_hand():
    """Logits 0: every one of the four questions costs log 2; over two rows."""
    x = torch.eye(2)
    loss = siglip_loss(x, x, torch.tensor(5.0), logit_bias=torch.tensor(0.0))["loss"]
    assert loss.item() == pytest.approx(math.log(2) + math.log1p(math.exp(-5)), rel=1e-6)


def test_a_certain_pair_costs_its_exponential_and_no_rounding():
    x = torch.eye(2)
    loss = siglip_loss(x, x, torch.tensor(60.0), logit_bias=torch.tensor(-30.0))["loss"]
    assert loss.item() == pytest.approx(2 * math.exp(-30), rel=1e-4)


def test_equals_open_clip_with_its_gradients(unit_rows):
    x, y = (unit_rows(16, 8, seed=s, dtype=torch.float32) for s in (0, 1))
    results = []
    for loss in (SigLipLoss(), OpenClipSigLipLoss()):
        scale, bias = torch.tensor(10.0, requires_grad=True), torch.tensor(-7.0, requires_grad=True)
        leaves = [x.clone().requires_grad_(), y.clone().requires_grad_(), scale, bias]
        out = loss(*leaves)
        value = out["loss"] if isinstance(out, dict) else out
        value.backward()
        results.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_gradcheck(unit_rows):
    x, y = unit_rows(4, 3).requires_grad_(), unit_rows(4, 3, seed=1).requires_grad_()
    scale, bias = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (5.0, -2.0))
    assert torch.autograd.gradcheck(lambda x, y, s, b: siglip_loss(x, y, s, logit_bias=b)["loss"], (x, y, scale, bias))


def test_a_model_without_bias_is_one_clear_line():
    with pytest.raises(ValueError, match=r"needs a model with a logit bias.*set model\.logit_bias=-10"):
        SigLipLoss()(torch.eye(2), torch.eye(2), torch.tensor(10.0))


def test_unequal_shapes_are_an_error():
    with pytest.raises(ValueError, match=r"one text per image.*\(3, 2\).*\(4, 2\)"):
        siglip_loss(torch.ones(3, 2), torch.ones(4, 2), torch.tensor(1.0), logit_bias=torch.tensor(0.0))
