import numpy as np
import pytest
import torch

from i0t.metrics import functional as F


def naive(values, groups, num_resamples, confidence, seed):
    names = sorted(set(groups))
    members = {name: [v for v, g in zip(values, groups, strict=True) if g == name] for name in names}
    random = np.random.default_rng(seed)
    means = []
    for _ in range(num_resamples):
        drawn = random.choice(names, len(names))
        means.append(np.mean([value for name in drawn for value in members[name]]))
    return np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])


def test_clusters_of_uneven_size_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    groups = torch.randint(0, 25, (300,), generator=generator) ** 2
    # The offset tells a mean per sample drawn from a sum over the expected number of samples.
    values = 5 + torch.randn(300, generator=generator) + torch.randn(600, generator=generator)[groups]
    result = F.bootstrap_interval(values, groups, num_resamples=4000, confidence=0.9)
    low, high = naive(values.tolist(), groups.tolist(), 4000, 0.9, 1)
    assert float(result["mean"]) == pytest.approx(float(values.mean()), abs=1e-6)
    assert float(result["low"]) == pytest.approx(low, abs=0.05 * (high - low))
    assert float(result["high"]) == pytest.approx(high, abs=0.05 * (high - low))


def test_width_of_a_mean_of_independent_values():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    result = F.bootstrap_interval(values, num_resamples=4000)
    half = 1.96 * float(values.std()) / 2000**0.5
    assert float(result["high"] - result["low"]) / 2 == pytest.approx(half, rel=0.06)


def test_repeating_every_sample_within_its_group_changes_nothing():
    values = torch.randn(100, generator=torch.Generator().manual_seed(0))
    plain = F.bootstrap_interval(values)
    repeated = F.bootstrap_interval(values.repeat(9), torch.arange(100).repeat(9))
    ungrouped = F.bootstrap_interval(values.repeat(9))
    torch.testing.assert_close(repeated, plain)
    assert float(ungrouped["high"] - ungrouped["low"]) < 0.5 * float(plain["high"] - plain["low"])


def test_the_seed_decides():
    values = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert F.bootstrap_interval(values, seed=1) == F.bootstrap_interval(values, seed=1)
    assert F.bootstrap_interval(values, seed=1) != F.bootstrap_interval(values, seed=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": torch.zeros(3, dtype=torch.int64)}, "two groups at least, got 1"),
        ({"groups": torch.zeros(2, dtype=torch.int64)}, "groups must have shape"),
        ({"confidence": 1.0}, r"confidence must lie in \(0, 1\)"),
        ({"num_resamples": 0}, "num_resamples be positive"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        F.bootstrap_interval(torch.arange(3.0), **arguments)


def test_values_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        F.bootstrap_interval(torch.tensor([0.0, torch.nan]))
