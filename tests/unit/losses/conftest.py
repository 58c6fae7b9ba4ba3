"""Naive oracles of the losses: plain loops over Python floats."""

import math

import pytest
import torch


def dot(a, b):
    return sum(p * q for p, q in zip(a, b, strict=True))


def cross_entropy_row(logits, target, smoothing):
    log_normaliser = max(logits) + math.log(sum(math.exp(v - max(logits)) for v in logits))
    weights = [smoothing / len(logits) + (1 - smoothing) * (j == target) for j in range(len(logits))]
    return sum(w * (log_normaliser - v) for w, v in zip(weights, logits, strict=True))


def naive_contrastive(x, y, scale, smoothing):
    x, y = x.double().tolist(), y.double().tolist()
    rows = range(len(x))
    image = sum(cross_entropy_row([scale * dot(x[i], y[j]) for j in rows], i, smoothing) for i in rows) / len(x)
    text = sum(cross_entropy_row([scale * dot(y[i], x[j]) for j in rows], i, smoothing) for i in rows) / len(x)
    return (image + text) / 2


def naive_cyclic(x, y, scale):
    """The published formula, literally: (B / s^2) mean_ij of the squared differences of scaled similarities."""
    x, y = x.double().tolist(), y.double().tolist()
    batch = len(x)
    rows = range(batch)
    a = [[scale * dot(x[i], y[j]) for j in rows] for i in rows]
    xx = [[scale * dot(x[i], x[j]) for j in rows] for i in rows]
    yy = [[scale * dot(y[i], y[j]) for j in rows] for i in rows]
    cross = sum((a[i][j] - a[j][i]) ** 2 for i in rows for j in rows) / batch**2
    intra = sum((xx[i][j] - yy[i][j]) ** 2 for i in rows for j in rows) / batch**2
    return batch / scale**2 * cross, batch / scale**2 * intra


@pytest.fixture(scope="session")
def naive():
    return {"contrastive": naive_contrastive, "cyclic": naive_cyclic}


@pytest.fixture(scope="session")
def unit_rows():
    def make(num_rows, width, *, seed=0, dtype=torch.float64):
        rows = torch.randn(num_rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (rows / rows.norm(dim=1, keepdim=True)).to(dtype)

    return make
