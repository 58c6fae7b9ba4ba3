"""Naive oracles of the losses: plain loops over Python floats, and NumPy for eigenvectors."""

import math

import numpy as np
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


def softmax(logits):
    exponentials = [math.exp(v - max(logits)) for v in logits]
    return [e / sum(exponentials) for e in exponentials]


def retrieve(query, patterns, beta):
    weights = softmax([beta * dot(query, p) for p in patterns])
    mixed = [sum(w * p[d] for w, p in zip(weights, patterns, strict=True)) for d in range(len(query))]
    return [v / math.sqrt(dot(mixed, mixed)) for v in mixed]


def naive_cloob(x, y, inv_tau, beta):
    """(stored images, stored texts): tau times the mean of -ln(exp(k_ii) / sum of exp(k_ij) over the other j)."""
    x, y = x.double().tolist(), y.double().tolist()
    rows = range(len(x))
    losses = []
    for stored, anchors, positives in ((x, x, y), (y, y, x)):
        anchors = [retrieve(row, stored, beta) for row in anchors]
        positives = [retrieve(row, stored, beta) for row in positives]
        total = 0.0
        for i in rows:
            odds = [math.exp(inv_tau * dot(anchors[i], positives[j])) for j in rows]
            total -= math.log(odds[i] / sum(odds[j] for j in rows if j != i))
        losses.append(total / len(x) / inv_tau)
    return losses


def squared_distance(a, b):
    return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))


def naive_uniformity(x):
    x = x.double().tolist()
    affinities = [math.exp(-2 * squared_distance(x[i], x[j])) for j in range(len(x)) for i in range(j)]
    return math.log(sum(affinities) / len(affinities))


def naive_cross_uniformity(x, y):
    x, y = x.double().tolist(), y.double().tolist()
    rows = range(len(x))
    affinities = [math.exp(-2 * squared_distance(x[i], y[j])) for i in rows for j in rows if i != j]
    return math.log(sum(affinities) / len(affinities))


def naive_alignment(x, y):
    pairs = list(zip(x.double().tolist(), y.double().tolist(), strict=True))
    return sum(squared_distance(a, b) for a, b in pairs) / len(pairs)


def naive_reconstruction(x, num_components):
    """Mean plus the projection on each of the leading eigenvectors of the covariance, one after the other."""
    x = x.double().numpy()
    mean = x.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
    out = np.tile(mean, (len(x), 1))
    for component in np.argsort(values)[::-1][:num_components]:
        direction = vectors[:, component]
        out += np.outer((x - mean) @ direction, direction)
    return torch.from_numpy(out)


@pytest.fixture(scope="session")
def naive():
    return {
        "contrastive": naive_contrastive,
        "cyclic": naive_cyclic,
        "cloob": naive_cloob,
        "uniformity": naive_uniformity,
        "cross_uniformity": naive_cross_uniformity,
        "alignment": naive_alignment,
        "reconstruction": naive_reconstruction,
    }


@pytest.fixture(scope="session")
def unit_rows():
    def make(num_rows, width, *, seed=0, dtype=torch.float64):
        rows = torch.randn(num_rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return (rows / rows.norm(dim=1, keepdim=True)).to(dtype)

    return make
