"""The bits that captions carry, and the draws behind them, against enumeration and plain loops."""

from collections import Counter
from itertools import combinations, permutations, product
from math import log2

import numpy as np
import pytest

from i0t.data.mad_generator import (
    FACTOR_NAMES,
    FACTORS,
    IMAGE_BITS,
    caption_information,
    caption_words,
    draw_caption_factors,
)
from i0t.data.mad_generator.captions import _ordered_factors

IMAGES = list(product(*FACTORS.values()))


def mutual_information(k, main_object):
    """sum p(x, c) log2 p(x, c) / (p(x) p(c)) over all images and all captions, written out as strings."""
    main = FACTOR_NAMES.index(main_object)
    others = [factor for factor in range(6) if factor != main]
    orders = [order for chosen in combinations(others, k) for order in permutations((main, *chosen))]
    joint = Counter()
    for number, image in enumerate(IMAGES):
        for order in orders:
            joint[number, "-".join(image[factor] for factor in order)] += 1 / (len(IMAGES) * len(orders))
    of_image, of_caption = Counter(), Counter()
    for (image, caption), probability in joint.items():
        of_image[image] += probability
        of_caption[caption] += probability
    return sum(p * log2(p / (of_image[image] * of_caption[caption])) for (image, caption), p in joint.items())


@pytest.mark.parametrize("main_object", ["digit", "swelling"])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_caption_information_is_the_mutual_information_of_all_images_and_captions(k, main_object):
    assert len(IMAGES) == 1680
    assert caption_information(k, main_object) == pytest.approx(mutual_information(k, main_object), abs=1e-9)


@pytest.mark.parametrize("main_object", FACTOR_NAMES)
def test_a_full_caption_says_all_and_every_word_says_more(main_object):
    bits = [caption_information(k, main_object) for k in range(6)]
    assert bits[0] == log2(len(FACTORS[main_object]))
    assert bits[5] == pytest.approx(log2(1680))
    assert np.diff(bits) == pytest.approx((log2(1680) - bits[0]) / 5)
    assert pytest.approx(10.714, abs=5e-4) == IMAGE_BITS


def test_information_of_captions_that_do_not_exist():
    for k in (-1, 6):
        with pytest.raises(ValueError, match=f"k={k} captioned attributes: there are 5, choose k from 0 to 5"):
            caption_information(k)
    with pytest.raises(ValueError, match="'colour' is not a factor of MAD; choose one of digit"):
        caption_information(1, "colour")


def sorted_factors(numbers, k, first):
    """Row by row, with Python's stable sort."""
    rows = []
    for row in numbers:
        choose_by = [-1.0 if factor in first else row[factor] for factor in range(6)]
        chosen = sorted(range(6), key=lambda factor: choose_by[factor])[: k + 1]
        rows.append(sorted(sorted(chosen), key=lambda factor: row[6 + factor]))
    return rows


@pytest.mark.parametrize("first", [[0], [3], [5, 1]])
@pytest.mark.parametrize("k", [1, 2, 4, 5])
@pytest.mark.parametrize("decimals", [15, 1], ids=["distinct", "ties"])
def test_captioned_factors_equal_a_stable_sort(k, first, decimals):
    numbers = np.round(np.random.default_rng(k).random((400, 12)), decimals)
    expected = sorted_factors(numbers.tolist(), k, first)
    assert _ordered_factors(numbers.copy(), k, first=first).tolist() == expected


def test_captioned_factors_come_from_one_stream_whatever_the_chunks():
    num = 40_000
    numbers = np.random.default_rng([5, 7, 1]).random((num, 12))
    drawn = draw_caption_factors(num, 3, main_object="scale", seed=5, epoch=7)
    assert drawn.dtype == np.uint8
    for part in (slice(0, 50), slice(16_360, 16_410), slice(num - 50, num)):
        assert drawn[part].tolist() == sorted_factors(numbers[part].tolist(), 3, [FACTOR_NAMES.index("scale")])


@pytest.mark.parametrize("k", range(6))
def test_captions_are_the_words_in_their_order(k):
    rng = np.random.default_rng(k)
    codes = np.stack([rng.integers(len(values), size=200) for values in FACTORS.values()], axis=1).astype(np.uint8)
    factors = draw_caption_factors(200, k, seed=0, epoch=0)
    words = [[FACTORS[FACTOR_NAMES[f]][codes[row, f]] for f in factors[row]] for row in range(200)]
    assert caption_words(factors, codes) == ["-".join(row) for row in words]
    assert caption_words(factors[:0], codes[:0]) == []
