"""CLIP ViT-B/32 (OpenAI) on 100 Flickr8k photos with 5 captions each."""

import numpy as np
import pytest
import torch

from i0t.metrics import functional as F


@pytest.mark.data
def test_clip_on_flickr8k(shared_data):
    with np.load(shared_data / "clip_vitb32_flickr8k" / "embeddings.npz") as file:
        image, text, index = (torch.from_numpy(file[name]) for name in ("image", "text", "text_image_index"))
    image, text = (torch.nn.functional.normalize(rows.float(), dim=1) for rows in (image, text))
    assert float(F.centroid_distance(image, text)) == pytest.approx(0.8430, abs=5e-5)
    assert float(F.relative_modality_gap(image, text, index)) == pytest.approx(0.5890, abs=5e-5)
    recall = F.retrieval_recall(image, text, index)
    assert float(recall["i2t_r1"]) == pytest.approx(0.930)
    assert float(recall["t2i_r1"]) == pytest.approx(0.832)
    assert float(F.linear_separability(image, text, index)) == 1.0
    # The peaks of the I0T paper, which counts dimensions from 1.
    peaks = F.activation_peaks(image, text)
    assert peaks["image"][0].index_from_1 == 93
    assert peaks["image"][0].mean == pytest.approx(-0.622, abs=5e-4)
    assert [peak.index_from_1 for peak in peaks["text"][:2]] == [134, 313]
    assert all(peak.mean == pytest.approx(0.397, abs=5e-4) for peak in peaks["text"][:2])
