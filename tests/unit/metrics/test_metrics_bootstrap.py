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
        ({"num_resamples": 0}, "num_resamples must be positive"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        F.bootstrap_interval(torch.arange(3.0), **arguments)


def test_values_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        F.bootstrap_interval(torch.tensor([0.0, torch.nan]))


def expand(counts, units):
    """Rows of a resample, as often as they are drawn."""
    return [row for row, unit in enumerate(units) for _ in range(int(counts[unit]))]


@pytest.fixture
def grouped_rows():
    generator = torch.Generator().manual_seed(3)
    units = torch.randint(0, 12, (50,), generator=generator)
    return units, F.resample_counts(12, num_resamples=15), generator


def test_every_resample_draws_as_many_units_as_there_are():
    counts = F.resample_counts(40, num_resamples=500, seed=2)
    assert counts.shape == (500, 40)
    assert (counts.sum(1) == 40).all()
    torch.testing.assert_close(counts, F.resample_counts(40, num_resamples=500, seed=2))
    # A unit is drawn Binomial(40, 1/40) times.
    assert float(counts.double().mean()) == pytest.approx(1.0)
    assert float(counts.double().var()) == pytest.approx(39 / 40, rel=0.03)


def test_means_and_medians_of_resamples_against_loops(grouped_rows):
    units, counts, generator = grouped_rows
    values = torch.randint(1, 9, (50, 2), generator=generator).double()
    means = F.resampled_means(values, units, counts)
    single = F.resampled_means(values[:, 0], units, counts)
    medians = F.resampled_medians(values[:, 0].long(), units, counts)
    parities = set()
    for r in range(15):
        drawn = values[expand(counts[r], units)].numpy()
        assert means[r].tolist() == pytest.approx(drawn.mean(0).tolist())
        assert float(single[r]) == pytest.approx(drawn[:, 0].mean())
        assert float(medians[r]) == pytest.approx(np.median(drawn[:, 0]))
        parities.add(len(drawn) % 2)
    assert parities == {0, 1}


def test_balanced_means_of_resamples_against_a_loop(grouped_rows):
    units, counts, generator = grouped_rows
    hits, classes = torch.randint(0, 2, (2, 50), generator=generator)
    classes[units == 4] = 7  # a class that some resamples do not have
    found = F.resampled_balanced_means(hits.double(), classes, units, counts)
    occurred = set()
    for r in range(15):
        rows = expand(counts[r], units)
        present = sorted({int(classes[row]) for row in rows})
        recall = [np.mean([float(hits[row]) for row in rows if classes[row] == c]) for c in present]
        assert float(found[r]) == pytest.approx(np.mean(recall))
        occurred.add(7 in present)
    assert occurred == {True, False}
    by_class = [float(hits[classes == c].double().mean()) for c in classes.unique()]
    assert float(F.balanced_mean(hits.double(), classes)) == pytest.approx(np.mean(by_class))


def test_a_resample_without_any_of_the_rows_has_no_value():
    counts = torch.tensor([[2, 0], [1, 1]])
    units = torch.tensor([1, 1])
    assert F.resampled_means(torch.tensor([1.0, 2.0]), units, counts).isnan().tolist() == [True, False]
    assert F.resampled_medians(torch.tensor([1, 2]), units, counts).isnan().tolist() == [True, False]


def test_interval_leaves_out_what_is_not_there():
    values = torch.cat([torch.arange(101.0), torch.full((50,), torch.nan)])
    assert F.percentile_interval(values) == pytest.approx((2.5, 97.5))
    assert F.percentile_interval(torch.full((3,), torch.nan)) is None


def test_paired_test_by_hand():
    first = torch.zeros(99)
    second = torch.cat([torch.full((4,), -1.0), torch.full((95,), 2.0)])
    test = F.paired_bootstrap_test(first, second)
    assert test.p_value == pytest.approx(2 * 5 / 100)
    assert (test.low, test.high) == (-1.0, 2.0)
    assert F.paired_bootstrap_test(second, first).p_value == test.p_value
    assert F.paired_bootstrap_test(first, first).p_value == 1.0
    with pytest.raises(ValueError, match="same resamples"):
        F.paired_bootstrap_test(first, second[:5])


def test_pairing_finds_what_separate_intervals_hide():
    generator = torch.Generator().manual_seed(0)
    hard = torch.randn(300, generator=generator)
    better = hard + 0.1 + 0.2 * torch.randn(300, generator=generator)
    counts = F.resample_counts(300, num_resamples=1000)
    one, two = (F.resampled_means(v, torch.arange(300), counts) for v in (hard, better))
    assert F.percentile_interval(one)[1] > F.percentile_interval(two)[0]
    assert F.paired_bootstrap_test(one, two).p_value < 0.01


def test_under_no_difference_five_percent_are_significant():
    generator = torch.Generator().manual_seed(0)
    counts = F.resample_counts(80, num_resamples=300)
    p_values = []
    for _ in range(300):
        values = torch.randn(80, generator=generator)
        replicates = F.resampled_means(values, torch.arange(80), counts)
        p_values.append(F.paired_bootstrap_test(torch.zeros(300), replicates).p_value)
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.055, abs=0.03)
