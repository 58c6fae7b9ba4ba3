"""The fast renderer against scikit-image's own functions and against the one-image-at-a-time reference."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage import morphology as sk_morphology
from skimage import transform

from i0t.data.mad_generator import VARIANTS, Draws, MorphologyParameters, draw, load_source, render_variants
from i0t.data.mad_generator.morphology import fracture, swell, thicken, thin
from i0t.data.mad_generator.pyramid import expand, reduce_stack, shrink_into_frame
from i0t.data.mad_generator.skeleton import medial_axis

PARAMETERS = MorphologyParameters()
FIXED = Draws(np.full(24, 0.5), np.tile([0.1, 0.5, 0.9], (24, 1)), np.zeros((24, 2), dtype=int), 7)


def _load_reference():
    path = Path(__file__).parents[4] / "benchmarks" / "mad_reference.py"
    spec = importlib.util.spec_from_file_location("mad_reference", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["mad_reference"] = module
    spec.loader.exec_module(module)
    return module


reference = _load_reference()


class CachedImage(reference.WorkingImage):
    """The reference's image with scikit-image's medial axis found once per distinct image, to save the suite's time."""

    known: dict = {}  # noqa: RUF012

    def axis(self):
        key = (self.ink.tobytes(), self.tie_break)
        if key not in self.known:
            self.known[key] = super().axis()
        return self.known[key]


@pytest.fixture(autouse=True)
def _cached_axes(monkeypatch):
    monkeypatch.setattr(reference, "WorkingImage", CachedImage)
    CachedImage.known = {}


def assert_all_variants_equal(digit, draws, parameters=PARAMETERS):
    ours = render_variants(digit, draws, parameters)
    theirs = reference.render_variants(digit, draws, parameters)
    differ = [VARIANTS[row] for row in np.flatnonzero((ours != theirs).any(axis=(1, 2)))]
    assert not differ
    assert ours.shape == (24, 28, 28)
    assert ours.dtype == np.uint8


def canvas(*boxes, value=255):
    digit = np.zeros((28, 28), dtype=np.uint8)
    for box in boxes:
        digit[box] = value
    return digit


# Digits whose morphology is at its limits: no ink, all ink, a dot, a hair line, strokes along and across the frame.
DEGENERATE = {
    "blank": canvas(),
    "one pixel": canvas(np.s_[14, 14]),
    "one faint pixel": canvas(np.s_[14, 14], value=1),
    "corner pixel": canvas(np.s_[0, 0]),
    "dot": canvas(np.s_[13:16, 13:16]),
    "hair line": canvas(np.s_[5:23, 14]),
    "left edge": canvas(np.s_[:, 0:3]),
    "bottom edge": canvas(np.s_[25:28, :]),
    "cross to all edges": canvas(np.s_[:, 12:16], np.s_[12:16, :]),
    "frame without its middle": canvas(np.s_[:4, :], np.s_[24:, :], np.s_[:, :4], np.s_[:, 24:]),
    "two blobs": canvas(np.s_[2:8, 2:8], np.s_[18:27, 15:28]),
}


@pytest.mark.parametrize("digit", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_degenerate_digits_equal_the_reference(digit):
    assert_all_variants_equal(digit, draw(3, 5, PARAMETERS))


@pytest.mark.parametrize("row", [3, 200, 777])
def test_handwritten_digits_equal_the_reference(row):
    source = load_source("digits", "train")
    assert_all_variants_equal(source.images[row], draw(0, int(source.indices[row]), PARAMETERS))


@pytest.mark.parametrize("hole", [(0, 0), (14, 8)])
def test_images_of_almost_all_ink_are_rendered(hole):
    # The reference would dilate by a disk as large as the frame, for minutes.
    full = canvas(np.s_[:, :])
    variants = render_variants(full, FIXED)
    assert (variants[[0, 2, 8, 16]] >= 254).sum() > 3 * 784
    holed = full.copy()
    holed[hole] = 0
    assert np.array_equal(render_variants(holed, FIXED), render_variants(holed, FIXED))
    assert (render_variants(holed, FIXED).max(axis=(1, 2)) > 0).all()


def test_other_parameters_equal_the_reference():
    source = load_source("digits", "val")
    parameters = MorphologyParameters(
        amount=0.4, strength=2.5, radius=5.0, num_fractures=2, thickness=1.0, prune=1.0, scale=6, small=0.6
    )
    assert_all_variants_equal(source.images[5], draw(1, 5, parameters), parameters)


@pytest.mark.slow
def test_many_digits_equal_the_reference():
    source = load_source("digits", "train")
    # Shifted to the frame's border every other time, so that brushes and swellings leave the frame.
    for row in range(0, 1250, 25):
        shift = (row // 25 % 5 - 2) * (row % 2)
        digit = np.roll(source.images[row], (3 * shift, 2 * shift), axis=(0, 1))
        assert_all_variants_equal(digit, draw(row, int(source.indices[row]), PARAMETERS))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    ink=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=3, max_side=24)).filter(np.any),
    tie_break=st.integers(0, 2**32 - 1),
)
def test_medial_axis_is_scikit_images(ink, tie_break):
    axis = medial_axis(ink, tie_break, PARAMETERS)
    skeleton, distance = sk_morphology.medial_axis(ink, return_distance=True, rng=tie_break)
    assert np.array_equal(np.stack([axis.rows, axis.columns], axis=1), np.argwhere(skeleton))
    assert np.array_equal(axis.distance, distance[skeleton])
    assert np.array_equal(axis.box_distance, distance[axis.box])


@pytest.mark.parametrize("pixel", [(0, 0), (0, 111), (111, 50), (111, 111)])
def test_medial_axis_of_one_pixel_at_the_border(pixel):
    ink = np.zeros((112, 112), dtype=bool)
    ink[pixel] = True
    axis = medial_axis(ink, 0, PARAMETERS)
    assert (axis.rows.tolist(), axis.columns.tolist(), axis.distance.tolist()) == ([pixel[0]], [pixel[1]], [1.0])


def test_the_tie_break_changes_the_skeleton():
    ink = expand(load_source("digits", "train").images[3], 4)
    axes = [medial_axis(ink, seed, PARAMETERS) for seed in (0, 0, 1)]
    pixels = [set(zip(axis.rows.tolist(), axis.columns.tolist(), strict=True)) for axis in axes]
    assert pixels[0] == pixels[1]
    assert pixels[0] != pixels[2]


@settings(max_examples=40, deadline=None)
@given(
    ink=hnp.arrays(bool, (30, 26), elements=st.booleans(), fill=st.just(False)).filter(np.any),
    amount=st.sampled_from([0.0, 0.3, 0.7, 0.99]),
    grow=st.integers(0, 5),
)
def test_thickness_changes_are_scikit_images_disks(ink, amount, grow):
    ink = sk_morphology.dilation(ink, sk_morphology.disk(grow))
    axis = medial_axis(ink, 0, MorphologyParameters(amount=amount))
    disk = sk_morphology.disk(int(amount * 4 * axis.mean_thickness / 2))
    assert np.array_equal(thicken(ink, axis), sk_morphology.dilation(ink, disk))
    thinned = thin(ink, axis)
    assert np.array_equal(thinned, sk_morphology.erosion(ink, disk))
    assert thinned.any()


def test_mean_thickness_of_a_bar():
    ink = np.zeros((112, 112), dtype=bool)
    ink[40:57, 10:100] = True
    axis = medial_axis(ink, 0, PARAMETERS)
    # 17 rows: the middle one has distance 9 to the background; towards the ends the skeleton forks to the corners.
    on_middle = (axis.rows == 48) & (axis.columns > 20) & (axis.columns < 90)
    assert (axis.distance[on_middle] == 9).all()
    assert on_middle.sum() == 69
    assert axis.mean_thickness == 2 * axis.distance.mean() / 4
    assert 3.5 < axis.mean_thickness < 4.5


@settings(max_examples=30, deadline=None)
@given(stack=hnp.arrays(bool, (3, 112, 112), elements=st.booleans(), fill=st.just(False)), grow=st.integers(0, 9))
def test_reduce_is_scikit_images_pyramid_reduce(stack, grow):
    stack = np.stack([sk_morphology.dilation(ink, sk_morphology.disk(grow + row)) for row, ink in enumerate(stack)])
    expected = [(255.0 * transform.pyramid_reduce(ink, downscale=4, order=3)).astype(np.uint8) for ink in stack]
    assert np.array_equal(reduce_stack(stack, 4), expected)


def test_reduce_of_all_ink_and_of_none():
    stack = np.stack([np.ones((112, 112), dtype=bool), np.zeros((112, 112), dtype=bool)])
    expected = (255.0 * transform.pyramid_reduce(stack[0], downscale=4, order=3)).astype(np.uint8)
    assert expected.min() >= 254
    assert np.array_equal(reduce_stack(stack, 4)[0], expected)
    assert not reduce_stack(stack, 4)[1].any()
    assert not reduce_stack(stack[1:], 4).any()


def test_small_images_are_scikit_images_rescale_at_the_drawn_place():
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    offsets = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    framed = shrink_into_frame(images, offsets, PARAMETERS)
    for image, frame, (row, column) in zip(images, framed, offsets + 3, strict=True):
        scaled = transform.rescale(image.astype(np.float32) / 255, 0.75, anti_aliasing=False)
        expected = np.zeros((28, 28), dtype=np.uint8)
        expected[row : row + 21, column : column + 21] = (scaled * 255).astype(np.uint8)
        assert np.array_equal(frame, expected)


def bar(rows=slice(48, 65), columns=slice(10, 102)):
    ink = np.zeros((112, 112), dtype=bool)
    ink[rows, columns] = True
    return ink


def test_fractures_cut_a_bar_across():
    ink = bar()
    cut = fracture(ink, medial_axis(ink, 0, PARAMETERS), np.array([0.5]))
    assert not (cut & ~ink).any()
    gaps = np.flatnonzero(~cut[56, 10:102]) + 10
    # One line one pixel wide, drawn by a disk of radius 3: seven pixels, over the whole height of the bar.
    assert gaps.tolist() == list(range(gaps[0], gaps[0] + 7))
    assert 40 < gaps[3] < 72
    assert not cut[48:65, gaps[3]].any()


def test_fractures_leave_the_ends_of_a_line_alone():
    ink = bar(rows=slice(55, 58))
    axis = medial_axis(ink, 0, PARAMETERS)
    sites = axis.columns[axis.fracture_sites]
    # Eight pixels around each tip are out of bounds.
    assert sites.min() >= axis.columns.min() + 8
    assert sites.max() <= axis.columns.max() - 8
    assert len(sites) > 70


def test_swelling_is_scikit_images_warp():
    ink = expand(load_source("digits", "train").images[8], 4)
    axis = medial_axis(ink, 0, PARAMETERS)
    for position in (0.0, 0.3, 0.6, 0.999):
        image = reference.WorkingImage(np.zeros((28, 28), dtype=np.uint8), PARAMETERS, 0)
        image.replace(ink)
        reference.swell(image, position)
        assert np.array_equal(swell(ink, axis, position), image.ink)


def test_swelling_thickens_around_its_centre_only():
    ink = bar()
    swollen = swell(ink, medial_axis(ink, 0, PARAMETERS), 0.5)
    grown = np.argwhere(swollen & ~ink)
    assert len(grown) > 50
    assert not (ink & ~swollen).any()
    # R = 7 sqrt(T) / 2 * 4 with T at most 4.5 pixels.
    assert np.ptp(grown[:, 1]) < 2 * 14 * np.sqrt(4.5)


def test_a_dot_that_its_fractures_erase_stays_empty():
    dot = np.zeros((112, 112), dtype=bool)
    dot[50:54, 50:54] = True
    axis = medial_axis(dot, 0, PARAMETERS)
    assert not fracture(dot, axis, np.array([0.0, 0.5, 0.99])).any()
    variants = render_variants(DEGENERATE["one pixel"], FIXED)
    fractured = np.array([v[1:3] == ("no swelling", "fracture") and v[0] != "thickening" for v in VARIANTS])
    plain = np.array([variant[:3] == VARIANTS[0][:3] for variant in VARIANTS])
    # MAD's script would show a white frame here.
    assert variants[fractured].max() == 0
    assert variants[plain].max() > 0


def test_images_depend_on_seed_and_source_index_only():
    digit = load_source("digits", "train").images[0]
    first, again = (render_variants(digit, draw(4, 9, PARAMETERS)) for _ in range(2))
    assert np.array_equal(first, again)
    plain = [row for row, variant in enumerate(VARIANTS) if variant[1:] == ("no swelling", "no fracture", "large")]
    for seed, index in ((5, 9), (4, 10)):
        other = render_variants(digit, draw(seed, index, PARAMETERS))
        changed = (first != other).any(axis=(1, 2))
        # Only the median of nothing is random in the first variant.
        assert not changed[0]
        assert changed.sum() > 12
    assert plain == [0, 8, 16]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("amount", 1.0),
        ("strength", 1.0),
        ("radius", 0.0),
        ("num_fractures", 0),
        ("thickness", 0.2),
        ("prune", -1.0),
        ("scale", 3),
        ("scale", 2),
        ("small", 0.0),
        ("small", 1.5),
    ],
)
def test_parameters_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        MorphologyParameters(**{name: value})


def test_a_digit_of_another_shape_or_type_is_rejected():
    with pytest.raises(ValueError, match=r"\(28, 28\) uint8, got \(27, 28\)"):
        render_variants(np.zeros((27, 28), dtype=np.uint8), FIXED)
    with pytest.raises(ValueError, match="float64"):
        render_variants(np.zeros((28, 28)), FIXED)
