"""Ranges of cosines against all of them, and what is drawn of large sets."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.nn.functional import normalize

from i0t.analysis.cosine_ranges import cosine_ranges
from i0t.embeddings import EmbeddingSet
from i0t.judgements import Judgements


def make(num_images=9, captions=2, *, seed=0, **fields):
    generator = torch.Generator().manual_seed(seed)
    image = normalize(torch.randn(num_images, 6, generator=generator), dim=1)
    text = normalize(torch.randn(num_images * captions, 6, generator=generator), dim=1)
    index = torch.arange(num_images).repeat_interleave(captions)
    return EmbeddingSet.from_index(image, text, index, **fields)


def expected(embeddings):
    image, text = embeddings.image_features.double().numpy(), embeddings.text_features.double().numpy()
    paired = {tuple(p) for p in embeddings.pairs.tolist()}
    judged = embeddings.judgements.candidates.tolist() if embeddings.judgements else []
    together = paired | {tuple(c) for c in judged}
    if embeddings.relevant_pairs is not None:
        together |= {tuple(p) for p in embeddings.relevant_pairs.tolist()}
    every = itertools.product(range(len(image)), range(len(text)))
    return {
        "image_image": [a @ b for a, b in itertools.combinations(image, 2)],
        "text_text": [a @ b for a, b in itertools.combinations(text, 2)],
        "matched": [image[i] @ text[t] for i, t in paired],
        "unmatched": [image[i] @ text[t] for i, t in every if (i, t) not in together],
        "judged": [image[i] @ text[t] for i, t in judged],
    }


def quantiles(values):
    return [min(values), *np.quantile(values, [0.05, 0.5, 0.95]), max(values)]


@pytest.mark.parametrize("relevant", [None, torch.tensor([[0, 5], [8, 0], [0, 0]])])
def test_small_sets_are_looked_at_whole(relevant):
    judgements = Judgements.of(torch.tensor([[0, 0], [0, 3], [7, 17], [0, 3]]))
    embeddings = make(judgements=judgements, relevant_pairs=relevant)
    found = cosine_ranges(embeddings).ranges
    for kind, values in expected(embeddings).items():
        one = found[kind]
        assert one.num_cosines == len(values)
        assert not one.sampled
        assert [one.low, one.p5, one.median, one.p95, one.high] == pytest.approx(quantiles(values), abs=1e-6)


def test_kinds_that_a_set_has_not_are_left_out():
    embeddings = dataclasses.replace(make(), pairs=torch.empty(0, 2, dtype=torch.int64))
    assert set(cosine_ranges(embeddings).ranges) == {"image_image", "text_text", "unmatched"}
    assert cosine_ranges(embeddings).ranges["unmatched"].num_cosines == 9 * 18
    one = make(1, 1)
    assert set(cosine_ranges(one).ranges) == {"matched"}


def test_large_sets_are_drawn_from_the_same_way_every_time():
    embeddings = make(120, 3)
    found = cosine_ranges(embeddings, num_cosines=1500)
    assert found == cosine_ranges(embeddings, num_cosines=1500)
    assert found != cosine_ranges(embeddings, num_cosines=1500, seed=1)
    for kind, values in expected(embeddings).items():
        if kind == "judged":
            continue
        one = found.ranges[kind]
        assert one.sampled == (len(values) > 1500)
        assert one.num_cosines == min(len(values), 1500)
        assert [one.p5, one.median, one.p95] == pytest.approx(np.quantile(values, [0.05, 0.5, 0.95]), abs=0.06)
        assert one.low >= min(values) - 1e-6
        assert one.high <= max(values) + 1e-6


def test_a_draw_holds_no_pair_and_no_row_with_itself():
    # Pairs and self-pairs have cosine 1, everything else less.
    rows = normalize(torch.randn(40, 24, generator=torch.Generator().manual_seed(2)), dim=1)
    embeddings = EmbeddingSet.from_index(rows, rows, torch.arange(40))
    found = cosine_ranges(embeddings, num_cosines=700).ranges
    assert found["matched"].low == pytest.approx(1, abs=1e-6)
    assert all(found[kind].sampled for kind in ("image_image", "text_text", "unmatched"))
    assert max(found[kind].high for kind in ("image_image", "text_text", "unmatched")) < 0.95
    part = cosine_ranges(make(50, 10), num_cosines=30).ranges["matched"]
    assert (part.num_cosines, part.sampled) == (30, True)


def test_table_json_and_picture_say_the_same():
    detail = cosine_ranges(make())
    written = detail.as_json()
    assert list(written) == ["image_image", "text_text", "matched", "unmatched"]
    assert [line[0] for line in detail.lines()][2] == "image and its text"
    assert len(detail.header()) == len(detail.lines()[0])
    for line, entry in zip(detail.lines(), written.values(), strict=True):
        assert line[1:6] == tuple(entry[name] for name in ("min", "p5", "median", "p95", "max"))
        assert line[7] == ("yes" if entry["sampled"] else "no")
    axes = Figure().subplots()
    detail.draw(axes)
    assert "image and its text" in [text.get_text() for text in axes.texts]
    lows = [collection.get_segments()[0][0][0] for collection in axes.collections[::2]]
    assert lows == pytest.approx([entry["min"] for entry in written.values()])


def test_no_cosines_at_all_is_refused():
    with pytest.raises(ValueError, match="num_cosines must be at least 1, got 0"):
        cosine_ranges(make(), num_cosines=0)


@pytest.mark.data
def test_centring_brings_both_modalities_to_one_range(shared_data):
    """Flickr8k by OpenAI's ViT-B/32: an image is less like its text than like any other image, until centred."""
    with np.load(shared_data / "clip_vitb32_flickr8k" / "embeddings.npz", allow_pickle=False) as file:
        image, text = torch.from_numpy(file["image"]), torch.from_numpy(file["text"])
        embeddings = EmbeddingSet.from_index(image, text, torch.from_numpy(file["text_image_index"]).long())
    centred = dataclasses.replace(
        embeddings,
        image_features=normalize(image - image.mean(0), dim=1),
        text_features=normalize(text - text.mean(0), dim=1),
    )
    before, after = (cosine_ranges(one, num_cosines=3000).ranges for one in (embeddings, centred))
    assert before["matched"].p95 < before["image_image"].median
    assert after["matched"].median > after["image_image"].p95
    assert after["unmatched"].low < -0.2 < 0 < before["unmatched"].p5
