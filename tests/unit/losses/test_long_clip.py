import math

import numpy as np
import pytest
import torch

from i0t.losses.clip import ClipLoss
from i0t.losses.long_clip import GAP_TOLERANCE, LongClipLoss, long_clip_loss, principal_reconstruction

SCALE = torch.tensor(10.0, dtype=torch.float64)


def gradient_of(function, rows, upstream):
    leaf = rows.clone().requires_grad_()
    (function(leaf) * upstream).sum().backward()
    return leaf.grad


def published(rows, num_components):
    """Long-CLIP's formula, with gradients through ``torch.linalg.svd``."""
    centred = rows - rows.mean(0)
    components = torch.linalg.svd(centred, full_matrices=False)[2][:num_components]
    return rows.mean(0) + centred @ components.T @ components


def rows_with_singular_values(values, num_rows, width, seed=0):
    """Rows of mean zero whose singular values are the given ones."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(num_rows, len(values), generator=generator, dtype=torch.float64)
    left = torch.linalg.qr(left - left.mean(0))[0]
    right = torch.linalg.qr(torch.randn(width, len(values), generator=generator, dtype=torch.float64))[0]
    return left * torch.tensor(values, dtype=torch.float64) @ right.T


# --- the reconstruction ---


@pytest.mark.parametrize(("shape", "num_components"), [((40, 50), 32), ((50, 40), 32), ((60, 5), 2), ((7, 20), 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_reconstruction_equals_eigenvectors_of_the_covariance(
    naive, unit_rows, shape, num_components, dtype, tolerance
):
    rows = unit_rows(*shape, dtype=dtype) + 0.3
    out = principal_reconstruction(rows, num_components)
    assert out.dtype == dtype
    np.testing.assert_allclose(out, naive["reconstruction"](rows, num_components), atol=tolerance)
    assert (out - rows).abs().max() > 1e-2
    assert (out.norm(dim=1) - rows.norm(dim=1)).abs().max() > 1e-3  # not normalised again


def test_reconstruction_by_hand():
    """Around (1, 1): spread 3 along the first axis, 1 along the second, which is dropped."""
    rows = torch.tensor([[4.0, 1.0], [-2.0, 1.0], [1.0, 2.0], [1.0, 0.0]])
    expected = torch.tensor([[4.0, 1.0], [-2.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    torch.testing.assert_close(principal_reconstruction(rows, 1), expected)


@pytest.mark.parametrize(("num_rows", "width", "num_components"), [(20, 50, 32), (33, 50, 32), (90, 8, 32), (1, 4, 1)])
def test_enough_components_give_the_batch_and_its_gradient_back(unit_rows, num_rows, width, num_components):
    rows, upstream = unit_rows(num_rows, width), unit_rows(num_rows, width, seed=1)
    assert principal_reconstruction(rows, num_components).tolist() == rows.tolist()
    torch.testing.assert_close(
        gradient_of(lambda x: principal_reconstruction(x, num_components), rows, upstream), upstream
    )


@pytest.mark.parametrize(("num_rows", "width", "num_components"), [(8, 12, 3), (12, 8, 3), (9, 5, 1), (7, 7, 5)])
def test_gradient_is_that_of_the_published_formula(num_rows, width, num_components):
    """Distinct singular values: finite differences, and autograd through the decomposition where it works."""
    count = min(num_rows - 1, width)
    rows = rows_with_singular_values([2.0 - 1.5 * i / count for i in range(count)], num_rows, width)
    upstream = torch.randn(num_rows, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ours = gradient_of(lambda x: principal_reconstruction(x, num_components), rows, upstream)
    assert torch.autograd.gradcheck(
        lambda x: principal_reconstruction(x, num_components), rows.requires_grad_(), rtol=1e-3
    )
    if num_rows > width:  # else the centred rows have a singular value of zero
        theirs = gradient_of(lambda x: published(x, num_components), rows.detach(), upstream)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        assert (ours - gradient_of(lambda x: frozen(x, num_components), rows.detach(), upstream)).norm() > 0.1


def frozen(rows, num_components):
    """Without gradients through the components."""
    centred = rows - rows.mean(0)
    components = torch.linalg.svd(centred.detach(), full_matrices=False)[2][:num_components]
    return rows.mean(0) + centred @ components.T @ components


@pytest.mark.parametrize(
    ("values", "num_components"),
    [([3.0, 3.0, 2.0, 1.0, 1.0], 2), ([3.0, 2.0, 2.0, 2.0, 1e-9], 4), ([2.0, 2.0, 0.0, 0.0, 0.0], 2)],
)
def test_ties_within_what_is_kept_or_dropped_do_not_matter(values, num_components):
    """The gradient at a tie that K does not cut is that of distinct values beside it."""
    upstream = torch.randn(9, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    beside = [value * (1 + 1e-6 * i) for i, value in enumerate(values)]
    gradients = [
        gradient_of(lambda x: principal_reconstruction(x, num_components), rows_with_singular_values(v, 9, 6), upstream)
        for v in (values, beside)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)
    assert gradients[0].norm() > 1


AWKWARD = {
    "fewer rows than components": lambda make: make(20, 48),
    "equal rows": lambda make: make(1, 48).expand(64, 48),
    "pairs of equal rows": lambda make: make(40, 64).repeat_interleave(2, dim=0),
    "fewer kinds than components": lambda make: make(5, 64)[torch.arange(60) % 5],
    "all singular values equal": lambda _: torch.cat([torch.eye(40), -torch.eye(40)]),
    "more rows than dimensions": lambda make: make(90, 40),
    "one row": lambda make: make(1, 48),
    "zeros": lambda _: torch.zeros(64, 48),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", AWKWARD)
def test_gradients_are_finite_and_bounded(unit_rows, kind, dtype):
    rows = AWKWARD[kind](unit_rows).to(dtype)
    upstream = torch.randn(rows.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)
    leaf = rows.clone().requires_grad_()
    out = principal_reconstruction(leaf, 32)
    assert out.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.isfinite(out).all()
    (out * upstream).sum().backward()
    assert leaf.grad.dtype == dtype
    assert 0.05 * upstream.norm() < leaf.grad.norm() <= upstream.norm() / GAP_TOLERANCE  # NaN is neither


def test_where_the_cut_is_a_tie_the_tied_directions_do_not_turn():
    """No gradient exists there: what is left is all but what is dropped on both sides."""
    rows = rows_with_singular_values([1.0, 1.0], 6, 5)
    upstream = torch.randn(6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    left, _, right = torch.linalg.svd(principal_reconstruction(rows, 1))  # whichever of the two was kept
    drop_left = torch.eye(6) - torch.outer(left[:, 0], left[:, 0])
    drop_right = torch.eye(5) - torch.outer(right[0], right[0])
    expected = upstream - drop_left @ upstream @ drop_right
    expected = expected - expected.mean(0) + upstream.mean(0)
    gradient = gradient_of(lambda x: principal_reconstruction(x, 1), rows, upstream)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bad", [0, -3])
def test_no_components_are_an_error(unit_rows, bad):
    with pytest.raises(ValueError, match=f"num_components must be at least 1, got {bad}"):
        principal_reconstruction(unit_rows(4, 3), bad)
    with pytest.raises(ValueError, match=f"num_components must be at least 1, got {bad}"):
        LongClipLoss(num_components=bad)


def test_a_single_vector_is_an_error():
    with pytest.raises(ValueError, match=r"\(B, D\) matrix, got shape \(3,\)"):
        principal_reconstruction(torch.ones(3), 1)


# --- the loss ---


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("shape", "num_components"), [((9, 5), 2), ((6, 12), 3), ((6, 12), 32)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_loss_equals_plain_loops(naive, unit_rows, smoothing, shape, num_components, dtype, tolerance):
    x, y, short = (unit_rows(*shape, seed=seed, dtype=dtype) for seed in range(3))
    parts = long_clip_loss(
        x, y, SCALE, short_text_features=short, num_components=num_components, label_smoothing=smoothing
    )
    long_part = naive["contrastive"](x, y, 10.0, smoothing)
    short_part = naive["contrastive"](naive["reconstruction"](x, num_components), short, 10.0, smoothing)
    assert parts.keys() == {"loss", "long", "short"}
    for name, expected in {"long": long_part, "short": short_part, "loss": long_part + short_part}.items():
        assert parts[name].item() == pytest.approx(expected, rel=tolerance)


def test_ties_give_twice_the_logarithm_of_the_batch():
    x = torch.tensor([[0.6, 0.8]]).expand(40, 2)
    assert LongClipLoss(num_components=1)(x, x, SCALE, short_text_features=x)["loss"].item() == pytest.approx(
        2 * math.log(40), rel=1e-6
    )


def test_gradcheck(unit_rows):
    rows = [unit_rows(5, 4, seed=seed).requires_grad_() for seed in range(3)]
    scale = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)

    def loss(x, y, short, scale):
        return long_clip_loss(x, y, scale, short_text_features=short, num_components=2)["loss"]

    assert torch.autograd.gradcheck(loss, (*rows, scale))


def test_autocast_does_not_lower_the_precision(unit_rows):
    x, y, short = (unit_rows(16, 24, seed=seed, dtype=torch.float32) for seed in range(3))
    loss = LongClipLoss(num_components=4)
    expected = loss(x, y, SCALE, short_text_features=short)
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(x, y, SCALE, short_text_features=short)
    assert {k: v.item() for k, v in inside.items()} == {k: v.item() for k, v in expected.items()}
    half = loss(x.bfloat16(), y.bfloat16(), SCALE, short_text_features=short.bfloat16())
    assert half["loss"].dtype == torch.float32


def test_module_passes_every_argument(unit_rows):
    x, y, short = (unit_rows(6, 4, seed=seed) for seed in range(3))
    arguments = {"num_components": 2, "label_smoothing": 0.3, "negatives": "local"}
    module = LongClipLoss(**arguments)(x, y, SCALE, short_text_features=short)
    function = long_clip_loss(x, y, SCALE, short_text_features=short, **arguments)
    assert {k: v.item() for k, v in module.items()} == {k: v.item() for k, v in function.items()}


def test_it_says_that_it_needs_short_captions(unit_rows):
    assert LongClipLoss.uses_short_captions
    assert not getattr(ClipLoss(), "uses_short_captions", False)
    x, y = unit_rows(4, 3), unit_rows(4, 3, seed=1)
    with pytest.raises(ValueError, match=r"short captions.*set data\.short_captions=true"):
        LongClipLoss()(x, y, SCALE)


def test_unequal_shapes_are_an_error():
    x = torch.ones(3, 2)
    for y, short in ((torch.ones(4, 2), x), (x, torch.ones(4, 2))):
        with pytest.raises(ValueError, match=r"one text per image.*\(3, 2\).*\(4, 2\)"):
            long_clip_loss(x, y, SCALE, short_text_features=short)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_bad_smoothing_is_an_error(smoothing):
    with pytest.raises(ValueError, match="label_smoothing"):
        LongClipLoss(label_smoothing=smoothing)
