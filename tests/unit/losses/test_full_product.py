import torch

from i0t.losses.full_product import full_product


def test_products_and_gradients_stay_in_their_dtype_under_autocast(unit_rows):
    left, right = (unit_rows(*shape, dtype=torch.float32).requires_grad_() for shape in ((6, 40), (40, 5)))
    expected = left @ right
    by_left, by_right = torch.autograd.grad(expected.square().sum(), (left, right))
    with torch.autocast("cpu", torch.bfloat16):
        found = full_product(left, right)
        found.square().sum().backward()  # inside, as a compiled backward is
    assert torch.equal(found, expected)
    assert torch.equal(left.grad, by_left)
    assert torch.equal(right.grad, by_right)


def test_first_and_second_derivatives(unit_rows):
    left, right = unit_rows(3, 4).requires_grad_(), unit_rows(4, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(full_product, (left, right))
    assert torch.autograd.gradgradcheck(full_product, (left, right))


def test_a_constant_side_has_no_gradient(unit_rows):
    left, right = unit_rows(3, 4).requires_grad_(), unit_rows(4, 2, seed=1)
    full_product(left, right).sum().backward()
    assert left.grad is not None
    assert right.grad is None
