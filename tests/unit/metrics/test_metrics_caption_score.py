"""Caption scores against the published formulas written out as loops."""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from i0t.metrics.functional import (
    caption_cosines,
    caption_scores,
    preference_hits,
    reference_cosines,
    reference_scores,
)


def random_set(*, num_images=7, num_texts=23, dim=6, num_candidates=40, num_references=90, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def rows(count):
        return normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1).to(dtype)

    def draw(high, count):
        return torch.randint(high, (count,), generator=generator)

    candidates = torch.stack([draw(num_images, num_candidates), draw(num_texts, num_candidates)], dim=1)
    references = torch.stack([draw(num_candidates - 5, num_references), draw(num_texts, num_references)], dim=1)
    return rows(num_images), rows(num_texts), candidates, references


def cosine(a, b):
    total = 0.0
    for x, y in zip(a, b, strict=True):
        total += x * y
    return total


def published(image, text, candidates, references, weight):
    """CLIP-S and RefCLIP-S (Hessel et al. 2021, Sec. 3), caption by caption."""
    image, text = image.double().tolist(), text.double().tolist()
    scores, with_references = [], []
    for number, (i, t) in enumerate(candidates.tolist()):
        score = weight * max(cosine(image[i], text[t]), 0.0)
        scores.append(score)
        own = [max(cosine(text[t], text[r]), 0.0) for owner, r in references.tolist() if owner == number]
        if not own:
            with_references.append(math.nan)
        elif score + max(own) == 0:
            with_references.append(0.0)
        else:
            # H-Mean(a, b) = 2 / (1/a + 1/b), written without dividing by zero.
            with_references.append(2 * score * max(own) / (score + max(own)))
    return scores, with_references


@pytest.mark.parametrize("weight", [2.5, 2.0, 1.0])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.float16, 5e-3)])
def test_scores_are_the_published_ones(weight, dtype, atol):
    image, text, candidates, references = random_set(dtype=dtype)
    scores = caption_scores(caption_cosines(image, text, candidates), weight=weight)
    nearest = reference_cosines(text, candidates[:, 1], references)
    expected = published(image, text, candidates, references, weight)
    assert 5 < sum(score == 0 for score in expected[0]) < 35  # clipped ones are among them
    assert sum(map(math.isnan, expected[1])) >= 5
    np.testing.assert_allclose(scores.numpy(), expected[0], atol=weight * atol)
    np.testing.assert_allclose(reference_scores(scores, nearest).numpy(), expected[1], atol=weight * atol)


def test_not_clipped_scores_keep_the_order_of_negative_cosines():
    cosines = torch.tensor([-0.5, -0.1, 0.0, 0.3])
    assert caption_scores(cosines, weight=2.0, clipped=False).tolist() == pytest.approx([-1.0, -0.2, 0.0, 0.6])
    assert caption_scores(cosines, weight=2.0).tolist() == pytest.approx([0.0, 0.0, 0.0, 0.6])


def test_reference_scores_have_no_pole_and_grow_with_the_score():
    scores = torch.linspace(-1, 1, 201, dtype=torch.float64)
    for reference in (0.01, 0.3, 1.0):
        found = reference_scores(scores, torch.full_like(scores, reference))
        assert bool((found.diff() > 0).all())
        assert float(found.abs().max()) <= 2 * reference
        positive = scores > 0
        harmonic = 2 / (1 / scores[positive] + 1 / reference)
        torch.testing.assert_close(found[positive], harmonic)


def test_a_reference_of_opposite_meaning_and_nothing_at_all_give_zero():
    scores, references = torch.tensor([1.0, 0.0, 0.0, 0.4]), torch.tensor([-0.7, 0.0, 0.5, torch.nan])
    found = reference_scores(scores, references).tolist()
    assert found[:3] == [0.0, 0.0, 0.0]
    assert math.isnan(found[3])


def test_one_caption_per_image_needs_no_candidates_and_duplicates_tie_exactly():
    image, text, *_ = random_set(num_texts=7)
    assert torch.equal(
        caption_cosines(image, text), caption_cosines(image, text, torch.arange(7)[:, None].repeat(1, 2))
    )
    many = torch.tensor([[3, 2]]).repeat(9001, 1)
    assert len(caption_cosines(image, text, many).unique()) == 1


def test_no_candidates_and_no_references():
    image, text, candidates, _ = random_set()
    none = torch.empty(0, 2, dtype=torch.int64)
    assert caption_cosines(image, text, none).tolist() == []
    assert bool(reference_cosines(text, candidates[:, 1], none).isnan().all())


def test_preferences_count_ties_one_half_and_unknown_scores_not_at_all():
    scores = torch.tensor([0.1, 0.4, 0.4, torch.nan])
    pairs = torch.tensor([[1, 0], [0, 1], [1, 2], [2, 3]])
    hits = preference_hits(scores, pairs)
    assert hits[:3].tolist() == [1.0, 0.0, 0.5]
    assert bool(hits[3].isnan())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda i, t: caption_cosines(i, t), "7 images and 23 captions"),
        (lambda i, t: caption_cosines(2 * i, t), "norm 2"),
        (lambda i, t: caption_cosines(i, t, torch.tensor([[0, 23]])), r"candidates\[:, 1\]\[0\] is 23"),
        (lambda i, t: caption_cosines(i, t, torch.tensor([0, 1])), "must be"),
        (lambda i, t: reference_cosines(t, torch.tensor([0]), torch.tensor([[1, 0]])), r"references\[:, 0\]\[0\] is 1"),
        (lambda i, t: caption_scores(torch.ones(2), weight=0.0), "weight must be positive, got 0.0"),
        (lambda i, t: preference_hits(torch.ones(2), torch.tensor([[0, 2]])), r"preferences\[:, 1\]\[0\] is 2"),
    ],
)
def test_bad_input_is_named(call, message):
    image, text, *_ = random_set()
    with pytest.raises(ValueError, match=message):
        call(image, text)
