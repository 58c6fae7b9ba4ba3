"""Captions, colours and which caption is true of which image."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from i0t.data.mad_generator import (
    CAPTION_KINDS,
    FACTOR_NAMES,
    FACTORS,
    VARIANTS,
    caption_codes,
    caption_is_true,
    caption_words,
    colorize,
    count_true_pairs,
    draw_caption_factors,
    draw_colors,
    image_codes,
    num_attributes,
    parse_caption,
    prompts_mean,
    prompts_object_max,
    true_caption_pairs,
)


def random_codes(num, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, len(values), num) for values in FACTORS.values()], axis=1)


def test_factors_and_variants():
    assert list(FACTORS) == ["digit", "thickness", "swelling", "fracture", "scale", "color"]
    assert [len(values) for values in FACTORS.values()] == [10, 3, 2, 2, 2, 7]
    assert len(VARIANTS) == 24
    assert VARIANTS[0] == ("no thickthinning", "no swelling", "no fracture", "large")
    assert VARIANTS[1] == ("no thickthinning", "no swelling", "no fracture", "small")
    assert VARIANTS[23] == ("thinning", "swelling", "fracture", "small")
    words = [word for values in FACTORS.values() for word in values]
    assert len(set(words)) == 26
    assert not any("-" in word for word in words)


def test_image_codes_name_the_variant():
    codes = image_codes(np.full(24, 4), np.arange(24), np.full(24, 6))
    for row, variant in zip(codes, VARIANTS, strict=True):
        words = [FACTORS[name][code] for name, code in zip(FACTOR_NAMES, row, strict=True)]
        assert words == ["4", *variant, "yellow"]


@pytest.mark.parametrize("main_object", FACTOR_NAMES)
@pytest.mark.parametrize("k", range(6))
def test_captions_name_the_main_object_and_k_others_truly(k, main_object):
    codes = random_codes(300)
    factors = draw_caption_factors(300, k, main_object=main_object, seed=1, epoch=2)
    for caption, row in zip(caption_words(factors, codes), codes, strict=True):
        words = caption.split("-")
        assert len(set(words)) == len(words) == k + 1
        assert FACTORS[main_object][row[FACTOR_NAMES.index(main_object)]] in words
        truth = {FACTORS[name][code] for name, code in zip(FACTOR_NAMES, row, strict=True)}
        assert set(words) <= truth


def test_every_order_and_every_choice_of_factors_is_equally_likely():
    num = 60_000
    counts = Counter(map(tuple, draw_caption_factors(num, 2, seed=0, epoch=0).tolist()))
    # 10 pairs of the other five factors, 6 orders of three words.
    assert len(counts) == 60
    assert all(0 in order for order in counts)
    expected = num / 60
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    # 59 degrees of freedom: mean 59, standard deviation 10.9.
    assert chi_squared < 59 + 5 * 10.9


def test_captions_and_colors_belong_to_seed_epoch_and_sample():
    long = draw_caption_factors(50, 3, seed=1, epoch=4)
    assert np.array_equal(long[:20], draw_caption_factors(20, 3, seed=1, epoch=4))
    assert not np.array_equal(long, draw_caption_factors(50, 3, seed=1, epoch=5))
    assert not np.array_equal(long, draw_caption_factors(50, 3, seed=2, epoch=4))
    colors = draw_colors(7000, seed=1, epoch=4)
    assert np.array_equal(colors[:20], draw_colors(20, seed=1, epoch=4))
    assert not np.array_equal(colors, draw_colors(7000, seed=1, epoch=5))
    assert not np.array_equal(colors, draw_colors(7000, seed=2, epoch=4))
    assert np.bincount(colors, minlength=7).min() > 850
    assert set(colors.tolist()) == set(range(7))


def test_kinds_of_captions():
    assert [num_attributes(kind) for kind in CAPTION_KINDS] == [0, 1, 2, 3, 4, 5]
    assert CAPTION_KINDS[0] == "object_only"
    with pytest.raises(ValueError, match="'object_attribute_6' is not a kind of caption; choose one of object_only"):
        num_attributes("object_attribute_6")


@pytest.mark.parametrize("k", [-1, 6])
def test_k_out_of_range(k):
    with pytest.raises(ValueError, match=f"k={k} captioned attributes: there are 5, choose k from 0 to 5"):
        draw_caption_factors(3, k, seed=0, epoch=0)
    with pytest.raises(ValueError, match=f"k={k}"):
        prompts_mean("digit", "3", k, num=1, seed=0)


def test_unknown_main_object_and_value():
    with pytest.raises(ValueError, match="'colour' is not a factor of MAD; choose one of digit, thickness"):
        draw_caption_factors(3, 1, main_object="colour", seed=0, epoch=0)
    with pytest.raises(ValueError, match="'pink' is not a value of 'color'; choose one of gray, red"):
        prompts_object_max("color", "pink")


def test_parsing_inverts_writing():
    codes = random_codes(200)
    factors = draw_caption_factors(200, 3, main_object="scale", seed=0, epoch=0)
    parsed = np.stack([parse_caption(caption) for caption in caption_words(factors, codes)])
    assert np.array_equal(parsed, caption_codes(factors, codes))
    assert ((parsed == -1).sum(axis=1) == 2).all()


@pytest.mark.parametrize("caption", ["3-pink", "", "3-4", "no  swelling"])
def test_captions_that_mean_nothing(caption):
    with pytest.raises(ValueError, match=r"in the caption|names the factor"):
        parse_caption(caption)


def test_caption_is_true_known_answers():
    codes = np.array([3, 0, 1, 1, 0, 6])
    assert caption_is_true("3", codes)
    assert caption_is_true("large-swelling-3", codes)
    assert caption_is_true("fracture-yellow-large-no thickthinning-swelling-3", codes)
    assert not caption_is_true("large-no swelling-3", codes)
    assert not caption_is_true("4", codes)


def naive_pairs(said, codes):
    return [
        [image, caption]
        for image, caption in product(range(len(codes)), range(len(said)))
        if all(said[caption][f] in (-1, codes[image][f]) for f in range(6))
    ]


SMALL_CODES = st.integers(1, 12).flatmap(lambda n: hnp.arrays(np.int64, (n, 6), elements=st.integers(0, 1)))
SMALL_CAPTIONS = st.integers(1, 12).flatmap(lambda m: hnp.arrays(np.int64, (m, 6), elements=st.integers(-1, 1)))


@settings(max_examples=80, deadline=None)
@given(codes=SMALL_CODES, said=SMALL_CAPTIONS)
def test_true_pairs_equal_a_loop(codes, said):
    expected = naive_pairs(said.tolist(), codes.tolist())
    assert true_caption_pairs(said, codes).tolist() == expected
    assert count_true_pairs(said, codes) == len(expected)


@pytest.mark.parametrize("k", [0, 2, 5])
def test_true_pairs_of_real_captions_equal_a_loop(k):
    codes = random_codes(70, seed=k)
    factors = draw_caption_factors(70, k, seed=0, epoch=0)
    pairs = true_caption_pairs(caption_codes(factors, codes), codes[:53])
    assert count_true_pairs(caption_codes(factors, codes), codes[:53]) == len(pairs)
    assert pairs.dtype == np.int64
    captions = caption_words(factors, codes)
    expected = [[i, j] for i in range(53) for j in range(70) if caption_is_true(captions[j], codes[i])]
    assert pairs.tolist() == expected
    # Every caption is true of the image that it was written for.
    assert {(i, i) for i in range(53)} <= set(map(tuple, pairs.tolist()))


def test_true_pairs_in_several_chunks(monkeypatch):
    import i0t.data.mad_generator.caption_truth as module

    codes = random_codes(60)
    said = caption_codes(draw_caption_factors(60, 1, seed=0, epoch=0), codes)
    whole = true_caption_pairs(said, codes)
    monkeypatch.setattr(module, "_MAX_MASK_BYTES", 100)
    assert np.array_equal(true_caption_pairs(said, codes), whole)


def test_true_pairs_of_nothing_and_of_wrong_shapes():
    assert true_caption_pairs(np.empty((0, 6), dtype=int), random_codes(3)).shape == (0, 2)
    assert true_caption_pairs(random_codes(3), np.empty((0, 6), dtype=int)).shape == (0, 2)
    with pytest.raises(ValueError, match=r"image_codes must have one row of 6 codes each, got shape \(3, 5\)"):
        true_caption_pairs(random_codes(3), random_codes(3)[:, :5])


def test_true_pairs_at_the_size_of_a_test_split():
    digits = np.repeat(np.arange(359) % 10, 24)
    codes = image_codes(digits, np.tile(np.arange(24), 359), draw_colors(8616, seed=0, epoch=0))
    pairs = true_caption_pairs(caption_codes(draw_caption_factors(8616, 0, seed=0, epoch=0), codes), codes)
    assert len(pairs) == sum(count**2 for count in Counter(digits.tolist()).values()) == 7_424_064
    assert (digits[pairs[:, 0]] == digits[pairs[:, 1]]).all()


@pytest.mark.parametrize(("factor", "main_object"), [("digit", "digit"), ("color", "digit"), ("digit", "scale")])
def test_mean_prompts_contain_the_value_and_look_like_training_captions(factor, main_object):
    value = FACTORS[factor][2]
    captions = prompts_mean(factor, value, 2, main_object=main_object, num=400, seed=0)
    assert len(captions) == 400
    parsed = np.stack([parse_caption(caption) for caption in captions])
    mentioned = parsed != -1
    assert (parsed[:, FACTOR_NAMES.index(factor)] == 2).all()
    assert mentioned[:, FACTOR_NAMES.index(main_object)].all()
    assert (mentioned.sum(axis=1) == 3).all()
    # Every other factor and every value of it turns up.
    for column, values in enumerate(FACTORS.values()):
        if FACTOR_NAMES[column] != factor:
            assert set(parsed[mentioned[:, column], column].tolist()) == set(range(len(values)))
    positions = Counter(caption.split("-").index(value) for caption in captions)
    assert min(positions[0], positions[1], positions[2]) > 80
    assert captions == prompts_mean(factor, value, 2, main_object=main_object, num=400, seed=0)
    assert captions != prompts_mean(factor, value, 2, main_object=main_object, num=400, seed=1)


def test_mean_prompts_without_attributes():
    assert prompts_mean("color", "red", 0, num=5, seed=0) == []
    assert prompts_mean("digit", "7", 0, num=3, seed=0) == ["7", "7", "7"]
    assert prompts_mean("scale", "small", 0, main_object="scale", num=2, seed=0) == ["small", "small"]


def test_object_max_prompts():
    assert prompts_object_max("color", "cyan") == [f"{digit}-cyan" for digit in range(10)]
    assert prompts_object_max("digit", "3") == ["3"]
    assert prompts_object_max("digit", "3", main_object="swelling") == ["no swelling-3", "swelling-3"]


def naive_color(image, color):
    result = np.zeros((3, *image.shape), dtype=np.uint8)
    for i, j in np.argwhere(image > 0):
        v = image[i, j]
        result[:, i, j] = {
            "gray": (v, v, v),
            "red": (v, 0, 0),
            "green": (0, v, 0),
            "blue": (0, 0, v),
            "cyan": (v, 255, 255),
            "magenta": (255, v, 255),
            "yellow": (255, 255, v),
        }[color]
    return result


def test_colors_equal_a_loop():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (14, 28, 28)).astype(np.uint8) * rng.integers(0, 2, (14, 28, 28)).astype(np.uint8)
    codes = np.arange(14) % 7
    colored = colorize(images, codes)
    assert colored.shape == (14, 3, 28, 28)
    assert colored.dtype == np.uint8
    for image, code, result in zip(images, codes, colored, strict=True):
        assert np.array_equal(result, naive_color(image, FACTORS["color"][code]))


def test_colors_out_of_range_and_floats_are_rejected():
    images = np.zeros((2, 28, 28), dtype=np.uint8)
    with pytest.raises(ValueError, match="color codes must be 0 to 6, got 0 to 7"):
        colorize(images, np.array([0, 7]))
    with pytest.raises(ValueError, match="got -1"):
        colorize(images, np.array([-1, 0]))
    with pytest.raises(ValueError, match="uint8, got float32"):
        colorize(images.astype(np.float32), np.array([0, 0]))
