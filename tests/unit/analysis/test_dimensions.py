"""What is shown of few dimensions: tables, JSON and pictures."""

import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.nn.functional import normalize

from i0t.analysis.dimensions import SortedDimensions, dimension_profile
from i0t.analysis.dimensions_ablation import AblationCurve, LostRows
from i0t.analysis.dimensions_curves import DroppedDimensions
from i0t.analysis.dimensions_scatter import leading_dimensions
from i0t.analysis.dimensions_share import CumulativeShare


@pytest.fixture(scope="module")
def features():
    generator = torch.Generator().manual_seed(0)
    image, text = 0.1 * torch.randn(50, 20, generator=generator), 0.1 * torch.randn(80, 20, generator=generator)
    image[:, 8] -= 0.9
    text[:, 16] += 0.6
    return normalize(image, dim=1), normalize(text, dim=1)


@pytest.fixture(scope="module")
def profile(features):
    return dimension_profile(*features)


def drawn(detail):
    axes = Figure().subplots()
    detail.draw(axes)
    return axes, {str(line.get_label()): line.get_xydata() for line in axes.lines}


def test_dimensions_are_sorted_and_carry_their_shares(profile, features):
    x, y = (rows.double().numpy().mean(0) for rows in features)
    order = sorted(range(20), key=lambda d: -abs(x[d] - y[d]))
    assert [d + 1 for d in order[:2]] == [9, 17]
    total, so_far = ((x - y) ** 2).sum(), 0.0
    lines = SortedDimensions(profile).lines()
    assert len(SortedDimensions(profile).header()) == len(lines[0]) == 9
    for rank, (dimension, line) in enumerate(zip(order, lines, strict=True), start=1):
        share = (x[dimension] - y[dimension]) ** 2 / total
        so_far += share
        assert line[:2] == (rank, dimension + 1)
        parts = [abs(x[dimension]) / abs(x).sum(), abs(y[dimension]) / abs(y).sum()]
        expected = [x[dimension], y[dimension], abs(x[dimension] - y[dimension]), share, so_far, *parts]
        np.testing.assert_allclose(line[2:], expected, atol=1e-7)
    assert lines[-1][6] == pytest.approx(1)
    content = json.loads(json.dumps(SortedDimensions(profile).as_json()))
    assert content["centroid_distance"] == pytest.approx(np.sqrt(total), abs=1e-7)
    first = content["dimensions"][0]
    assert (first["index_from_0"], first["index_from_1"], first["rank"]) == (8, 9, 1)
    assert (first["image_mean"], first["image_share"]) == (lines[0][2], lines[0][7])


def test_equal_differences_stand_in_the_order_of_dimensions():
    rows = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    assert dimension_profile(rows, -rows).order.tolist() == [0, 1, 2, 3]


def test_the_picture_of_sorted_dimensions_names_the_leading_ones_above_their_points(profile):
    axes, lines = drawn(SortedDimensions(profile))
    np.testing.assert_allclose(lines["|difference of means|"][:, 1], profile.difference.abs()[profile.order])
    np.testing.assert_allclose(lines["image mean"][:, 1], profile.image_means[profile.order])
    np.testing.assert_allclose(lines["text mean"][:, 0], np.arange(1, 21))
    chance = lines["of a random direction"][:, 1]
    assert np.square(chance).sum() == pytest.approx(profile.distance**2)
    assert [text.get_text() for text in axes.texts] == [str(d + 1) for d in profile.order[:5].tolist()]
    assert axes.texts[1].xy[1] == max(float(profile.text_means[16]), float(profile.difference.abs()[16]))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "5", "10", "20"]


def test_cumulative_shares_reach_one_here_and_by_chance(profile):
    detail = CumulativeShare(profile, {50: 1.0, 90: 2.0}, {50: 3.25, 90: 9.5})
    content = json.loads(json.dumps(detail.as_json()))
    assert content["num_dimensions"] == {"50": 1.0, "90": 2.0}
    assert content["num_dimensions_by_chance"] == {"50": 3.25, "90": 9.5}
    assert content["cumulative_share"][-1] == pytest.approx(1)
    assert content["cumulative_share_by_chance"][-1] == pytest.approx(1)
    assert content["cumulative_share"][1] > 0.9 > content["cumulative_share_by_chance"][1]
    assert detail.lines() == [("50 %", 1, 3.25, 20), ("90 %", 2, 9.5, 20)]
    _, lines = drawn(detail)
    assert {label for label in lines if not label.startswith("_")} == {
        "difference of means: 50 % in 1, 90 % in 2",
        "random direction: 50 % in 3, 90 % in 10",
    }
    np.testing.assert_allclose(lines["difference of means: 50 % in 1, 90 % in 2"][:, 1], content["cumulative_share"])


def test_points_are_a_seeded_sample_in_the_two_leading_dimensions(profile, features):
    detail = leading_dimensions(profile, *features, num_points=30, seed=0)
    again = leading_dimensions(profile, *features, num_points=30, seed=0)
    assert detail.dimensions == (8, 16)
    assert torch.equal(detail.text_rows, again.text_rows)
    assert len(detail.lines()) == 60
    for name, row, first, value, second, second_value in detail.lines():
        source = features[0 if name == "image" else 1][row]
        assert (first, second) == (9, 17)
        assert (value, second_value) == (float(source[8]), float(source[16]))
    content = json.loads(json.dumps(detail.as_json()))
    assert content["dimensions"] == [{"index_from_0": 8, "index_from_1": 9}, {"index_from_0": 16, "index_from_1": 17}]
    assert content["text"]["rows"] == detail.text_rows.tolist()
    axes, _ = drawn(detail)
    np.testing.assert_allclose(axes.collections[0].get_offsets(), detail.image_values)
    assert axes.get_xlabel() == "dimension 9 (counting from 1), the largest difference"
    assert axes.get_ylabel() == "dimension 17, the second"
    assert axes.get_ylim()[1] > float(detail.text_values[:, 1].max()) * 1.1
    everything = leading_dimensions(profile, *features, num_points=500, seed=0)
    assert (len(everything.image_rows), len(everything.text_rows)) == (50, 80)


def dropped_detail(**changes):
    curve = AblationCurve(
        order=torch.tensor([8, 2, 0, 1, 3]),
        num_dropped=(0, 1, 2, 4),
        gap={"centroid_distance": (0.8, 0.5, 0.25, None)},
        performance={},
        lost=LostRows(num_dropped=4, images=3, texts=0, prompts=0),
    )
    random = [{"centroid_distance": (0.8, 0.9, 0.7, 0.6)}, {"centroid_distance": (0.8, 0.7, 0.6, 0.4)}]
    fields = {"title": "x", "ylabel": "gap", "num_fine": 2, "leading": curve, "curves": curve.gap, "random": random}
    return DroppedDimensions(**{**fields, **changes})


def test_curves_stand_beside_the_mean_over_random_dimensions():
    detail = dropped_detail()
    assert detail.header()[2:] == ("centroid_distance", "centroid_distance, random dimensions")
    expected = [(0, None, 0.8, 0.8), (1, 9, 0.5, 0.8), (2, 3, 0.25, 0.65), (4, 2, None, 0.5)]
    for line, wanted in zip(detail.lines(), expected, strict=True):
        assert line == pytest.approx(wanted)
    content = json.loads(json.dumps(detail.as_json(), allow_nan=False))
    assert content["dropped_in_order"] == {"index_from_0": [8, 2, 0, 1], "index_from_1": [9, 3, 1, 2]}
    assert content["leading"]["centroid_distance"] == [0.8, 0.5, 0.25, None]
    assert content["random"][1]["centroid_distance"] == [0.8, 0.7, 0.6, 0.4]
    assert content["rows_without_direction"] == "3 images after 4 dimensions"
    axes, lines = drawn(detail)
    np.testing.assert_allclose(lines["centroid distance"], [[0, 0.8], [1, 0.5], [2, 0.25], [4, np.nan]])
    dotted = next(line for line in axes.lines if line.get_linestyle() == ":" and len(line.get_xdata()))
    np.testing.assert_allclose(dotted.get_ydata(), [0.8, 0.8, 0.65, 0.5])
    assert axes.get_xscale() == "symlog"
    assert axes.get_ylim()[1] > 0.9


def test_without_control_and_coarse_steps_the_axis_is_linear_and_nothing_is_dotted():
    detail = dropped_detail(random=[], num_fine=20, are_shares=True)
    assert detail.header()[2:] == ("centroid_distance",)
    axes, lines = drawn(detail)
    assert axes.get_xscale() == "linear"
    assert "random dimensions" not in lines
    assert max(axes.get_yticks()) == 1
