"""L2M, L2I and RMG of any set equal the definition of *Two Effects* (arXiv 2404.07983), written with full matrices.

The oracle works in float64 NumPy on N x N matrices: images repeated once per caption, or the text of its class repeated
once per image, a diagonal filled with zeros, and distances 1 - (cos + 1) / 2.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.gap import Gap
from i0t.gap_reducers.none import NoReducer
from i0t.metrics import functional as F

GAP = {"gap": Gap(separability_seed=0, num_resamples=3)}


def reference(image, text, pairs):
    """The four numbers of unit float64 rows and (image row, text row) pairs."""
    matched_image, matched_text = image[pairs[:, 0]], text[pairs[:, 1]]

    def to_distance(cosine):
        return 1 - (cosine + 1) / 2

    def spread(rows, diagonal):
        cosines = rows @ rows.T
        if diagonal:
            return to_distance(cosines.mean())
        np.fill_diagonal(cosines, 0)
        return to_distance(cosines.sum() / (cosines.size - len(rows)))

    matched = to_distance((matched_image * matched_text).sum(axis=1).mean())
    matched = matched if matched > 0 else 1e-3
    rmg = {
        name: matched / (matched + (spread(image, diagonal) + spread(text, diagonal)) / 2)
        for name, diagonal in (("rmg", False), ("rmg_with_diagonal", True))
    }
    return {
        "centroid_distance": np.linalg.norm(image.mean(axis=0) - text.mean(axis=0)),
        "instance_distance": np.linalg.norm(matched_image - matched_text, axis=1).mean(),
        **rmg,
    }


def ours(image, text, pairs):
    pairing = {"pairs": torch.from_numpy(pairs)}
    return {
        "centroid_distance": F.centroid_distance(image, text),
        "instance_distance": F.instance_distance(image, text, **pairing),
        "rmg": F.relative_modality_gap(image, text, **pairing),
        "rmg_with_diagonal": F.relative_modality_gap(image, text, **pairing, include_diagonal=True),
    }


@st.composite
def embedding_sets(draw):
    """Unit rows (float64 values of float32 rows) and pairs: captions, prompts of classes, or anything between."""
    num_images, dim = draw(st.integers(2, 20)), draw(st.integers(2, 16))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    form = draw(st.sampled_from(["captions", "prompts", "any"]))
    if form == "captions":
        image_rows = np.repeat(np.arange(num_images), rng.integers(1, 6, num_images))
        pairs = np.stack([image_rows, rng.permutation(len(image_rows))], axis=1)
    else:
        num_texts = draw(st.integers(2, 10))
        texts_of = 1 if form == "prompts" else 2
        drawn = [(i, t) for i in range(num_images) for t in rng.choice(num_texts, texts_of, replace=False)]
        pairs = np.array(drawn)
    num_texts = pairs[:, 1].max() + 1 if form == "captions" else num_texts
    image, text = rng.standard_normal((num_images, dim)), rng.standard_normal((num_texts, dim))
    image, text = image + draw(st.sampled_from([0, 0.5, 3])), text - draw(st.sampled_from([0, 0.5]))
    if draw(st.booleans()):  # duplicates, within and between the modalities
        image[rng.integers(num_images)] = image[0]
        text[rng.integers(num_texts)] = text[-1]
        text[pairs[0, 1]] = image[pairs[0, 0]]
    return (
        *(normalize(torch.from_numpy(rows).float(), dim=1) for rows in (image, text)),
        pairs.astype(np.int64)[rng.permutation(len(pairs))],
    )


@settings(max_examples=60, deadline=None)
@given(embedding_sets())
def test_any_set_equals_the_reference(drawn):
    image, text, pairs = drawn
    expected = reference(image.double().numpy(), text.double().numpy(), pairs)
    for rows in ((image, text), (image.double(), text.double())):
        for name, value in ours(*rows, pairs).items():
            assert float(value) == pytest.approx(expected[name], abs=1e-6), name


@settings(max_examples=8, deadline=None)
@given(embedding_sets())
def test_the_evaluation_equals_the_reference(drawn):
    image, text, pairs = drawn
    # Features come at any length; the evaluation normalises them.
    length = torch.linspace(0.1, 30, len(image))[:, None]
    embeddings = EmbeddingSet(image_features=image * length, text_features=7 * text, pairs=torch.from_numpy(pairs))
    row = evaluate_row("none", NoReducer(image.shape[1]), embeddings, GAP, split="test")
    expected = reference(image.double().numpy(), text.double().numpy(), pairs)
    for name, value in expected.items():
        assert row.metrics[f"gap/{name}"] == pytest.approx(value, abs=1e-6), name


def test_the_evaluation_measures_images_that_share_one_text():
    image, text = torch.eye(3)[:2], torch.eye(3)[[2, 0]]
    pairs = np.array([[0, 1], [1, 1]])
    embeddings = EmbeddingSet(image_features=image, text_features=text, pairs=torch.from_numpy(pairs))
    row = evaluate_row("none", NoReducer(3), embeddings, GAP, split="test")
    for name, value in reference(image.double().numpy(), text.double().numpy(), pairs).items():
        assert row.metrics[f"gap/{name}"] == pytest.approx(value, abs=1e-6), name
    assert "gap/linear_separability" not in row.metrics  # nothing is left to split


def test_perfect_agreement_takes_the_reference_s_floor():
    rows = torch.eye(4, dtype=torch.float64)
    pairs = np.stack([np.arange(4), np.arange(4)], axis=1)
    expected = reference(rows.numpy(), rows.numpy(), pairs)
    assert expected["rmg"] == pytest.approx(0.001 / 0.501)
    assert expected["rmg_with_diagonal"] == pytest.approx(0.001 / (0.001 + 0.375))
    for name, value in ours(rows, rows, pairs).items():
        assert float(value) == pytest.approx(expected[name], abs=1e-12)


@pytest.mark.data
def test_real_embeddings_equal_the_reference(shared_data):
    with np.load(shared_data / "clip_vitb32_flickr8k" / "embeddings.npz") as file:
        image, text, index = (torch.from_numpy(file[name]) for name in ("image", "text", "text_image_index"))
    image, text = (normalize(rows.float(), dim=1) for rows in (image, text))
    captions = np.stack([index.numpy(), np.arange(len(text))], axis=1)
    # As a labelled set: ten kinds of photo, whose first caption stands for each.
    prompts = np.stack([np.arange(len(image)), np.arange(len(image)) % 10], axis=1)
    for texts, pairs in ((text, captions), (text[:10], prompts)):
        expected = reference(image.double().numpy(), texts.double().numpy(), pairs)
        for name, value in ours(image, texts, pairs).items():
            assert float(value) == pytest.approx(expected[name], abs=1e-6), name
