"""Kendall's taus against counting every pair, and those of resamples against SciPy on the repeated items."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from i0t.metrics.functional import kendall_tau, resample_counts, resampled_kendall_taus


def by_counting(scores, ratings, variant):
    """Kendall (1945) and Stuart (1953) from all pairs of observations."""
    seen = [
        (score, rating)
        for score, row in zip(scores, ratings, strict=True)
        for rating in row
        if not math.isnan(rating) and not math.isnan(score)
    ]
    surplus = tied_scores = tied_ratings = pairs = 0
    for number, (score, rating) in enumerate(seen):
        for other_score, other_rating in seen[number + 1 :]:
            pairs += 1
            tied_scores += score == other_score
            tied_ratings += rating == other_rating
            surplus += ((score > other_score) - (score < other_score)) * (
                (rating > other_rating) - (rating < other_rating)
            )
    if variant == "b":
        return surplus / math.sqrt((pairs - tied_scores) * (pairs - tied_ratings))
    fewest = min(len({score for score, _ in seen}), len({rating for _, rating in seen}))
    return 2 * surplus * fewest / (len(seen) ** 2 * (fewest - 1))


def judged(num_items, *, levels, score_levels=None, num_ratings=3, missing=0.2, seed=0):
    generator = np.random.default_rng(seed)
    quality = generator.normal(size=num_items)
    scores = quality + generator.normal(size=num_items)
    if score_levels is not None:
        scores = np.digitize(scores, np.linspace(-1.5, 1.5, score_levels - 1)).astype(float)
    noisy = quality[:, None] + generator.normal(size=(num_items, num_ratings))
    ratings = noisy if levels is None else np.digitize(noisy, np.linspace(-1, 1, levels - 1)).astype(float)
    ratings[generator.random(ratings.shape) < missing] = np.nan
    return scores, ratings


CASES = {
    "expert": {"levels": 4},
    "two levels": {"levels": 2},
    "tied scores": {"levels": 4, "score_levels": 3},
    "five levels, few scores": {"levels": 5, "score_levels": 2},
    "every rating different": {"levels": None},
    "one rating each": {"levels": 12, "num_ratings": 1, "missing": 0.0},
}


@pytest.mark.parametrize("variant", ["b", "c"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tau_is_what_counting_all_pairs_gives(case, variant, dtype):
    scores, ratings = judged(40, **case)
    found = kendall_tau(torch.from_numpy(scores).to(dtype), torch.from_numpy(ratings), variant=variant)
    assert float(found) == pytest.approx(by_counting(scores.tolist(), ratings.tolist(), variant), abs=1e-12)


def test_known_answers():
    # Six pairs: four concordant, one discordant, one tied in the rating.
    scores, ratings = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 3.0])
    assert float(kendall_tau(scores, ratings)) == pytest.approx((4 - 1) / math.sqrt(6 * 5))
    assert float(kendall_tau(scores, ratings, variant="c")) == pytest.approx(2 * 3 * 3 / (16 * 2))
    assert float(kendall_tau(scores, scores)) == 1.0
    assert float(kendall_tau(scores, -scores[:, None])) == -1.0


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_resamples_equal_scipy_on_the_repeated_items(case):
    scores, ratings = judged(60, **case, seed=1)
    scores[7] = np.nan
    units = np.random.default_rng(2).integers(0, 15, size=60)
    counts = torch.cat([torch.ones(1, 15, dtype=torch.uint8), resample_counts(15, num_resamples=12)])
    found = resampled_kendall_taus(torch.from_numpy(scores), torch.from_numpy(ratings), torch.from_numpy(units), counts)
    for number, drawn in enumerate(counts.numpy()):
        items = np.repeat(np.arange(60), drawn[units])
        pairs = [(scores[i], r) for i in items for r in ratings[i] if not np.isnan(r) and not np.isnan(scores[i])]
        x, y = zip(*pairs, strict=True)
        for variant, values in zip("bc", found, strict=True):
            assert float(values[number]) == pytest.approx(kendalltau(x, y, variant=variant).statistic, abs=1e-12)
    assert len(found.b.unique()) > 10
    assert float(found.c[0]) == pytest.approx(
        float(kendall_tau(*map(torch.from_numpy, (scores, ratings)), variant="c"))
    )


def test_blocks_of_resamples_and_large_counts_change_nothing(monkeypatch):
    from i0t.metrics.functional import rank_correlation

    scores, ratings = (torch.from_numpy(a) for a in judged(50, levels=4))
    units = torch.arange(50) % 10
    counts = resample_counts(10, num_resamples=9)
    whole = resampled_kendall_taus(scores, ratings, units, counts)
    monkeypatch.setattr(rank_correlation, "block_size", lambda *_, **__: 2)
    for first, second in zip(whole, resampled_kendall_taus(scores, ratings, units, counts), strict=True):
        assert torch.equal(first, second)
    # Ten thousand copies of everything leave tau_b as it is but for pairs of copies, and need float64 sums.
    many = torch.tensor([[10_000] * 10])
    x, y = (np.repeat(a, 300, axis=0) for a in (scores.numpy(), ratings.numpy()))
    expected = kendall_tau(torch.from_numpy(x), torch.from_numpy(y))
    found = resampled_kendall_taus(scores, ratings, units, many)
    assert float(found.b[0]) == pytest.approx(float(expected), abs=1e-4)


def test_what_has_no_correlation_is_nan():
    scores, ratings = torch.tensor([0.3, 0.1, 0.2]), torch.tensor([[1.0], [2.0], [torch.nan]])
    assert bool(kendall_tau(torch.ones(3), ratings).isnan())
    assert bool(kendall_tau(scores, torch.ones(3)).isnan())
    assert bool(kendall_tau(scores, torch.full((3, 2), torch.nan)).isnan())
    # The second resample holds one rated item only, the third none.
    counts = torch.tensor([[1, 1, 1], [3, 0, 0], [0, 0, 3]], dtype=torch.uint8)
    found = resampled_kendall_taus(scores, ratings, torch.arange(3), counts)
    assert found.b.tolist()[0] == -1.0
    assert bool(found.b[1:].isnan().all())
    assert bool(found.c[1:].isnan().all())
    unrated = resampled_kendall_taus(scores, torch.full((3, 0), 1.0), torch.arange(3), counts)
    assert bool(unrated.b.isnan().all())
    assert len(resampled_kendall_taus(scores, ratings, torch.arange(3), counts[:0]).b) == 0


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"one row for each score, got shape \(2, 1\) for \(3,\)"):
        kendall_tau(torch.ones(3), torch.ones(2, 1))
    with pytest.raises(ValueError, match="'b' or 'c', got 'a'"):
        kendall_tau(torch.ones(3), torch.ones(3), variant="a")
    with pytest.raises(ValueError, match="unit of every score"):
        resampled_kendall_taus(torch.ones(3), torch.ones(3), torch.zeros(2, dtype=torch.int64), torch.ones(1, 1))
