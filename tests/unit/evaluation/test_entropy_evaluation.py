"""The entropy of the logits in both directions, against plain loops."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.entropy import Entropy
from i0t.evaluation.resampling import redraws_of
from i0t.gap_reducers.none import NoReducer


def draw(captions=2, **fields):
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(12).repeat_interleave(captions)
    image = torch.randn(12, 6, generator=generator)
    text = image[index] + torch.randn(len(index), 6, generator=generator)
    return EmbeddingSet.from_index(image, text, index, logit_scale=14.0, **fields)


def measured(embeddings, scale=None):
    return evaluate_row(
        "x", NoReducer(6), embeddings, {"entropy": Entropy(scale=scale, num_resamples=25)}, split="test"
    )


def entropies(queries, items, scale):
    found = []
    for row in F.normalize(queries, dim=1).double().numpy():
        logits = scale * (F.normalize(items, dim=1).double().numpy() @ row)
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        found.append(-sum(value * math.log(value) for value in p if value > 0))
    return np.array(found)


@pytest.mark.parametrize("scale", [None, 100.0])
def test_both_directions_against_loops(scale):
    embeddings = draw()
    row = measured(embeddings, scale)
    factor = 14.0 if scale is None else scale
    to_text = entropies(embeddings.image_features, embeddings.text_features, factor)
    to_image = entropies(embeddings.text_features, embeddings.image_features, factor)
    assert row.metrics == pytest.approx(
        {
            "entropy/logit_scale": factor,
            "entropy/image_to_text": to_text.mean(),
            "entropy/image_to_text_maximum": math.log(24),
            "entropy/text_to_image": to_image.mean(),
            "entropy/text_to_image_maximum": math.log(12),
        },
        abs=1e-5,
    )
    assert set(row.intervals) == {"entropy/image_to_text", "entropy/text_to_image"}
    counts = redraws_of(embeddings, 25).image_counts.numpy()
    assert row.replicates["entropy/image_to_text"].numpy() == pytest.approx(counts @ to_text / 12, abs=1e-5)
    of_text = counts[:, embeddings.text_image_index.numpy()]
    assert row.replicates["entropy/text_to_image"].numpy() == pytest.approx(of_text @ to_image / 24, abs=1e-5)
    assert row.protocols["entropy"] == (
        f"nats, logit scale {factor:.4g} ({'as given' if scale else 'the set' + chr(39) + 's own'}), 12 images and "
        "24 texts; 95 % bootstrap intervals over 12 images, what they choose from as it is"
    )


def test_class_prompts_are_not_drawn_and_a_bias_changes_nothing():
    one = draw(captions=1)
    pairs = torch.stack([torch.arange(12), torch.arange(12) % 3], dim=1)
    fields = {"image_features": one.image_features, "text_features": one.text_features[:3], "pairs": pairs}
    row = measured(EmbeddingSet(**fields, logit_scale=20.0))
    assert set(row.intervals) == {"entropy/image_to_text"}
    biased = measured(EmbeddingSet(**fields, logit_scale=20.0, logit_bias=-10.0))
    assert biased.metrics == row.metrics


def test_a_larger_scale_decides_more_sharply():
    values = [measured(draw(), scale).metrics["entropy/image_to_text"] for scale in (1e-4, 1.0, 10.0, 1e5)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(math.log(24), abs=1e-5)
    assert values[-1] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_none_is_refused(scale):
    with pytest.raises(ValueError, match=r"evaluation\.entropy\.scale must be a positive finite factor, or null"):
        Entropy(scale=scale, num_resamples=5)


def test_a_scale_that_is_only_assumed_is_said():
    known = measured(draw(provenance={"logit_scale_known": True}))
    assert known.notes == ()
    assert "(the set's own)" in known.protocols["entropy"]
    unknown = draw(provenance={"logit_scale_known": False})
    (note,) = measured(unknown).notes
    assert "came without a logit scale, 14 (CLIP's) is assumed" in note
    assert "(assumed)" in measured(unknown).protocols["entropy"]
    assert measured(unknown, 20.0).notes == ()
