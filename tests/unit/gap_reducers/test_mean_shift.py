import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from i0t.data.embedding_formats import read_embeddings
from i0t.gap_reducers import GapReducer, NotFittedError, load
from i0t.gap_reducers.mean_shift import MeanShift


def normalise(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def oracle(image, text, fit_image, fit_text, direction, strength):
    """Row by row, in float64."""
    image_mean = sum(row / np.sqrt((row**2).sum()) for row in fit_image) / len(fit_image)
    text_mean = sum(row / np.sqrt((row**2).sum()) for row in fit_text) / len(fit_text)
    delta = image_mean - text_mean
    if direction == "unit":
        delta = delta / np.sqrt((delta**2).sum())
    return normalise(normalise(image) - strength * delta), normalise(normalise(text) + strength * delta)


def numpy_rows(*embeddings):
    return [f.double().numpy() for e in embeddings for f in (e.image_features, e.text_features)]


def fitted(embeddings, **arguments):
    reducer = MeanShift(embeddings.image_features.shape[1], **{"fit_split": "test", **arguments})
    reducer.fit(embeddings)
    return reducer


def centroid_distance(image, text):
    return float(np.linalg.norm(np.asarray(image, float).mean(0) - np.asarray(text, float).mean(0)))


@pytest.mark.parametrize("direction", ["unit", "difference"])
@pytest.mark.parametrize("strength", [-0.5, 0.0, 0.375, 0.5, 1.3])
@pytest.mark.parametrize("captions", [1, 5])
def test_equals_numpy(make, direction, strength, captions):
    calibration, other = make(40, 6, captions=captions), make(7, 6, captions=captions, seed=1)
    reducer = fitted(calibration, direction=direction, strength=strength)
    expected = oracle(*numpy_rows(other, calibration), direction, strength)
    for ours, theirs in zip(reducer(other.image_features, other.text_features), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert (int(reducer.num_fit_images), int(reducer.num_fit_texts)) == (40, 40 * captions)


def test_by_hand():
    """Images of mean (.6, 0), texts of mean (0, .8): the gap is (.6, -.8), of length 1, and half of it (.3, -.4)."""
    image = torch.tensor([[0.6, 0.8], [0.6, -0.8]])
    text = torch.tensor([[0.6, 0.8], [-0.6, 0.8]])
    for direction in ("unit", "difference"):
        reducer = MeanShift(2, fit_split="test", direction=direction, strength=0.5)
        reducer.fit_image(image * 7)
        reducer.fit_text(text * 3)
        torch.testing.assert_close(reducer.shift(), torch.tensor([0.3, -0.4]))
        moved_image, moved_text = torch.tensor([[0.3, 1.2], [0.3, -0.4]]), torch.tensor([[0.9, 0.4], [-0.3, 0.4]])
        torch.testing.assert_close(reducer.reduce_image(image), moved_image / moved_image.norm(dim=1, keepdim=True))
        torch.testing.assert_close(reducer.reduce_text(text), moved_text / moved_text.norm(dim=1, keepdim=True))
    wide = MeanShift(2, fit_split="test", direction="unit", strength=0.25)
    wide.fit_image(torch.tensor([[1.0, 0.0]]))
    wide.fit_text(torch.tensor([[-1.0, 0.0]]))  # a gap of length 2
    torch.testing.assert_close(wide.shift(), torch.tensor([0.25, 0.0]))
    wide.direction = "difference"
    torch.testing.assert_close(wide.shift(), torch.tensor([0.5, 0.0]))


def two_cones(num_rows, *, gap, norm, dim=512):
    """Unit rows around means of the given norm, exactly the given gap apart; every row with its mirror image."""
    rng = np.random.default_rng(0)
    cosine = 1 - gap**2 / (2 * norm**2)
    axes = np.zeros((2, dim))
    axes[0, 0] = 1
    axes[1, :2] = cosine, np.sqrt(1 - cosine**2)
    cones = []
    for axis in axes:
        noise = rng.normal(size=(num_rows // 2, dim))
        noise = normalise(noise - np.outer(noise @ axis, axis)) * np.sqrt(1 - norm**2)
        cones.append(torch.from_numpy(np.concatenate([norm * axis + noise, norm * axis - noise])))
    return cones


@pytest.mark.parametrize(
    ("direction", "strength", "distance"),
    [("unit", 0.375, 0.016), ("unit", 0.5, 0.252), ("unit", -0.5, 1.381), ("difference", 0.5, 0.001)],
)
def test_the_strengths_that_the_i0t_paper_prints_are_of_the_unit_form(direction, strength, distance):
    """Cones with the gap of its Flickr30k, .7642: .375, .5, -.5 give CD .016, .252, 1.381 (it has .029 .249 1.380)."""
    image, text = two_cones(4000, gap=0.7642, norm=0.72)
    assert centroid_distance(image, text) == pytest.approx(0.7642, abs=1e-6)
    reducer = MeanShift(512, fit_split="test", direction=direction, strength=strength)
    reducer.fit_image(image)
    reducer.fit_text(text)
    assert centroid_distance(*reducer(image, text)) == pytest.approx(distance, abs=6e-4)


@given(strength=st.floats(-2, 2), seed=st.integers(0, 2**31))
def test_unit_is_difference_at_the_strength_divided_by_the_gap(make, strength, seed):
    embeddings = make(10, 6, seed=seed)
    unit = fitted(embeddings, direction="unit", strength=strength)
    gap = (unit.image_mean - unit.text_mean).norm().item()
    difference = fitted(embeddings, direction="difference", strength=strength / gap)
    torch.testing.assert_close(unit.shift(), difference.shift(), rtol=1e-4, atol=1e-6)


def test_one_modality_alone_reduces_nothing(make, tmp_path):
    embeddings = make(12, 6, captions=2)
    reducer = MeanShift(6, fit_split="train")
    reducer.fit_image(embeddings.image_features)
    assert reducer.fitted_modalities == ()
    message = r"MeanShift is fitted on images alone: call fit_text\(\) as well"
    for reduce in (reducer.reduce_image, reducer.reduce_text):
        with pytest.raises(NotFittedError, match=message):
            reduce(embeddings.image_features)
    with pytest.raises(NotFittedError, match=f"there is nothing to save: {message}"):
        reducer.save(tmp_path / "r.safetensors")
    reducer.fit_text(embeddings.text_features)
    together = fitted(embeddings, fit_split="train")
    assert torch.equal(reducer.shift(), together.shift())
    texts = MeanShift(6, fit_split="train")
    texts.fit_text(embeddings.text_features)
    with pytest.raises(NotFittedError, match=r"on texts alone: call fit_image\(\)"):
        texts.reduce_text(embeddings.text_features)


def test_no_gap_has_no_direction(make):
    embeddings = make(12, 6)
    embeddings.text_features = embeddings.image_features
    with pytest.raises(ValueError, match="means of images and texts coincide: there is no direction"):
        fitted(embeddings).reduce_image(embeddings.image_features)
    unmoved = fitted(embeddings, direction="difference").reduce_image(embeddings.image_features)
    torch.testing.assert_close(unmoved, torch.nn.functional.normalize(embeddings.image_features))


def test_in_train_mode_it_only_normalises_and_nothing_is_trained(make):
    embeddings = make(12, 6)
    reducer = fitted(embeddings).train()
    expected = torch.nn.functional.normalize(embeddings.text_features)
    torch.testing.assert_close(reducer.reduce_text(embeddings.text_features), expected)
    assert list(reducer.parameters()) == []


@pytest.mark.parametrize(
    "bad", [{"direction": "Unit"}, {"strength": float("nan")}, {"strength": float("inf")}, {"fit_split": None}]
)
def test_bad_arguments_are_errors_that_name_them(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        MeanShift(4, **{"fit_split": "test", **bad})


@pytest.mark.data
@pytest.mark.parametrize(
    ("direction", "strength", "distance"),
    [
        ("unit", 0.375, 0.10821),
        ("unit", 0.5, 0.16969),
        ("unit", -0.5, 1.42443),
        ("difference", 0.25, 0.45508),
        ("difference", 0.5, 0.02238),
    ],
)
def test_real_clip_features(shared_data, tmp_path, direction, strength, distance):
    """OpenAI ViT-B/32 on 100 photos, gap .8430: .375 and .5 lie on either side of where the means meet, .4215."""
    embeddings = read_embeddings(shared_data / "clip_vitb32_flickr8k" / "embeddings.npz").embeddings
    rows = numpy_rows(embeddings)
    expected = oracle(*rows, *rows, direction, strength)
    assert centroid_distance(*expected) == pytest.approx(distance, abs=1e-5)
    reducer = fitted(embeddings, direction=direction, strength=strength)
    saved = load(reducer.save(tmp_path / "r.safetensors"))
    with torch.no_grad():
        ours = GapReducer.load(tmp_path / "r.safetensors")(embeddings.image_features, embeddings.text_features)
    for reduced in (ours, (saved.image(rows[0]), saved.text(rows[1]))):
        for found, wanted in zip(reduced, expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert centroid_distance(*reduced) == pytest.approx(distance, abs=1e-5)
