"""The numbers of LAION's clip-benchmark 1.6.2, exactly, on sets without ties.

The recorded numbers always run. The comparison with the package itself runs where it is installed
(`pip install --no-deps clip-benchmark==1.6.2`: its retrieval needs torch and tqdm only).
"""

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from i0t.metrics import functional as F

CUTS = (1, 5, 10)
# clip-benchmark's names: the modality that is retrieved.
PEER_NAMES = {"i2t": "text_retrieval_recall", "t2i": "image_retrieval_recall"}
# What clip-benchmark 1.6.2 finds on `golden_set(captions)`: hits of i2t at 1, 5, 10, then of t2i.
GOLDEN_HITS = {1: [19, 37, 38, 18, 37, 38], 5: [28, 37, 40, 100, 173, 191]}


def golden_set(captions, num_images=40, dim=16):
    """Unit rows from integer arithmetic alone, the same on every machine."""

    def spread(rows, prime):
        numbers = [[(prime * (row + 1) * (column + 3) ** 2 + row**3) % 1009 for column in range(dim)] for row in rows]
        return torch.tensor(numbers, dtype=torch.float64) / 504.0 - 1

    index = torch.tensor([(7 * row) % num_images for row in range(num_images * captions)])
    image = spread(range(num_images), 389)
    text = image[index] + 1.6 * spread(range(num_images * captions), 577)
    return normalize(image, dim=1).float(), normalize(text, dim=1).float(), index


def peer_recall(image, text, index, batch=7):
    peer = pytest.importorskip(
        "clip_benchmark.metrics.zeroshot_retrieval",
        reason="clip-benchmark is not installed: pip install --no-deps clip-benchmark==1.6.2",
    )

    class Stored:
        def encode_image(self, rows):
            return image[rows]

        def encode_text(self, rows):
            return text[rows]

    captions = [[str(row) for row in (index == owner).nonzero()[:, 0].tolist()] for owner in range(len(image))]
    batches = [(rows, [captions[row] for row in rows.tolist()]) for rows in torch.arange(len(image)).split(batch)]
    found = peer.evaluate(
        Stored(), batches, lambda texts: torch.tensor([int(row) for row in texts]), "cpu", False, list(CUTS)
    )
    return {f"{way}_r{k}": found[f"{name}@{k}"] for way, name in PEER_NAMES.items() for k in CUTS}


def our_recall(image, text, index):
    found = F.retrieval_recall(image, text, index, k=CUTS)
    assert int(found["i2t_tied"]) == int(found["t2i_tied"]) == 0
    assert int(found["i2t_unpaired"]) == int(found["t2i_unpaired"]) == 0
    return {f"{way}_r{k}": float(found[f"{way}_r{k}"]) for way in PEER_NAMES for k in CUTS}


@pytest.mark.parametrize("captions", [1, 5])
def test_recorded_numbers(captions):
    image, text, index = golden_set(captions)
    queries = [len(image)] * 3 + [len(text)] * 3
    expected = [float(np.float32(hit) / np.float32(n)) for hit, n in zip(GOLDEN_HITS[captions], queries, strict=True)]
    assert list(our_recall(image, text, index).values()) == expected


@pytest.mark.parametrize("captions", [1, 5])
def test_the_recorded_numbers_are_the_peers(captions):
    image, text, index = golden_set(captions)
    hits = list(peer_recall(image, text, index).values())
    queries = [len(image)] * 3 + [len(text)] * 3
    assert [round(value * n) for value, n in zip(hits, queries, strict=True)] == GOLDEN_HITS[captions]


@pytest.mark.parametrize("gap", [0.0, 2.0])
@pytest.mark.parametrize(("num_images", "captions", "dim"), [(10, 1, 8), (150, 1, 32), (60, 5, 16)])
def test_equal_to_the_package(paired_set, num_images, captions, dim, gap):
    image, text, index = paired_set(num_images, captions, dim, gap=gap, noise=1.5)
    ours = our_recall(image, text, index)
    assert ours == peer_recall(image, text, index)
    assert 0 < ours["t2i_r1"] < 1  # neither trivial
    assert all(math.isfinite(value) for value in ours.values())


def test_equal_with_uneven_numbers_of_captions(paired_set):
    image, text, index = paired_set(40, 6, 16, noise=1.5)
    keep = torch.rand(len(index), generator=torch.Generator().manual_seed(1)) < 0.5
    keep[[int((index == owner).nonzero()[0, 0]) for owner in range(40)]] = True
    text, index = text[keep], index[keep]
    assert len(torch.bincount(index).unique()) > 2
    assert our_recall(image, text, index) == peer_recall(image, text, index)


@pytest.mark.data
@pytest.mark.parametrize("captions", [1, 5])
def test_equal_on_real_clip_embeddings(shared_data, captions):
    with np.load(shared_data / "clip_vitb32_flickr8k" / "embeddings.npz") as file:
        image, text, index = (torch.from_numpy(file[name]) for name in ("image", "text", "text_image_index"))
    image, text = (normalize(rows.float(), dim=1) for rows in (image, text))
    nth = torch.tensor([int((index[:row] == index[row]).sum()) for row in range(len(index))])
    text, index = text[nth < captions], index[nth < captions]
    ours = our_recall(image, text, index)
    assert ours == peer_recall(image, text, index)
    assert len(index) == captions * 100
