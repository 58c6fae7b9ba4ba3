"""The run's page in a real browser: what points, switches and turns, and that nothing else happens."""

import base64
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from i0t.analysis.activation_change import ActivationChange
from i0t.analysis.activations import activation_profile
from i0t.analysis.dimensions_ablation import ablate
from i0t.analysis.dimensions_curves import DroppedDimensions
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import RowResult
from i0t.report.figure_groups import embedding_states
from i0t.report.interactive_points import choose_points, points_data
from i0t.report.page import write_report

pytestmark = pytest.mark.slow
EVIL = '</script><script>document.title = "evil"</script><b>bold</b> <img src="https://evil.example/a.png"> & \'"'
PAIRS, DIM = 40, 8


def color_of(row):
    return (5 * row, 255 - 5 * row, 120)


def image_of(row):
    return np.full((32, 32, 3), color_of(row), np.uint8)


def make_embeddings():
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(PAIRS, DIM, generator=generator)
    offset = torch.zeros(DIM)
    offset[2] = 3
    return EmbeddingSet.from_index(
        common + 0.3 * torch.randn(PAIRS, DIM, generator=generator) + offset,
        common + 0.3 * torch.randn(PAIRS, DIM, generator=generator) - offset,
        torch.arange(PAIRS),
        captions=tuple(f"caption {row} {EVIL}" for row in range(PAIRS)),
    )


def make_row(embeddings, name, *, centred, with_curve):
    image, text = F.normalize(embeddings.image_features, dim=1), F.normalize(embeddings.text_features, dim=1)
    before = activation_profile(image, text)
    if centred:
        image, text = F.normalize(image - image.mean(0), dim=1), F.normalize(text - text.mean(0), dim=1)
    details = {"mean_activations": ActivationChange(before, activation_profile(image, text))}
    if with_curve:
        unit = dataclasses.replace(embeddings, image_features=image, text_features=text)
        order = (image.mean(0) - text.mean(0)).abs().argsort(descending=True)
        curves = [ablate(unit, one, (0, 1, 2, 4, 7), None) for one in (order, order.flip(0))]
        details["dimensions_gap"] = DroppedDimensions(
            title="The gap without dimensions",
            ylabel="gap",
            num_fine=4,
            leading=curves[0],
            curves={name: (*values[:-1], None) for name, values in curves[0].gap.items()},  # as where rows are lost
            random=[curves[1].gap],
        )
    return RowResult(
        name=name,
        reducer="i0t.X",
        fit_split=None,
        fit_samples=0,
        protocol="none",
        metrics={"gap/centroid_distance": 0.5, "retrieval/i2t_r1": 0.7},
        intervals={},
        image_features=image,
        text_features=text,
        details=details,
    )


@pytest.fixture(scope="module")
def embeddings():
    return make_embeddings()


@pytest.fixture(scope="module")
def rows(embeddings):
    return [
        make_row(embeddings, "none", centred=False, with_curve=True),
        make_row(embeddings, "post<hoc>", centred=True, with_curve=False),
    ]


@pytest.fixture(scope="module")
def report(tmp_path_factory, embeddings, rows):
    path = tmp_path_factory.mktemp("run") / "report.html"
    write_report(
        path,
        title="A run",
        rows=rows,
        embeddings=embeddings,
        images=image_of,
        history={"train/loss": [(step, 1 / step) for step in range(1, 300)], "val/rmg": [(1, 0.4), (2, 0.3)]},
        config_yaml="name: run",
        notes=[],
        environment={},
    )
    return path


@pytest.fixture(scope="module")
def expected(embeddings, rows):
    """The data of both states, as they are before they are packed."""
    return points_data(embeddings, embedding_states(embeddings, rows), choose_points(embeddings, 1000))


def unpacked(text, width):
    return np.frombuffer(base64.b64decode(text), "<i2").reshape(-1, width) / 32767


@pytest.fixture
def opened(open_page, report):
    def opened(**options):
        page = open_page(report, **options)
        page.wait_for_selector("html[data-state]")
        return page

    return opened


def column(page, figure, source, name):
    return page.evaluate(
        "([figure, source, name]) => Array.from(i0t.model(figure, source).data[name])", [figure, source, name]
    )


def where(page, figure, source, index):
    """The place of a point in the window, once its figure has been scrolled there and drawn."""
    page.locator(f"#figure-{figure}").scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    return page.evaluate(
        """([figure, source, index]) => {
            const plot = i0t.model(figure, "plot");
            const data = i0t.model(figure, source).data;
            const view = Bokeh.index.find_one(plot);
            const box = document.getElementById(`figure-${figure}`).getBoundingClientRect();
            return [box.left + view.frame.x_scale.compute(data.x[index]),
                    box.top + view.frame.y_scale.compute(data.y[index])];
        }""",
        [figure, source, index],
    )


def test_every_figure_is_drawn_and_the_pictures_are_folded_away(opened):
    page = opened()
    places = page.locator(".bokeh-figure")
    assert places.count() == 7  # plane, sphere, cosines, activations, ablation, two of the training
    for place in places.all():
        assert place.locator("canvas").first.bounding_box()["width"] > 200
    assert page.locator("details.pictures").count() == 5
    assert page.locator("details.pictures[open]").count() == 0
    assert page.title() == "A run"


def loneliest_image(page, figure):
    """An image in front that is farthest from every other point, so that only it can be meant."""
    points = np.concatenate(
        [np.stack([column(page, figure, name, axis) for axis in "xy"], axis=1) for name in ("images", "texts")]
    )
    gaps = np.linalg.norm(points[:PAIRS, None] - points[None], axis=2)
    nearest = np.sort(gaps, axis=1)[:, 1]
    nearest[np.array(column(page, figure, "images", "alpha")) < 0.5] = 0
    return int(nearest.argmax())


@pytest.mark.parametrize("figure", ["plane", "sphere"])
def test_pointing_shows_photo_and_caption_as_text(opened, expected, figure):
    page = opened()
    shown = page.locator("#tip")
    assert not shown.is_visible()
    index = loneliest_image(page, figure)
    page.mouse.move(*where(page, figure, "images", index))
    shown.wait_for(state="visible")
    assert page.locator("#tip-text").text_content() == expected["texts"][index]
    assert EVIL in page.locator("#tip-text").text_content()
    assert page.locator("#tip-text").evaluate("node => node.childElementCount") == 0
    assert page.locator("#tip-kind").text_content() == f"image: image {index}"
    cosine = unpacked(expected["states"][0]["cosines"], 1)[index, 0]
    assert page.locator("#tip-cosine").text_content() == f"cosine of the two: {cosine:.3f}".replace("-", "\u2212")
    page.wait_for_timeout(200)  # a picture is decoded aside
    box = page.locator("#tip-photo").bounding_box()
    shot = page.screenshot(clip={"x": box["x"] + 40, "y": box["y"] + 40, "width": 8, "height": 8})
    assert np.abs(pixels(shot).mean((0, 1)) - color_of(index)).max() < 16
    assert column(page, figure, "picked", "x")[0] == pytest.approx(column(page, figure, "images", "x")[index])
    page.mouse.move(5, 5)
    shown.wait_for(state="hidden")
    assert column(page, figure, "picked", "x") == []
    assert page.title() == "A run"


def pixels(png):
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(float)


def test_switching_the_reducer_switches_every_figure(opened, expected):
    page = opened()
    for number, name in enumerate(("none", "post<hoc>")):
        choice = page.locator(".choice label").nth(number)
        assert choice.text_content() == name
        choice.click()
        page.wait_for_selector(f'html[data-state="{number}"]')
        state = expected["states"][number]
        for modality, packed in zip(("images", "texts"), state["plane"], strict=True):
            plane = unpacked(packed, 2) * expected["limit"]
            np.testing.assert_allclose(column(page, "plane", modality, "x"), plane[:, 0], atol=1e-9)
            np.testing.assert_allclose(column(page, "plane", modality, "y"), plane[:, 1], atol=1e-9)
        label = page.evaluate('i0t.model("plane", "x_axis").axis_label')
        assert label == f"component 1 ({state['explained'][0]} of the variance)"
        assert page.locator("#held").text_content() == state["held"]
    means = column(page, "detail-1", "image_bars", "mean")
    assert np.abs(means).max() < 0.05  # centred
    densities = np.array(column(page, "cosines", "bins", "matched"))
    widths = np.array(column(page, "cosines", "bins", "right")) - column(page, "cosines", "bins", "left")
    assert (densities * widths).sum() == pytest.approx(1, abs=1e-2)
    page.locator(".choice label").first.click()
    page.wait_for_selector('html[data-state="0"]')
    assert np.abs(column(page, "detail-1", "image_bars", "mean")).max() > 0.3
    assert (np.array(column(page, "cosines", "bins", "matched")) != densities).any()


def test_a_row_without_a_measured_curve_says_so(opened, rows):
    page = opened()
    curve = rows[0].details["dimensions_gap"].curves["centroid_distance"]
    assert column(page, "detail-2", "leading-0", "value")[:-1] == pytest.approx(curve[:-1], rel=1e-3)
    assert np.isnan(column(page, "detail-2", "leading-0", "value")[-1])  # not zero
    assert column(page, "detail-2", "leading-0", "dropped") == [0, 1, 2, 4, 7]
    assert not page.locator("#missing-detail-2").is_visible()
    page.locator(".choice label").nth(1).click()
    assert page.locator("#missing-detail-2").text_content() == "Not measured for post<hoc>."
    assert column(page, "detail-2", "leading-0", "value") == []


def turned(points, turn, tilt):
    """The same rotation, as matrices."""
    a, b = np.radians(turn), np.radians(tilt)
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return points @ (about_x @ about_y).T


def check_sphere(page, expected):
    turn, tilt = (float(page.locator(f"#{name}").input_value()) for name in ("turn", "tilt"))
    for modality, packed in zip(("images", "texts"), expected["states"][0]["sphere"], strict=True):
        points = turned(unpacked(packed, 3), turn, tilt)
        found = np.stack([column(page, "sphere", modality, axis) for axis in "xy"], axis=1)
        np.testing.assert_allclose(found, points[:, :2], atol=0.02)  # sliders show whole degrees
        clear = np.abs(points[:, 2]) > 0.03
        near = np.array(column(page, "sphere", modality, "alpha")) > 0.5
        np.testing.assert_array_equal(near[clear], points[clear, 2] > 0)


def test_the_sphere_turns_by_dragging_and_by_its_sliders(opened, expected):
    page = opened()
    check_sphere(page, expected)
    before = column(page, "sphere", "images", "x")
    box = page.locator("#figure-sphere").bounding_box()
    page.locator("#figure-sphere").scroll_into_view_if_needed()
    box = page.locator("#figure-sphere").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + box["width"] / 4, middle[1] - 30, steps=4)
    page.mouse.up()
    page.mouse.move(middle[0], middle[1], steps=3)  # let go: this must not turn it
    page.wait_for_timeout(300)
    assert float(page.locator("#turn").input_value()) == pytest.approx(25 + 45, abs=1)
    assert float(page.locator("#tilt").input_value()) < 15
    check_sphere(page, expected)
    assert np.abs(np.array(column(page, "sphere", "images", "x")) - before).max() > 0.1
    page.locator("#tilt").fill("90")
    page.wait_for_timeout(300)
    check_sphere(page, expected)


def test_lines_between_pairs_come_and_go(opened):
    page = opened()
    assert len(column(page, "plane", "joins", "x0")) == PAIRS  # few pairs: on from the start
    page.locator("#join-pairs").uncheck()
    assert column(page, "plane", "joins", "x0") == []
    page.locator("#join-pairs").check()
    assert column(page, "plane", "joins", "x1") == column(page, "plane", "texts", "x")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_no_width_scrolls_sideways(opened, width, dark):
    page = opened(width=width, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for place in page.locator(".bokeh-figure").all():
        box = place.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    page.evaluate('document.querySelectorAll("details").forEach((part) => { part.open = true; })')
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_figures_follow_the_readers_scheme(opened):
    page = opened()
    ink = 'i0t.model("plane", "x_axis").axis_label_text_color'
    glyph = 'i0t.model("plane", "plot").renderers.find((r) => r.data_source.name === "images").glyph.fill_color.value'
    light = (page.evaluate(ink), page.evaluate(glyph).lower())
    assert light == ("#1f2328", "#0072b2")
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector('html[data-scheme="dark"]')
    assert (page.evaluate(ink), page.evaluate(glyph)) == ("#e6e9ee", "#5cb8ee")
    page.emulate_media(color_scheme="light")
    page.wait_for_selector('html[data-scheme="light"]')
    assert (page.evaluate(ink), page.evaluate(glyph).lower()) == light


def test_a_tap_on_a_phone_shows_the_point(opened, expected):
    page = opened(width=390, height=844)
    x, y = where(page, "plane", "texts", 3)
    page.touchscreen.tap(x, y)
    page.locator("#tip").wait_for(state="visible")
    assert page.locator("#tip-text").text_content() in expected["texts"]
    box = page.locator("#tip").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


def test_without_scripts_the_page_is_tables_and_pictures(open_page, report):
    page = open_page(report, javascript=False)
    assert page.locator("details.pictures[open]").count() == 5
    for picture in page.locator("details.pictures img").all():
        assert picture.bounding_box()["height"] > 100
    assert page.get_by_text("Scripts do not run here").is_visible()
    assert page.get_by_text("0.5000").first.is_visible()
    assert not page.locator(".choice").is_visible()
    assert not page.locator("#tip").is_visible()


def test_the_fixture_notices_errors_and_requests(open_page, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(
        '<!doctype html><img src="https://evil.example/a.png"><script>console.error("oh"); throw Error("no")</script>'
    )
    open_page(path).wait_for_load_state()
    found = "\n".join(open_page.complaints)
    assert "request that leaves the page: https://evil.example/a.png" in found
    assert "console: oh" in found
    assert "page error: no" in found
    open_page.complaints.clear()
