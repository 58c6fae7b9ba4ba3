"""What the page gives its scripts: sizes, thumbnails, figures of details, and texts that stay texts."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from i0t.analysis.activation_change import ActivationChange
from i0t.analysis.activations import activation_profile
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import RowResult
from i0t.report.interactive_curves import training_figure
from i0t.report.interactive_figures import activation_figure, cosine_figure, rounded
from i0t.report.page import write_report
from i0t.report.samples import CosineSample
from i0t.report.thumbnails import make_sprite, picture_uri

EVIL = "</script><script>alert(1)</script><b>"


def make_row(embeddings, name):
    return RowResult(
        name=name,
        reducer="i0t.X",
        fit_split=None,
        fit_samples=0,
        protocol="none",
        metrics={"gap/rmg": 0.5},
        intervals={},
        image_features=F.normalize(embeddings.image_features, dim=1),
        text_features=F.normalize(embeddings.text_features, dim=1),
    )


def write(path, embeddings, names, images, **options):
    write_report(
        path,
        title="run",
        rows=[make_row(embeddings, name) for name in names],
        embeddings=embeddings,
        images=images,
        history={"val/loss": [(1, 2.0), (2, 1.0)]},
        config_yaml="",
        notes=[],
        environment={},
        **options,
    )
    return path.read_text(encoding="utf-8")


def block(html, name):
    return json.loads(re.search(f'<script type="application/json" id="{name}">(.*?)</script>', html).group(1))


@pytest.fixture(scope="module")
def photos():
    """64 pictures about as hard to pack as photographs: smooth parts and some noise."""
    random = np.random.default_rng(0)
    made = []
    for _ in range(64):
        smooth = Image.fromarray(random.integers(0, 256, (5, 5, 3), np.uint8)).resize(
            (48, 36), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(smooth).astype(int) + random.integers(-20, 21, (36, 48, 3))
        made.append(noisy.clip(0, 255).astype(np.uint8))
    return made


@pytest.mark.slow
def test_five_thousand_points_with_captions_and_thumbnails_stay_below_five_megabytes(tmp_path, photos):
    count = 5000
    generator = torch.Generator().manual_seed(0)
    words = ["a", "dog", "runs", "over", "the", "green", "field", "with", "its", "ball", "while", "people", "watch"]
    draws = torch.randint(len(words), (count, 14), generator=generator).tolist()
    embeddings = EmbeddingSet.from_index(
        torch.randn(count, 16, generator=generator) + 1,
        torch.randn(count, 16, generator=generator) - 1,
        torch.arange(count),
        captions=tuple(f"{number} " + " ".join(words[draw] for draw in row) for number, row in enumerate(draws)),
        image_ids=tuple(f"{number:012}.jpg" for number in range(count)),
    )
    path = tmp_path / "report.html"
    html = write(path, embeddings, ["none", "posthoc", "async"], lambda row: photos[row % 64], max_points=count)
    points = block(html, "data-points")
    assert len(points["texts"]) == len(points["images"]) == count
    assert len(base64.b64decode(points["states"][2]["sphere"][1])) == count * 3 * 2
    assert points["sprite"]["columns"] * points["sprite"]["rows"] >= count
    assert path.stat().st_size < 5_000_000


def test_at_most_so_many_points_are_sent_and_read(tmp_path):
    embeddings = EmbeddingSet.from_index(
        torch.randn(50, 4), torch.randn(50, 4), torch.arange(50), captions=tuple(f"{row} {EVIL}" for row in range(50))
    )
    html = write(
        tmp_path / "report.html", embeddings, ["none", EVIL], lambda row: np.zeros((8, 8, 3), np.uint8), max_points=20
    )
    points = block(html, "data-points")
    assert len(points["images"]) == len(points["texts"]) == 20
    assert all(text.endswith(EVIL) for text in points["texts"])
    assert [state["name"] for state in points["states"]] == ["none", EVIL]
    assert set(block(html, "data-switched")["cosines"]) == {"none", EVIL}
    assert "<script>alert" not in html
    assert html.count("&lt;/script&gt;&lt;script&gt;alert(1)") > 4  # names of rows and captions of the examples


def test_without_images_there_are_no_thumbnails(tmp_path):
    embeddings = EmbeddingSet.from_index(torch.randn(6, 4), torch.randn(6, 4), torch.arange(6))
    html = write(tmp_path / "report.html", embeddings, ["none"], None)
    assert block(html, "data-points")["sprite"] is None
    assert "image/webp" not in html


def test_the_same_run_gives_the_same_page(tmp_path):
    embeddings = EmbeddingSet.from_index(torch.randn(6, 4), torch.randn(6, 4), torch.arange(6))
    pages = [write(tmp_path / f"{name}.html", embeddings, ["none"], None) for name in "ab"]
    assert pages[0] == pages[1]


def test_a_sprite_holds_each_image_on_its_tile():
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (240, 240, 0), (0, 240, 240)]
    images = [np.full((60, 30, 3), color, np.uint8) for color in colors]  # tall: 16 of 32 pixels wide
    sprite = make_sprite(images, [4, 0, 1, 2, 3])
    assert (sprite.columns, sprite.rows, sprite.tile, sprite.pixelated) == (3, 2, 32, False)
    sheet = np.asarray(Image.open(io.BytesIO(sprite.webp)).convert("RGBA")).astype(int)
    assert sheet.shape == (64, 96, 4)
    for place, row in enumerate([4, 0, 1, 2, 3]):
        top, left = place // 3 * 32, place % 3 * 32
        middle = sheet[top + 12 : top + 20, left + 12 : left + 20, :3].mean((0, 1))
        assert np.abs(middle - colors[row]).max() < 30
        assert sheet[top + 16, left + 2, 3] == 0  # beside the image
    assert sheet[50, 80, 3] == 0  # the sixth tile


def test_a_sprite_of_small_images_is_told_apart_and_fits_its_bytes():
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (28, 28, 3), np.uint8) for _ in range(40)]
    large, small = make_sprite(images, range(40)), make_sprite(images, range(40), max_bytes=20_000)
    assert large.pixelated
    assert len(small.webp) <= 20_000 < len(large.webp)


def test_pictures_lose_nothing_that_is_seen():
    random = np.random.default_rng(0)
    drawn = np.full((90, 120, 3), 255, np.uint8)
    for _ in range(12):
        top, left = random.integers(0, 80), random.integers(0, 100)
        drawn[top : top + 9, left : left + 12] = random.integers(0, 256, 3)
    data = io.BytesIO()
    Image.fromarray(drawn).save(data, format="PNG")
    uri = picture_uri(data.getvalue())
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")).astype(int)
    assert np.abs(found - drawn).max() <= 16


def test_histograms_are_densities_over_the_same_bins():
    generator = torch.Generator().manual_seed(0)
    samples = {
        name: CosineSample(*(torch.rand(300, generator=generator) * 0.5 + shift for _ in range(4)))
        for name, shift in (("none", 0.0), ("posthoc", 0.3))
    }
    figure = cosine_figure(samples, paired=True)
    for name, sample in samples.items():
        bins = figure.states[name]["bins"]
        assert bins["left"] == figure.states["none"]["bins"]["left"]
        for kind in ("matched", "unmatched", "image_image", "text_text"):
            values = getattr(sample, kind).tolist()
            for left, right, density in zip(bins["left"], bins["right"], bins[kind], strict=True):
                inside = sum(left <= value < right for value in values)
                assert density * (right - left) * 300 == pytest.approx(inside, abs=1.2)  # edges are rounded


def test_bars_and_peaks_of_the_dimensions():
    before = torch.full((40, 64), 0.01)
    before[:, 9], before[:, 60] = 0.8, 0.5
    texts = before.clone()
    texts[:, 9] = 0.01
    profiles = [
        activation_profile(F.normalize(images, dim=1), F.normalize(other, dim=1))
        for images, other in ((before, texts), (texts, texts))
    ]
    figure = activation_figure(
        "bars", {"raw": ActivationChange(*profiles[:1] * 2), "done": ActivationChange(*profiles)}
    )
    raw, done = figure.states["raw"], figure.states["done"]
    assert raw["image_bars"]["dimension"] == list(range(1, 65))
    assert raw["image_bars"]["mean"][9] == pytest.approx(0.8 / np.sqrt(0.8**2 + 0.5**2 + 62e-4), abs=1e-3)
    assert raw["text_bars"]["mean"][9] == raw["image_bars"]["text"][9]
    assert raw["peaks"]["x"] == [10, 61, 61]
    assert raw["peaks"]["label"][0] == "10: +0.85"
    assert raw["peaks"]["align"] == ["left", "right", "right"]
    assert raw["peaks_before"]["x"] == []
    assert 10 in done["peaks_before"]["x"]
    assert 10 not in done["peaks"]["x"]


def test_numbers_are_short_and_gaps_stay_gaps():
    assert rounded([0.123456, None, float("nan"), float("inf"), 12345.678, 0.0]) == [
        0.1235,
        None,
        None,
        None,
        12350.0,
        0.0,
    ]


def test_long_curves_are_thinned_and_keep_their_running_mean():
    steps = list(range(10_000))
    noisy = [float(step % 2) for step in steps]
    figure = training_figure("training-1", "Loss", {"train/loss": list(zip(steps, noisy, strict=True))}).figure
    columns = [renderer.data_source.data for renderer in figure.renderers]
    assert [len(column["x"]) for column in columns] == [2000, 2000]
    assert set(columns[0]["value"]) == {0.0, 1.0} or len(set(columns[0]["value"])) == 1
    assert columns[1]["value"][1000] == pytest.approx(0.5, abs=0.01)
    assert [item.label.value for item in figure.legend[0].items] == ["train/loss (mean of 401)"]


def test_a_row_named_like_the_encoders_output_does_not_hide_it(tmp_path):
    embeddings = EmbeddingSet.from_index(torch.randn(9, 4), torch.randn(9, 4), torch.arange(9))
    moved = dataclasses.replace(embeddings, image_features=-embeddings.image_features)
    row = dataclasses.replace(make_row(moved, "encoder output"))
    path = tmp_path / "report.html"
    write_report(
        path,
        title="run",
        rows=[row],
        embeddings=embeddings,
        images=None,
        history={},
        config_yaml="",
        notes=[],
        environment={},
    )
    names = [state["name"] for state in block(path.read_text(), "data-points")["states"]]
    assert len(set(names)) == 2
    assert "encoder output" in names
