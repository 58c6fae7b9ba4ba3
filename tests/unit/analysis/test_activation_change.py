import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from i0t.analysis.activation_change import ActivationChange
from i0t.analysis.activations import activation_profile


def planted(rows: int, dim: int, peaks: dict[int, float], seed: int) -> Tensor:
    features = 0.02 * torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    for dimension, value in peaks.items():
        features[:, dimension - 1] += value
    return F.normalize(features, dim=1)


@pytest.fixture(scope="module")
def features() -> tuple[Tensor, Tensor]:
    return planted(60, 64, {9: -0.6}, 0), planted(90, 64, {31: 0.5, 60: 0.4}, 1)


@pytest.fixture(scope="module")
def change(features: tuple[Tensor, Tensor]) -> ActivationChange:
    centred = [F.normalize(rows - rows.mean(0), dim=1) for rows in features]
    return ActivationChange(activation_profile(*features), activation_profile(*centred))


def test_lines_have_every_dimension_once_counted_from_one_largest_first(
    change: ActivationChange, features: tuple[Tensor, Tensor]
) -> None:
    lines = change.lines()
    assert [line[:2] for line in lines[:3]] == [("image", 9), ("text", 31), ("text", 60)]
    assert [line[4] for line in lines] == ["before"] * 3 + [""] * 125
    assert len(change.header()) == len(lines[0])
    sizes = [max(abs(line[2]), abs(line[3])) for line in lines]
    assert sizes == sorted(sizes, reverse=True)
    before = {line[:2]: line[2] for line in lines}
    for name, rows in zip(("image", "text"), features, strict=True):
        found = [before[name, dimension] for dimension in range(1, 65)]
        np.testing.assert_allclose(found, rows.double().numpy().mean(axis=0), atol=1e-6)


def test_json_has_all_means_and_peaks_from_zero_and_from_one(change: ActivationChange) -> None:
    content = json.loads(json.dumps(change.as_json()))
    image = content["before"]["image"]
    assert len(image["means"]) == 64
    (peak,) = image["peaks"]
    assert (peak["index_from_0"], peak["index_from_1"]) == (8, 9)
    assert peak["mean"] == image["means"][8] < -0.5
    means = np.array(image["means"])
    deviation = np.abs(means - np.sort(means)[31])  # torch's median of an even count is the lower one
    assert peak["robust_z"] == pytest.approx(deviation[8] / (1.4826 * np.sort(deviation)[31]), rel=1e-5)
    assert [peak["index_from_1"] for peak in content["before"]["text"]["peaks"]] == [31, 60]
    assert content["after"]["image"]["peaks"] == content["after"]["text"]["peaks"] == []


def drawn(change: ActivationChange) -> tuple[dict[str, np.ndarray], list[str]]:
    axes = Figure().subplots()
    change.draw(axes)
    assert axes.get_xlabel() == "dimension, counting from 1"
    return {str(line.get_label()): line.get_xydata() for line in axes.lines}, [t.get_text() for t in axes.texts]


def test_the_picture_shows_bars_after_and_circles_before(change: ActivationChange) -> None:
    lines, texts = drawn(change)
    bars = lines["image mean"].reshape(64, 3, 2)
    np.testing.assert_allclose(bars[:, 1, 1], change.after.image_means.numpy(), atol=1e-7)
    np.testing.assert_allclose(bars[:, 0, 0], np.arange(1, 65) - 0.2)
    assert "before the reducer" in lines
    largest = max(float(m.abs().max()) for m in (change.after.image_means, change.after.text_means))
    peaks = (*change.before.image_peaks, *change.before.text_peaks)
    names = [f"{p.index_from_1}: {p.mean:+.2f}".replace("-", "\N{MINUS SIGN}") for p in peaks]
    assert texts == [*names, f"no peak after the reducer; largest absolute mean {largest:.3f}"]
    assert texts[0].startswith("9: \N{MINUS SIGN}0.")


def test_an_unchanged_row_names_its_peaks_once_and_as_many_as_asked(change: ActivationChange) -> None:
    lines, texts = drawn(ActivationChange(change.before, change.before, labelled_peaks=1))
    assert "before the reducer" not in lines
    assert [text.split(":")[0] for text in texts] == ["9", "31"]
    assert {line[4] for line in ActivationChange(change.before, change.before).lines()} == {"before and after", ""}


def test_names_near_the_right_edge_stand_left_of_their_peak(change: ActivationChange) -> None:
    axes = Figure().subplots()
    ActivationChange(change.before, change.before).draw(axes)
    assert {t.get_text().split(":")[0]: t.get_ha() for t in axes.texts} == {"9": "left", "31": "left", "60": "right"}
