"""Captions of MAD (arXiv 2404.07983): the main object's word and k of the other five factors, in random order.

Every draw belongs to (seed, epoch, sample): the numbers of all samples of an epoch come from one stream, a fixed count
per sample, so that neither the batch nor the worker a sample is in, nor the number of samples after it, changes its
caption.

Shapes: N samples; k captioned factors besides the main object.
"""

from __future__ import annotations

import numpy as np

from i0t.data.mad_generator.factors import FACTOR_NAMES, FACTORS, NUM_VARIANTS, VARIANT_CODES, factor_index, value_index

MAX_ATTRIBUTES: int = len(FACTORS) - 1
CAPTION_KINDS: tuple[str, ...] = ("object_only", *(f"object_attribute_{k}" for k in range(1, MAX_ATTRIBUTES + 1)))
SEPARATOR: str = "-"
NOT_MENTIONED: int = -1
_WORDS: tuple[str, ...] = tuple(word for words in FACTORS.values() for word in words)
# Where the words of each factor begin among all.
_FIRST_WORD: np.ndarray = np.cumsum([0, *(len(words) for words in FACTORS.values())])[:-1]

# The last number of a seed keeps the streams of captions, colours, prompts and variants apart.
_CAPTION_STREAM, _COLOR_STREAM, _PROMPT_STREAM, _VARIANT_STREAM = 1, 2, 3, 4
# Samples whose random numbers are held at once: 1.5 MB, which stays in the cache.
_CHUNK_SAMPLES = 16_384


def num_attributes(kind: str) -> int:
    """Number of captioned factors besides the main object.

    Raises:
        ValueError: If there is no such kind of caption.

    Example:
        >>> num_attributes("object_attribute_3")
        3
    """
    if kind not in CAPTION_KINDS:
        raise ValueError(f"{kind!r} is not a kind of caption; choose one of {', '.join(CAPTION_KINDS)}")
    return CAPTION_KINDS.index(kind)


def check_num_attributes(k: int) -> None:
    """Rejects a number of captioned factors that there are not.

    Raises:
        ValueError: If k is not 0 to 5.
    """
    if not 0 <= k <= MAX_ATTRIBUTES:
        raise ValueError(f"k={k} captioned attributes: there are {MAX_ATTRIBUTES}, choose k from 0 to {MAX_ATTRIBUTES}")


def draw_colors(num_samples: int, *, seed: int, epoch: int) -> np.ndarray:
    """Colour of each sample in an epoch.

    Args:
        num_samples: N; a larger N does not change the first colours.
        seed: Not negative.
        epoch: Not negative.

    Returns:
        ``(N,)`` uint8 codes, uniform over ``FACTORS["color"]``.
    """
    uniform = np.random.default_rng([seed, epoch, _COLOR_STREAM]).random(num_samples)
    return (uniform * len(FACTORS["color"])).astype(np.uint8)


def draw_variants(num_digits: int, *, seed: int, epoch: int) -> np.ndarray:
    """One of the 24 variants of each digit in an epoch.

    Args:
        num_digits: A larger number does not change the first variants.
        seed: Not negative.
        epoch: Not negative.

    Returns:
        ``(num_digits,)`` uint8 rows of ``VARIANTS``, uniform.
    """
    uniform = np.random.default_rng([seed, epoch, _VARIANT_STREAM]).random(num_digits)
    return (uniform * NUM_VARIANTS).astype(np.uint8)


def draw_caption_factors(num_samples: int, k: int, *, main_object: str = "digit", seed: int, epoch: int) -> np.ndarray:
    """Which factors each caption names, in the order in which it names them.

    Args:
        num_samples: N; a larger N does not change the first captions.
        k: Number of factors besides the main object, sampled without replacement.
        main_object: The factor that every caption names.
        seed: Not negative.
        epoch: Not negative.

    Returns:
        ``(N, k + 1)`` uint8, indices into ``FACTOR_NAMES``.

    Raises:
        ValueError: If k is not 0 to 5 or the main object is not a factor.
    """
    check_num_attributes(k)
    main = factor_index(main_object)
    rng = np.random.default_rng([seed, epoch, _CAPTION_STREAM])
    factors = np.empty((num_samples, k + 1), dtype=np.uint8)
    for part in np.split(factors, range(_CHUNK_SAMPLES, num_samples, _CHUNK_SAMPLES)):
        # One number per factor to choose by and one to order by, whatever k is.
        part[:] = _ordered_factors(rng.random((len(part), 2 * len(FACTORS))), k, first=[main])
    return factors


def _ordered_factors(numbers: np.ndarray, k: int, *, first: list[int]) -> np.ndarray:
    """The k + 1 factors with the least first six numbers, ``first`` ahead of all, ordered by the last six; uint8.

    By counting, column by column: six numbers are too few for a sort per row, which would take three times as long.
    """
    columns = np.ascontiguousarray(numbers.T)
    choose_by, order_by = columns[: len(FACTORS)], columns[len(FACTORS) :]
    choose_by[first] = -1.0
    chosen = _places(choose_by) <= k
    order_by[~chosen] = np.inf
    places = _places(order_by)
    ordered = np.zeros((len(numbers), k + 1), dtype=np.uint8)
    for place in range(k + 1):
        for factor in range(1, len(FACTORS)):
            ordered[:, place] += factor * (places[factor] == place).view(np.uint8)
    return ordered


def _places(columns: np.ndarray) -> np.ndarray:
    """``(6, N)`` uint8: how many of a sample's numbers are below each; of equal ones the first counts as the least."""
    places = np.zeros(columns.shape, dtype=np.uint8)
    for later in range(1, len(columns)):
        for earlier in range(later):
            follows = (columns[earlier] <= columns[later]).view(np.uint8)
            places[later] += follows
            places[earlier] += 1 - follows
    return places


def caption_codes(caption_factors: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """What each caption says about each factor, regardless of word order.

    Args:
        caption_factors: ``(N, k + 1)`` named factors.
        codes: ``(N, 6)`` codes of the images.

    Returns:
        ``(N, 6)`` int8, -1 where a factor is not mentioned.

    Example:
        >>> caption_codes(np.array([[5, 0]]), np.array([[3, 0, 1, 1, 0, 6]])).tolist()
        [[3, -1, -1, -1, -1, 6]]
    """
    mentioned = np.full(codes.shape, NOT_MENTIONED, dtype=np.int8)
    for factor in range(codes.shape[1]):
        # Column by column: indices for all of them at once would take eight times the memory of the result.
        is_named = (caption_factors == factor).any(axis=1)
        np.copyto(mentioned[:, factor], codes[:, factor], where=is_named, casting="unsafe")
    return mentioned


def caption_words(caption_factors: np.ndarray, codes: np.ndarray) -> list[str]:
    """The captions.

    Args:
        caption_factors: ``(N, k + 1)`` named factors in their order.
        codes: ``(N, 6)`` codes of the images.

    Returns:
        N captions, words joined by "-".

    Example:
        >>> caption_words(np.array([[5, 0, 2]]), np.array([[3, 0, 1, 1, 0, 6]]))
        ['yellow-3-swelling']
    """
    # A caption as one number, so that each distinct one is written once: a million captions of two words share a
    # few hundred strings.
    numbers = np.zeros(len(codes), dtype=np.int64)
    for factors in caption_factors.T:
        values = np.take_along_axis(codes, factors[:, None].astype(np.intp), axis=1)[:, 0]
        numbers = numbers * len(_WORDS) + _FIRST_WORD[factors] + values
    distinct, caption_of_sample = np.unique(numbers, return_inverse=True)
    words = distinct[:, None] // len(_WORDS) ** np.arange(caption_factors.shape[1])[::-1] % len(_WORDS)
    captions = np.array([SEPARATOR.join([_WORDS[word] for word in row]) for row in words.tolist()], dtype=object)
    return captions[caption_of_sample].tolist() if len(captions) else []


def prompts_mean(factor: str, value: str, k: int, *, main_object: str = "digit", num: int, seed: int) -> list[str]:
    """Random captions of the training distribution among those that contain a value.

    All factors are independent and uniform, as in the training set up to the counts of its digits. For a factor that is
    not the main object this conditions on its being among the k captioned ones.

    Args:
        factor: One of the six factors.
        value: The value that every caption contains.
        k: Number of factors besides the main object in a caption.
        main_object: The factor that every caption names.
        num: Number of captions.
        seed: Not negative.

    Returns:
        ``num`` captions, repetitions included; none if k is 0 and the factor is not the main object, because no
        training caption then contains the value.

    Raises:
        ValueError: If the factor, the value, k or the main object does not exist.
    """
    check_num_attributes(k)
    main, wanted, code = factor_index(main_object), factor_index(factor), value_index(factor, value)
    if k == 0 and wanted != main:
        return []
    rng = np.random.default_rng([seed, wanted, code, _PROMPT_STREAM])
    factors = _ordered_factors(rng.random((num, 2 * len(FACTORS))), k, first=[main, wanted])
    digits = rng.integers(len(FACTORS["digit"]), size=(num, 1))
    variants = VARIANT_CODES[rng.integers(NUM_VARIANTS, size=num)]
    codes = np.concatenate([digits, variants, rng.integers(len(FACTORS["color"]), size=(num, 1))], axis=1)
    codes[:, wanted] = code
    return caption_words(factors, codes)


def prompts_object_max(factor: str, value: str, *, main_object: str = "digit") -> list[str]:
    """Two-word captions of a value with every value of the main object; a score is then the maximum over them.

    Args:
        factor: One of the six factors.
        value: The value that every caption contains.
        main_object: The factor whose values are gone through.

    Returns:
        ``"<object value>-<value>"`` per value of the main object; only ``"<value>"`` for the main object itself.

    Raises:
        ValueError: If the factor, the value or the main object does not exist.

    Example:
        >>> prompts_object_max("color", "red", main_object="scale")
        ['large-red', 'small-red']
    """
    value_index(factor, value)
    objects = FACTORS[FACTOR_NAMES[factor_index(main_object)]]
    return [value] if factor == main_object else [f"{word}{SEPARATOR}{value}" for word in objects]
