import io

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from PIL import Image

from i0t.report.figures import (
    draw_cosines,
    draw_curves,
    draw_examples,
    draw_projection,
    history_panels,
    running_mean,
    wrap_caption,
)
from i0t.report.samples import CosineSample, Projection
from i0t.report.style import IMAGE_COLOR, TEXT_COLOR, png_bytes


def test_history_is_sorted_into_panels_and_drops_what_is_not_finite() -> None:
    panels = history_panels(
        {
            "train/loss": [(0, 2.0), (1, float("nan")), (2, 1.0)],
            "val/loss": [(2, 1.5)],
            "val/rmg": [(2, 0.3)],
            "val/gap/centroid_distance": [(2, 0.8)],
            "val/i2t_r1": [(2, 0.5)],
            "val/i2t_medr": [(2, 12.0)],
            "val/empty": [(2, float("inf"))],
            "train/lr": [(2, 1e-3)],
        }
    )
    assert {title: list(curves) for title, curves in panels.items()} == {
        "Loss": ["train/loss", "val/loss"],
        "Modality gap on validation data": ["val/rmg", "val/gap/centroid_distance"],
        "Validation scores": ["val/i2t_r1"],
        "Other validation values": ["val/i2t_medr"],
    }
    assert panels["Loss"]["train/loss"] == [(0, 2.0), (2, 1.0)]
    assert history_panels({}) == {}


def test_running_mean_matches_a_loop() -> None:
    values = np.random.default_rng(0).normal(size=23)
    expected = [values[max(0, i - 2) : i + 3].mean() for i in range(23)]
    np.testing.assert_allclose(running_mean(values, 5), expected)


def test_curves_show_points_and_smooth_only_long_ones() -> None:
    short = draw_curves("Loss", {"val/loss": [(0, 2.0), (10, 1.0)]})
    (line,) = short.axes[0].lines
    assert line.get_xydata().tolist() == [[0, 2], [10, 1]]
    long = draw_curves("Loss", {"train/$loss": [(step, float(step)) for step in range(150)]})
    raw, smooth = long.axes[0].lines
    assert len(raw.get_xdata()) == len(smooth.get_xdata()) == 150
    assert smooth.get_label() == "train/$loss (mean of 7)"
    png_bytes(long)  # an unpaired dollar sign would fail here if it were read as a formula


def test_projection_draws_both_modalities_and_joins_pairs() -> None:
    view = Projection(torch.tensor([[0.0, 1.0], [2.0, 3.0]]), torch.tensor([[4.0, 5.0], [6.0, 7.0]]), (0.61, 0.25))
    axes = draw_projection("none", view, limit=8, paired=True).axes[0]
    joins, images, texts = axes.collections
    assert isinstance(joins, LineCollection)
    assert [segment.tolist() for segment in joins.get_segments()] == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    assert images.get_offsets().tolist() == [[0, 1], [2, 3]]
    assert texts.get_offsets().tolist() == [[4, 5], [6, 7]]
    assert to_hex(images.get_facecolor()[0]).upper() == IMAGE_COLOR
    assert to_hex(texts.get_facecolor()[0]).upper() == TEXT_COLOR
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "component 1 (61% of the variance)",
        "component 2 (25% of the variance)",
    )
    assert axes.get_xlim() == axes.get_ylim() == (-8, 8)
    assert len(draw_projection("none", view, limit=8, paired=False).axes[0].collections) == 2


def test_cosine_labels_say_whether_pairs_are_known() -> None:
    some, none = torch.linspace(-0.5, 0.5, 50), torch.empty(0)

    def labels(sample: CosineSample, paired: bool) -> list[str]:
        figure = draw_cosines("none", sample, limits=(-1, 1), paired=paired)
        return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]

    assert labels(CosineSample(some, some, some, some), True) == [
        "image-text, matched",
        "image-text, not matched",
        "image-image",
        "text-text",
    ]
    assert labels(CosineSample(none, some, none, some), False) == ["image-text, pairs unknown", "text-text"]


def test_examples_show_captions_as_they_are() -> None:
    image = np.full((8, 8, 3), 200, np.uint8)
    figure = draw_examples([(image, "3-red"), (image, "cost $5_0"), (image, "")], columns=2)
    assert [axes.get_title() for axes in figure.axes] == ["3-red", "cost $5_0", "", ""]
    png_bytes(figure)


def test_long_captions_are_wrapped_and_cut_with_an_ellipsis() -> None:
    wrapped = wrap_caption("word " * 40, width=20, lines=3).split("\n")
    assert len(wrapped) == 3
    assert all(len(line) <= 20 for line in wrapped)
    assert wrapped[-1].endswith("…")


@pytest.mark.parametrize("rows", [1, 2])
def test_png_is_drawn_outside_pyplot_and_the_same_every_time(rows: int) -> None:
    pngs = []
    for _ in range(2):
        figure = draw_curves("x", {f"val/{number}": [(0, 1.0), (1, 0.5)] for number in range(rows)})
        pngs.append(png_bytes(figure))
    assert pngs[0] == pngs[1]
    assert Image.open(io.BytesIO(pngs[0])).size == (720, 510)  # 4.8 x 3.4 inches at 150 dots
    assert pyplot.get_fignums() == []
