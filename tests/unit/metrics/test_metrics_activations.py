import pytest
import torch
from torch.nn.functional import normalize

from i0t.metrics import functional as F


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_mean_activations_against_a_loop(paired_set, dtype):
    rows, _, _ = paired_set(11, dtype=dtype)
    expected = [sum(float(row[d]) for row in rows) / 11 for d in range(8)]
    assert F.mean_activations(rows).tolist() == pytest.approx(expected, abs=1e-6)


def test_planted_peaks_are_found_by_name():
    generator = torch.Generator().manual_seed(0)
    image, text = torch.randn(500, 64, generator=generator), torch.randn(700, 64, generator=generator)
    image[:, 20] -= 5
    text[:, 40] += 4
    text[:, 3] -= 3
    peaks = F.activation_peaks(normalize(image, dim=1), normalize(text, dim=1), top=2)
    assert (peaks["image"][0].index_from_0, peaks["image"][0].index_from_1) == (20, 21)
    assert [peak.index_from_1 for peak in peaks["text"]] == [41, 4]
    assert peaks["image"][0].mean < -0.4
    assert peaks["text"][0].mean > 0.3 > 0 > peaks["text"][1].mean
    means = F.mean_activations(normalize(text, dim=1))
    assert peaks["text"][1].mean == pytest.approx(float(means[3]))


@pytest.mark.parametrize("top", [0, 4])
def test_top_is_checked(top):
    with pytest.raises(ValueError, match=f"top must lie in 1 … 3, the feature width, got {top}"):
        F.activation_peaks(torch.eye(3), torch.eye(3), top)
