"""``strength`` varies the gap between what it is and what the reducer makes of it."""

import numpy as np
import pytest

from i0t.gap_reducers import AsyncBatchNorm, LayerNorm, MeanShift, Posthoc
from i0t.gap_reducers.strength import check_strength

DIM = 32
GRID = np.linspace(0, 1, 6)

KINDS = {
    "posthoc": lambda strength: Posthoc(DIM, fit_split="test", strength=strength),
    "async_bn": lambda strength: AsyncBatchNorm(DIM, loss=None, epochs=0, strength=strength),
    "mean_shift": lambda strength: MeanShift(DIM, fit_split="test", direction="difference", strength=strength / 2),
    "layer_norm": lambda strength: LayerNorm(DIM, strength=strength),
}


def centroid_distance(reducer, embeddings):
    reducer.fit(embeddings)
    image, text = reducer(embeddings.image_features, embeddings.text_features)
    return (image.double().mean(0) - text.double().mean(0)).norm().item()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gap_falls_with_the_strength(make, kind, seed):
    embeddings = make(300, DIM, captions=2, seed=seed, offset=1.5)
    if kind == "layer_norm":  # whose one number per row is all that it takes away: cones around (1, …) and (-1, …)
        embeddings.image_features = embeddings.image_features + 0.3
        embeddings.text_features = embeddings.text_features - 0.3
    unit = [r / r.norm(dim=1, keepdim=True) for r in (embeddings.image_features, embeddings.text_features)]
    before = (unit[0].mean(0) - unit[1].mean(0)).norm().item()
    distances = [centroid_distance(KINDS[kind](strength), embeddings) for strength in GRID]
    assert (np.diff(distances) < -0.02).all(), distances
    if kind != "async_bn":  # at 0 that one still divides by the deviation
        assert distances[0] == pytest.approx(before, abs=1e-4)
    if kind != "layer_norm":
        assert distances[-1] < 0.06 < 0.9 < distances[0]


def test_a_negative_shift_widens_the_gap(make):
    embeddings = make(300, DIM, offset=1.5)
    for direction in ("unit", "difference"):
        distances = [
            centroid_distance(MeanShift(DIM, fit_split="test", direction=direction, strength=s), embeddings)
            for s in (-1.0, -0.5, 0.0)
        ]
        assert distances[0] > distances[1] + 0.05 > distances[2] + 0.1


def test_check_strength():
    for good in (0, 0.5, 1, 7.0):
        check_strength(good)
    for bad in (-1e-9, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"strength must be at least 0 and finite, got {bad}"):
            check_strength(bad)
