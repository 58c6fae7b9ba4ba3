"""Without a process group every helper is the identity of one process."""

import torch

from i0t.distributed import (
    all_gather_with_grad,
    all_reduce_sum,
    all_reduce_sum_with_grad,
    is_distributed,
    rank,
    rows_per_rank,
    world_size,
)


def test_world_of_one():
    assert (is_distributed(), world_size(), rank()) == (False, 1, 0)
    assert rows_per_rank(7, torch.device("cpu")) == [7]


def test_collectives_keep_values_and_gradients():
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0]], requires_grad=True)
    for collective in (all_gather_with_grad, all_reduce_sum_with_grad):
        x.grad = None
        out = collective(x)
        out.square().sum().backward()
        assert out.tolist() == x.tolist()
        assert x.grad.tolist() == (2 * x).tolist()


def test_all_reduce_sum_is_outside_autograd_and_copies_unless_in_place():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    copy = all_reduce_sum(x)
    assert not copy.requires_grad
    assert copy.tolist() == [1.0, 2.0]
    assert copy.data_ptr() != x.data_ptr()
    assert all_reduce_sum(x, in_place=True).data_ptr() == x.data_ptr()


def test_all_reduce_sum_copies_strided_input_contiguously():
    x = torch.arange(6.0).reshape(2, 3).T
    copy = all_reduce_sum(x)
    assert copy.is_contiguous()
    assert copy.tolist() == x.tolist()
