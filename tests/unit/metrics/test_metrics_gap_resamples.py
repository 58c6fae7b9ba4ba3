"""Measures of the gap on resamples, against sets that are rebuilt copy by copy."""

import itertools

import numpy as np
import pytest
import torch

from i0t.metrics import functional as F


def rebuilt(counts, units):
    """Rows of a resample as (row, copy)."""
    return [(row, copy) for row, unit in enumerate(units) for copy in range(int(counts[unit]))]


def mean_cosine(first, second, x, y, allowed):
    values = [x[a[0]] @ y[b[0]] for a, b in itertools.product(first, second) if allowed(a, b)]
    return np.mean(values) if values else np.nan


def naive(x, y, pairs, images, texts, image_of_text):
    """All measures of a rebuilt set; entries are (row, copy)."""
    shares = {(k, m) for (i, k), (j, m) in itertools.product(pairs, pairs) if i == j} | {(k, k) for k in range(len(y))}

    def spread(entries, z, diagonal):
        return (1 - mean_cosine(entries, entries, z, z, lambda a, b: a[0] != b[0] or (diagonal and a == b))) / 2

    # A caption is drawn with its image's copy; a prompt is met by every copy of its images.
    matched = [
        (a[0], b[0])
        for a, b in itertools.product(images, texts)
        if (a[0], b[0]) in pairs and (image_of_text is None or a[1] == b[1])
    ]
    cosine = np.mean([x[i] @ y[k] for i, k in matched])
    distance = [np.linalg.norm(x[i] - y[k]) for i, k in matched]
    between = (1 - cosine) / 2
    within = {d: (spread(images, x, d) + spread(texts, y, d)) / 2 for d in (False, True)}
    unbiased = (
        mean_cosine(images, images, x, x, lambda a, b: a[0] != b[0])
        + mean_cosine(texts, texts, y, y, lambda a, b: (a[0], b[0]) not in shares)
        - 2 * mean_cosine(images, texts, x, y, lambda a, b: (a[0], b[0]) not in pairs)
    )
    return {
        "unbiased_centroid_distance": unbiased,
        "rmg": between / (between + within[False]),
        "rmg_with_diagonal": between / (between + within[True]),
        "instance_distance": np.mean(distance),
        "alignment": np.mean(np.square(distance)),
        "matched_cosine": cosine,
    }


def centroid(x, y, images, texts):
    return np.linalg.norm(np.mean([x[i] for i, _ in images], 0) - np.mean([y[k] for k, _ in texts], 0))


def check(image, text, pairs, groups, tolerance, num_resamples=6):
    pairing = F.make_pairing(image, text, pairs=pairs)
    of_text = pairing.image_of_text
    redraws = F.redraw_set(
        len(image), len(text), image_of_text=of_text, has_pairs=True, groups=groups, num_resamples=num_resamples
    )
    assert redraws.image_counts.max() > 1, "a test without rows drawn twice would show nothing"
    redraws = redraws.with_original()
    found = F.gap_measures(image, text, pairing, redraws)
    distances = F.centroid_distances(image, text, redraws)
    x, y, known = image.double().numpy(), text.double().numpy(), {tuple(p) for p in pairs.tolist()}
    for r in range(num_resamples + 1):
        images = rebuilt(redraws.image_counts[r], redraws.image_units)
        texts = rebuilt(redraws.text_counts[r], redraws.text_units)
        expected = naive(x, y, known, images, texts, None if of_text is None else of_text.tolist())
        assert {name: float(values[r]) for name, values in found.items()} == pytest.approx(
            expected, abs=tolerance, nan_ok=True
        )
        assert float(distances[r]) == pytest.approx(centroid(x, y, images, texts), abs=tolerance)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("captions", [1, 3])
@pytest.mark.parametrize("grouped", [False, True])
def test_captions_follow_their_images(paired_set, dtype, captions, grouped):
    image, text, index = paired_set(9, captions, dtype=dtype)
    groups = torch.tensor([7, 7, 7, 2, 2, 5, 5, 9, 1]) if grouped else None
    pairs = torch.stack([index, torch.arange(len(index))], 1)
    found = check(image, text, pairs, groups, 1e-10 if dtype == torch.float64 else 2e-6)
    # The first resample is the set itself: the plain functions say the same.
    plain = {
        "unbiased_centroid_distance": F.unbiased_centroid_distance(image, text, index),
        "rmg": F.relative_modality_gap(image, text, index),
        "rmg_with_diagonal": F.relative_modality_gap(image, text, index, include_diagonal=True),
        "instance_distance": F.instance_distance(image, text, index),
        "alignment": F.alignment(image, text, index),
    }
    for name, value in plain.items():
        assert float(found[name][0]) == pytest.approx(float(value), abs=1e-5)


def test_uneven_captions_and_images_without(paired_set):
    image, text, _ = paired_set(6, 2, dtype=torch.float64)
    index = torch.tensor([0, 0, 0, 0, 1, 2, 2, 4, 4, 4, 4, 1])
    check(image, text, torch.stack([index, torch.arange(12)], 1), None, 1e-10)


def test_prompts_shared_by_images_stay_as_they_are(paired_set):
    image, text, _ = paired_set(10, 1, dtype=torch.float64)
    classes = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2, 0])
    check(image, text[:4], torch.stack([torch.arange(10), classes], 1), None, 1e-10)


def test_texts_of_several_images_and_images_of_several_texts(paired_set):
    image, text, _ = paired_set(6, 1, dtype=torch.float64)
    pairs = torch.tensor([[0, 0], [0, 1], [1, 1], [2, 1], [2, 3], [4, 3], [5, 2], [5, 0]])
    found = check(image, text, pairs, None, 1e-10)
    assert float(found["unbiased_centroid_distance"][0]) == pytest.approx(
        float(F.unbiased_centroid_distance(image, text, pairs=pairs))
    )


def test_repeated_pairs_count_once(paired_set):
    image, text, index = paired_set(6, 2, dtype=torch.float64)
    pairs = torch.stack([index, torch.arange(12)], 1)
    torch.testing.assert_close(F.alignment(image, text, pairs=pairs.repeat(3, 1)), F.alignment(image, text, index))


def test_an_unpaired_set_draws_its_texts_on_their_own(paired_set):
    image, text, _ = paired_set(8, 2, dtype=torch.float64)
    redraws = F.redraw_set(8, 16, image_of_text=None, has_pairs=False, num_resamples=20)
    assert redraws.text_counts.shape == (20, 16)
    as_many = F.redraw_set(8, 8, image_of_text=None, has_pairs=False, num_resamples=20)
    assert not torch.equal(as_many.text_counts, as_many.image_counts)
    distances = F.centroid_distances(image, text, redraws)
    for r in range(20):
        images, texts = (
            rebuilt(redraws.image_counts[r], range(8)),
            rebuilt(redraws.text_counts[r], range(16)),
        )
        assert float(distances[r]) == pytest.approx(centroid(image.numpy(), text.numpy(), images, texts), abs=1e-10)


def test_without_two_independent_images_nothing_is_drawn():
    redraws = F.redraw_set(
        3, 3, image_of_text=torch.arange(3), has_pairs=True, groups=torch.zeros(3).long(), num_resamples=5
    )
    assert redraws.image_counts.shape == (0, 1)
    assert redraws.with_original().image_counts.tolist() == [[1]]


def test_replicates_of_a_distance_scatter_around_it(paired_set):
    image, text, index = paired_set(200, 1, 16, gap=0.02, noise=1.0)
    redraws = F.redraw_set(200, 200, image_of_text=index, has_pairs=True, num_resamples=500)
    raw = F.centroid_distances(image, text, redraws)
    value = float(F.centroid_distance(image, text))
    corrected = F.without_resampling_bias(raw, value)
    assert float((raw > value).double().mean()) > 0.9  # resampling adds its own noise to a distance
    assert float(corrected.square().mean()) == pytest.approx(value**2, rel=0.02)
    assert 0.3 < float((corrected > value).double().mean()) < 0.7


def test_object_bias_of_resamples(paired_set):
    rows, _, _ = paired_set(14, 1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    objects, attributes = (
        torch.randint(0, 3, (14,), generator=generator),
        torch.randint(0, 2, (14, 2), generator=generator),
    )
    units = torch.arange(14) // 2
    counts = F.resample_counts(7, num_resamples=8)
    found = F.resampled_object_bias(rows, objects, attributes, units, counts)
    x = rows.numpy()

    def contrast(entries, labels):
        same = [x[a[0]] @ x[b[0]] for a in entries for b in entries if a[0] != b[0] and labels[a[0]] == labels[b[0]]]
        different = [x[a[0]] @ x[b[0]] for a in entries for b in entries if labels[a[0]] != labels[b[0]]]
        return np.mean(same) - np.mean(different)

    for r in range(8):
        entries = rebuilt(counts[r], units)
        terms = [contrast(entries, attributes[:, a].tolist()) for a in range(2)]
        assert float(found[r]) == pytest.approx(contrast(entries, objects.tolist()) - np.mean(terms), abs=1e-10)
    whole = F.resampled_object_bias(rows, objects, attributes, units, torch.ones(1, 7))
    assert float(whole) == pytest.approx(float(F.object_bias(rows, objects, attributes)), abs=1e-10)
    contrast_of_objects = F.resampled_label_contrast(rows, objects, units, counts)
    for r in range(8):
        expected = contrast(rebuilt(counts[r], units), objects.tolist())
        assert float(contrast_of_objects[r]) == pytest.approx(expected, abs=1e-10)
