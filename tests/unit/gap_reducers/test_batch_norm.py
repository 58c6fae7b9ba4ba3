import numpy as np
import pytest
import torch
from torch import nn

from i0t.gap_reducers import batch_norm
from i0t.gap_reducers.batch_norm import GlobalBatchNorm
from i0t.gap_reducers.fit_rows import Moments


@pytest.fixture(params=["one kernel", "own"])
def path(request, monkeypatch):
    """Both ways of one process: torch's kernel, and the arithmetic that several processes need."""
    if request.param == "own":
        monkeypatch.setattr(batch_norm, "is_distributed", lambda: True)
    return request.param


def test_train_mode_equals_batchnorm1d_over_steps(path):
    """Outputs, gradients and running statistics of several float64 batches."""
    torch.manual_seed(0)
    norm, oracle = GlobalBatchNorm(4, momentum=0.3, eps=1e-4).double(), nn.BatchNorm1d(4, momentum=0.3, eps=1e-4)
    oracle.double()
    for size in (2, 5, 9):
        rows = torch.randn(size, 4, dtype=torch.float64) * 2 + 3
        ours, theirs = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        upstream = torch.randn(size, 4, dtype=torch.float64)
        torch.testing.assert_close(norm(ours), oracle(theirs))
        (norm(ours) * upstream).sum().backward()
        (oracle(theirs) * upstream).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(norm.running_mean, oracle.running_mean)
    torch.testing.assert_close(norm.running_var, oracle.running_var)
    torch.testing.assert_close(norm.weight.grad, oracle.weight.grad)
    assert torch.autograd.gradcheck(norm, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


def test_float64_rows_through_float32_parameters():
    rows = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    norm = GlobalBatchNorm(4, momentum=0.3, eps=1e-4)
    expected = (rows - rows.mean(0)) / (rows.var(0, correction=0) + 1e-4).sqrt()
    torch.testing.assert_close(norm(rows), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0, 1.5])
def test_strength_subtracts_a_share_of_the_mean_in_both_modes(strength):
    """((x - strength m) / sigma) w + b by loops, m and sigma of the batch, then of the running statistics."""
    rng = np.random.default_rng(0)
    batches = rng.normal(2, 3, size=(3, 7, 4))
    weight, bias = rng.normal(size=(2, 4))
    norm = GlobalBatchNorm(4, momentum=0.3, eps=1e-4, strength=strength).double()
    norm.weight.data, norm.bias.data = torch.from_numpy(weight), torch.from_numpy(bias)
    running_mean, running_var = [0.0] * 4, [1.0] * 4
    for batch in batches:
        out = norm(torch.from_numpy(batch))
        for d in range(4):
            column = [batch[b, d] for b in range(7)]
            mean = sum(column) / 7
            squares = sum((value - mean) ** 2 for value in column)
            for b in range(7):
                expected = (column[b] - strength * mean) / np.sqrt(squares / 7 + 1e-4) * weight[d] + bias[d]
                assert out[b, d].item() == pytest.approx(expected, rel=1e-10)
            running_mean[d] += 0.3 * (mean - running_mean[d])
            running_var[d] += 0.3 * (squares / 6 - running_var[d])
    norm.eval()
    expected = (batches[0] - strength * np.array(running_mean)) / np.sqrt(np.array(running_var) + 1e-4) * weight + bias
    np.testing.assert_allclose(norm(torch.from_numpy(batches[0])).detach(), expected, rtol=1e-10)
    scale, shift = norm.affine()
    np.testing.assert_allclose((torch.from_numpy(batches[0]) * scale + shift).detach(), expected, rtol=1e-10)
    norm.train()
    assert torch.autograd.gradcheck(norm, torch.from_numpy(batches[0][:3]).requires_grad_())


def test_reset_and_set_statistics():
    norm = GlobalBatchNorm(3, momentum=0.3, eps=1e-4)
    fresh = {name: value.clone() for name, value in norm.state_dict().items()}
    norm(torch.randn(5, 3)).sum().backward()
    norm.weight.data += 1
    norm.set_statistics(Moments(torch.arange(3).double(), torch.full((3,), 2.0).double(), 5))
    assert norm.running_mean.tolist() == [0, 1, 2]
    assert norm.running_var.tolist() == [2, 2, 2]
    norm.reset()
    for name, value in norm.state_dict().items():
        assert torch.equal(value, fresh[name]), name
