import pytest
import torch

from i0t.losses.clip import clip_loss
from i0t.losses.cyclip import CyClipLoss, cyclip_loss

SHAPES = [(6, 9), (9, 9), (12, 4)]  # rows below, at and above the width: tiles, then D x D matrices


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_equals_the_published_formula(naive, unit_rows, shape, scale, dtype, tolerance):
    x, y = unit_rows(*shape, dtype=dtype), unit_rows(*shape, seed=1, dtype=dtype)
    cross, intra = naive["cyclic"](x, y, scale)
    contrastive = naive["contrastive"](x, y, scale, 0.1)
    parts = cyclip_loss(
        x,
        y,
        torch.tensor(scale),
        cross_weight=0.5,
        intra_weight=0.125,
        reference_batch=None,
        label_smoothing=0.1,
    )
    assert parts.keys() == {"loss", "contrastive", "cross_modal", "in_modal"}
    assert parts["cross_modal"].item() == pytest.approx(0.5 * cross, rel=tolerance)
    assert parts["in_modal"].item() == pytest.approx(0.125 * intra, rel=tolerance)
    assert parts["contrastive"].item() == pytest.approx(contrastive, rel=tolerance)
    assert parts["loss"].item() == pytest.approx(0.5 * cross + 0.125 * intra + contrastive, rel=tolerance)


def test_reference_batch_scales_the_cyclic_terms_alone(unit_rows):
    x, y = unit_rows(16, 8), unit_rows(16, 8, seed=1)
    scale = torch.tensor(10.0)
    plain = cyclip_loss(x, y, scale, reference_batch=None)
    scaled = cyclip_loss(x, y, scale, reference_batch=64)
    assert scaled["contrastive"].item() == plain["contrastive"].item() == clip_loss(x, y, scale)["loss"].item()
    for name in ("cross_modal", "in_modal"):
        assert scaled[name].item() == pytest.approx(4 * plain[name].item(), rel=1e-12)
    same = cyclip_loss(x, y, scale, reference_batch=16)
    assert same["loss"].item() == pytest.approx(plain["loss"].item(), rel=1e-12)


def test_reference_batch_makes_batches_comparable(unit_rows):
    """Independent rows: the terms grow with the batch, and with reference_batch they do not."""
    values = {}
    for batch in (128, 512):
        x, y = unit_rows(batch, 32), unit_rows(batch, 32, seed=1)
        for reference in (None, 64):
            values[batch, reference] = cyclip_loss(x, y, torch.tensor(1.0), reference_batch=reference)["in_modal"]
    assert values[512, None] / values[128, None] == pytest.approx(4, rel=0.1)
    assert values[512, 64] / values[128, 64] == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)])
def test_gradcheck(unit_rows, shape):
    x, y = unit_rows(*shape).requires_grad_(), unit_rows(*shape, seed=1).requires_grad_()
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: cyclip_loss(*a)["loss"], (x, y, scale))


@pytest.mark.parametrize("shape", [(6, 32), (32, 6)])
def test_autocast_leaves_the_cyclic_terms_alone(unit_rows, shape):
    """The contrastive part may be computed in bfloat16 products where the machine has them."""
    x, y = unit_rows(*shape, dtype=torch.float32), unit_rows(*shape, seed=1, dtype=torch.float32)
    scale = torch.tensor(10.0)
    expected = CyClipLoss()(x, y, scale)
    with torch.autocast("cpu", torch.bfloat16):
        inside = CyClipLoss()(x, y, scale)
    for name in ("cross_modal", "in_modal"):
        assert inside[name].item() == expected[name].item()
    assert inside["contrastive"].item() == pytest.approx(expected["contrastive"].item(), rel=1e-2)


def test_module_passes_every_argument(unit_rows):
    x, y, scale = unit_rows(6, 4), unit_rows(6, 4, seed=1), torch.tensor(7.0)
    arguments = {
        "cross_weight": 0.7,
        "intra_weight": 0.2,
        "reference_batch": 5,
        "label_smoothing": 0.3,
        "negatives": "local",
    }
    module, function = CyClipLoss(**arguments)(x, y, scale), cyclip_loss(x, y, scale, **arguments)
    assert {k: v.item() for k, v in module.items()} == {k: v.item() for k, v in function.items()}


@pytest.mark.parametrize(
    "bad",
    [{"cross_weight": -1.0}, {"intra_weight": float("nan")}, {"reference_batch": 0}, {"label_smoothing": 1.0}],
)
def test_bad_arguments_are_errors_that_name_them(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        CyClipLoss(**bad)
