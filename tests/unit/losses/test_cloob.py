import math

import pytest
import torch

from i0t.losses.cloob import CloobLoss, cloob_loss, hopfield_retrieval
from i0t.losses.operators import loob_rows

SCALE = torch.tensor(10.0)


@pytest.mark.parametrize(("inv_tau", "beta"), [(1 / 0.07, 14.3), (30.0, 8.0), (1.0, 0.5)])
@pytest.mark.parametrize("shape", [(2, 3), (9, 5), (4, 12)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_equals_plain_loops(naive, unit_rows, inv_tau, beta, shape, dtype, tolerance):
    x, y = unit_rows(*shape, dtype=dtype), unit_rows(*shape, seed=1, dtype=dtype)
    parts = cloob_loss(x, y, SCALE, inv_tau=inv_tau, scale_hopfield=beta)
    image, text = naive["cloob"](x, y, inv_tau, beta)
    assert parts.keys() == {"loss", "image", "text"}
    for name, expected in {"image": image, "text": text, "loss": image + text}.items():
        assert parts[name].item() == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_by_hand_where_retrieval_does_nothing():
    """Sharp retrieval of orthogonal patterns returns them: k is inv_tau times the cosines of the rows themselves."""
    x, y = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64).roll(1, 0)
    matched = cloob_loss(x, x, SCALE, inv_tau=5.0, scale_hopfield=1e4)
    for name in ("image", "text"):
        assert matched[name].item() == pytest.approx(-1 + math.log(3) / 5, rel=1e-12)
    wrong = cloob_loss(x, y, SCALE, inv_tau=5.0, scale_hopfield=1e4)
    assert wrong["image"].item() == pytest.approx(math.log(math.exp(5) + 2) / 5, rel=1e-12)


def test_ties_give_the_logarithm_of_the_others():
    x = torch.tensor([[0.6, 0.8]], dtype=torch.float64).expand(7, 2)
    assert cloob_loss(x, x, SCALE, inv_tau=20.0)["loss"].item() == pytest.approx(2 * math.log(6) / 20, rel=1e-12)


def test_it_does_not_saturate_at_matched_pairs(unit_rows):
    """InfoNCE's gradient vanishes where the pair already has all probability; that of InfoLOOB does not."""
    row = torch.tensor([[80.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    columns, scale = torch.eye(3, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    loob_rows(row, columns, torch.tensor([0]), scale).backward()
    assert row.grad.tolist() == [[-1.0, 0.5, 0.5]]


def test_without_a_scale_every_query_retrieves_the_mean(unit_rows):
    patterns = unit_rows(6, 4)
    mean = patterns.mean(0)
    torch.testing.assert_close(
        hopfield_retrieval(unit_rows(2, 4, seed=1), patterns, 0.0), (mean / mean.norm()).expand(2, 4)
    )


def test_gradcheck(unit_rows):
    x, y = unit_rows(4, 3).requires_grad_(), unit_rows(4, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: cloob_loss(x, y, SCALE, inv_tau=3.0)["loss"], (x, y))


def test_the_model_temperature_changes_nothing(unit_rows):
    x, y = unit_rows(5, 3), unit_rows(5, 3, seed=1)
    values = {
        cloob_loss(x, y, torch.tensor(s), logit_bias=torch.tensor(b))["loss"].item()
        for s in (1.0, 99.0)
        for b in (0.0, -9.0)
    }
    assert len(values) == 1


def test_autocast_does_not_lower_the_precision(unit_rows):
    x, y = unit_rows(6, 32, dtype=torch.float32), unit_rows(6, 32, seed=1, dtype=torch.float32)
    expected = cloob_loss(x, y, SCALE)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        inside = cloob_loss(x, y, SCALE)["loss"]
    assert inside.item() == expected.item()
    assert cloob_loss(x.bfloat16(), y.bfloat16(), SCALE)["loss"].dtype == torch.float32


def test_module_passes_every_argument(unit_rows):
    x, y = unit_rows(6, 4), unit_rows(6, 4, seed=1)
    arguments = {"inv_tau": 4.0, "scale_hopfield": 3.0, "negatives": "local"}
    module, function = CloobLoss(**arguments)(x, y, SCALE), cloob_loss(x, y, SCALE, **arguments)
    assert {k: v.item() for k, v in module.items()} == {k: v.item() for k, v in function.items()}


def test_a_single_pair_is_an_error():
    with pytest.raises(
        ValueError, match="CLOOB's loss compares pairs with others: it needs at least 2 in a batch, got 1"
    ):
        cloob_loss(torch.ones(1, 2), torch.ones(1, 2), SCALE)


@pytest.mark.parametrize(
    "bad", [{"inv_tau": 0.0}, {"inv_tau": math.nan}, {"scale_hopfield": -1.0}, {"inv_tau": math.inf}]
)
def test_bad_arguments_are_errors_that_name_them(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} must be a positive number, got"):
        CloobLoss(**bad)
