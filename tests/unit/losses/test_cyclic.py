import pytest
import torch
import torch.nn.functional as F

from i0t.losses.cyclic import cyclic_terms_gram, cyclic_terms_tiled


def gram(x, y, **weights):
    return cyclic_terms_gram(x, y, **weights)


def tiled(x, y, **weights):
    return cyclic_terms_tiled(x, y, x, y, **weights)


def gathered(x, y, **weights):
    return cyclic_terms_tiled(x, y, x.clone(), y.clone(), **weights)


FORMS = pytest.mark.parametrize("terms", [gram, tiled, gathered])


def published(x, y, cross_weight, intra_weight):
    """Four N x N matrices."""
    cross = (x @ y.T - y @ x.T).square().sum() / len(x)
    intra = (x @ x.T - y @ y.T).square().sum() / len(x)
    return cross_weight * cross + intra_weight * intra, cross, intra


@FORMS
def test_two_pairs_by_hand(terms):
    """Cosines: x.x' = .6, y.y' = 0, x1.y2 = 0, x2.y1 = .6: each sum is 2 * .36, over B = 2."""
    x, y = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)
    total, cross, intra = terms(x, y, cross_weight=2.0, intra_weight=0.5)
    assert cross.item() == pytest.approx(0.36, rel=1e-6)
    assert intra.item() == pytest.approx(0.36, rel=1e-6)
    assert total.item() == pytest.approx(2.5 * 0.36, rel=1e-6)


@FORMS
def test_only_the_symmetric_part_counts(terms, unit_rows):
    """Rotating both modalities alike changes nothing; Y = -X leaves both terms at zero."""
    x, y = unit_rows(8, 3), unit_rows(8, 3, seed=1)
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    for turned, plain in zip(terms(x @ rotation, y @ rotation), terms(x, y), strict=True):
        assert turned.item() == pytest.approx(plain.item(), rel=1e-12)
    assert all(abs(term.item()) < 1e-14 for term in terms(x, -x))


@FORMS
@pytest.mark.parametrize("shape", [(3, 7), (7, 7), (20, 7)])
@pytest.mark.parametrize("weights", [(0.25, 0.25), (1.0, 0.0), (0.0, 1.0), (0.3, 2.0)])
@pytest.mark.parametrize("output", [0, 1, 2])
def test_gradients_of_every_output_are_those_of_the_published_formula(unit_rows, terms, shape, weights, output):
    x, y = unit_rows(*shape).requires_grad_(), unit_rows(*shape, seed=1).requires_grad_()
    found = terms(x, y, cross_weight=weights[0], intra_weight=weights[1])[output]
    expected = published(x, y, *weights)[output]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    for actual, plain in zip(
        torch.autograd.grad(3 * found, (x, y)), torch.autograd.grad(3 * expected, (x, y)), strict=True
    ):
        torch.testing.assert_close(actual, plain, rtol=1e-10, atol=1e-12)


def test_gradients_of_several_outputs_add_up(unit_rows):
    """The total and its parts in one backward pass, with equal weights, where the total alone needs no trace."""
    x, y = unit_rows(9, 4).requires_grad_(), unit_rows(9, 4, seed=1).requires_grad_()
    gradients = []
    for total, cross, intra in (
        gram(x, y, cross_weight=0.25, intra_weight=0.25),
        published(x, y, 0.25, 0.25),
    ):
        gradients.append(torch.autograd.grad(total + 2 * cross - 5 * intra, (x, y)))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


@FORMS
@pytest.mark.parametrize("noise", [1e-2, 1e-4])
def test_no_cancellation_where_the_modalities_agree(unit_rows, terms, noise):
    """The same float32 rows in float32 and in float64; the plain difference of Gram norms is off by percents here."""
    x = unit_rows(256, 64, dtype=torch.float32)
    y = F.normalize(x + noise * torch.randn(256, 64, generator=torch.Generator().manual_seed(2)), dim=1)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [each.to(dtype).requires_grad_() for each in (x.clone(), y.clone())]
        found = terms(*leaves)
        found.total.backward()
        results.append([each.detach().double() for each in (*found, leaves[0].grad, leaves[1].grad)])
    for low, high in zip(*results, strict=True):
        assert (low - high).norm().item() <= 1e-5 * high.norm().item()
    exact = published(x.double(), y.double(), 1.0, 1.0)
    for low, plain in zip(results[0], exact, strict=False):
        assert low.item() == pytest.approx(plain.item(), rel=1e-5)


@FORMS
def test_modalities_that_agree_exactly_give_exactly_nothing(unit_rows, terms):
    x = unit_rows(40, 8, dtype=torch.float32).requires_grad_()
    y = x.detach().clone().requires_grad_()
    found = terms(x, y)
    assert [each.item() for each in found] == [0.0, 0.0, 0.0]
    found.total.backward()
    assert x.grad.abs().max().item() == y.grad.abs().max().item() == 0.0
