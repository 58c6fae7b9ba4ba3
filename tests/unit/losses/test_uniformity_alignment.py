import math

import pytest
import torch

from i0t.losses.clip import clip_loss
from i0t.losses.uniformity_alignment import UniformityAlignmentLoss, uniformity_alignment_loss
from i0t.metrics.functional import alignment, uniformity

WEIGHTS = {
    "alignment_weight": 0.7,
    "image_uniformity_weight": 0.5,
    "text_uniformity_weight": 2.0,
    "cross_uniformity_weight": 1.5,
}
SCALE = torch.tensor(10.0)


@pytest.mark.parametrize("shape", [(2, 3), (9, 5), (4, 12)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_equals_plain_loops(naive, unit_rows, shape, dtype, tolerance):
    x, y = unit_rows(*shape, dtype=dtype), unit_rows(*shape, seed=1, dtype=dtype)
    parts = uniformity_alignment_loss(x, y, SCALE, label_smoothing=0.2, **WEIGHTS)
    expected = {
        "contrastive": naive["contrastive"](x, y, 10.0, 0.2),
        "alignment": 0.7 * naive["alignment"](x, y),
        "image_uniformity": 0.5 * naive["uniformity"](x),
        "text_uniformity": 2.0 * naive["uniformity"](y),
        "cross_uniformity": 1.5 * naive["cross_uniformity"](x, y),
    }
    assert parts.keys() == {"loss", *expected}
    for name, value in {**expected, "loss": sum(expected.values())}.items():
        assert parts[name].item() == pytest.approx(value, rel=tolerance, abs=tolerance), name


def test_by_hand():
    """Two orthogonal pairs at right angles: distances of 2 everywhere, but 0 between x_1 and y_2."""
    x = torch.eye(3)[:2]
    y = torch.eye(3)[[2, 0]]
    parts = uniformity_alignment_loss(x, y, SCALE, cross_uniformity_weight=1.0)
    assert parts["alignment"].item() == pytest.approx(2, rel=1e-6)
    assert parts["image_uniformity"].item() == pytest.approx(-4, rel=1e-6)
    assert parts["text_uniformity"].item() == pytest.approx(-4, rel=1e-6)
    assert parts["cross_uniformity"].item() == pytest.approx(math.log((1 + math.exp(-4)) / 2), rel=1e-6)


def test_equals_the_metrics_of_the_evaluation(unit_rows):
    x, y = unit_rows(300, 6), unit_rows(300, 6, seed=1)
    parts = uniformity_alignment_loss(x, y, SCALE)
    assert parts["image_uniformity"].item() == pytest.approx(uniformity(x).item(), rel=1e-12)
    assert parts["text_uniformity"].item() == pytest.approx(uniformity(y).item(), rel=1e-12)
    assert parts["alignment"].item() == pytest.approx(alignment(x, y).item(), rel=1e-12)


def test_ties_are_the_worst_uniformity_with_a_finite_gradient():
    x = torch.tensor([[0.6, 0.8]]).repeat(7, 1).requires_grad_()
    parts = uniformity_alignment_loss(x, x, SCALE, cross_uniformity_weight=1.0)
    for name in ("alignment", "image_uniformity", "text_uniformity", "cross_uniformity"):
        assert parts[name].item() == pytest.approx(0, abs=1e-6)
    assert parts["loss"].item() == pytest.approx(math.log(7), rel=1e-6)
    parts["loss"].backward()
    assert x.grad.abs().max() < 1e-4


def test_near_ties_in_float32_have_the_gradient_of_float64(unit_rows):
    """At distances of 1e-3 the squared distance is 1e-6, ten times what float32 cosines resolve."""
    x = unit_rows(1, 64) + 1e-3 * unit_rows(20, 64, seed=1)
    x = (x / x.norm(dim=1, keepdim=True)).float()
    y = unit_rows(20, 64, seed=2, dtype=torch.float32)
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = x.detach().to(dtype, copy=True).requires_grad_()
        uniformity_alignment_loss(leaf, y.to(dtype), SCALE)["image_uniformity"].backward()
        gradients.append(leaf.grad.double())
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[1].norm()


def test_weight_zero_means_not_there(unit_rows):
    x, y = unit_rows(5, 3), unit_rows(5, 3, seed=1)
    nothing = dict.fromkeys(WEIGHTS, 0.0)
    plain = uniformity_alignment_loss(x, y, SCALE, label_smoothing=0.0, **nothing)
    assert plain.keys() == {"loss", "contrastive"}
    assert plain["loss"].item() == clip_loss(x, y, SCALE)["loss"].item()
    for name in WEIGHTS:
        parts = uniformity_alignment_loss(x, y, SCALE, **{**nothing, name: 1.0})
        assert parts.keys() == {"loss", "contrastive", name.removesuffix("_weight")}


def test_gradcheck(unit_rows):
    x, y = unit_rows(4, 3).requires_grad_(), unit_rows(4, 3, seed=1).requires_grad_()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: uniformity_alignment_loss(*a, **WEIGHTS)["loss"], (x, y, scale))


def test_autocast_does_not_lower_the_precision(unit_rows):
    x, y = unit_rows(6, 32, dtype=torch.float32), unit_rows(6, 32, seed=1, dtype=torch.float32)
    expected = uniformity_alignment_loss(x, y, SCALE, **WEIGHTS)
    with torch.autocast("cpu", torch.bfloat16):
        inside = uniformity_alignment_loss(x, y, SCALE, **WEIGHTS)
    for name in inside.keys() - {"contrastive", "loss"}:
        assert inside[name].item() == expected[name].item()
    assert uniformity_alignment_loss(x.bfloat16(), y.bfloat16(), SCALE)["loss"].dtype == torch.float32


def test_module_passes_every_argument(unit_rows):
    x, y = unit_rows(6, 4), unit_rows(6, 4, seed=1)
    arguments = {**WEIGHTS, "label_smoothing": 0.3, "negatives": "local"}
    module = UniformityAlignmentLoss(**arguments)(x, y, SCALE)
    function = uniformity_alignment_loss(x, y, SCALE, **arguments)
    assert {k: v.item() for k, v in module.items()} == {k: v.item() for k, v in function.items()}


def test_a_single_pair_is_an_error():
    with pytest.raises(
        ValueError, match="uniformity compares pairs with others: it needs at least 2 in a batch, got 1"
    ):
        uniformity_alignment_loss(torch.ones(1, 2), torch.ones(1, 2), SCALE)


@pytest.mark.parametrize("bad", [{name: -1.0} for name in WEIGHTS] + [{"label_smoothing": 1.0}])
def test_bad_arguments_are_errors_that_name_them(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        UniformityAlignmentLoss(**bad)
