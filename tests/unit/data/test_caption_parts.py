"""Parts of captions against a plain loop over the words."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from i0t.data.caption_parts import CAPTION_PARTS, CaptionCutter, check_caption_part, split_words


def parts_by_counting(words, num_parts):
    """Word j of n is in the last part that begins at or before it; part i begins at floor(i n / parts)."""
    parts = [[] for _ in range(num_parts)]
    for j, word in enumerate(words):
        begun = [i for i in range(num_parts) if int(i * len(words) / num_parts) <= j]
        parts[begun[-1]].append(word)
    return [" ".join(part) for part in parts if part]


@pytest.mark.parametrize("num_parts", [2, 4])
@pytest.mark.parametrize("num_words", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 30])
def test_parts_are_consecutive_words_of_nearly_equal_number(num_parts, num_words):
    words = [f"w{i}" for i in range(num_words)]
    parts = split_words(" ".join(words), num_parts)
    assert parts == parts_by_counting(words, num_parts)
    assert len(parts) == min(num_parts, num_words)


@pytest.mark.parametrize(
    ("caption", "num_parts", "expected"),
    [
        ("one", 2, ["one"]),
        ("one", 4, ["one"]),
        ("one two three", 2, ["one", "two three"]),
        ("one two three", 4, ["one", "two", "three"]),
        ("one two three four five", 4, ["one", "two", "three", "four five"]),
        ("one \n two\tthree  four", 2, ["one two", "three four"]),
        ("one \n two", 1, ["one \n two"]),
    ],
)
def test_known_captions(caption, num_parts, expected):
    assert split_words(caption, num_parts) == expected


@given(st.lists(st.text("abc", min_size=1), min_size=1), st.sampled_from(sorted(CAPTION_PARTS.values())))
def test_no_word_is_lost_or_moved(words, num_parts):
    assert " ".join(split_words(" ".join(words), num_parts)) == " ".join(words)


@pytest.mark.parametrize(("part", "words"), [("half", 8), ("quarter", 8), ("quarter", 3), ("half", 1)])
def test_every_part_is_kept_equally_often(part, words):
    caption = " ".join(f"w{i}" for i in range(words))
    cut = CaptionCutter(part, seed=3)
    seen = Counter(cut(caption) for _ in range(4000))
    expected = split_words(caption, CAPTION_PARTS[part])
    assert set(seen) == set(expected)
    for count in seen.values():
        assert abs(count - 4000 / len(expected)) < 4 * (4000 / len(expected)) ** 0.5


def test_cuts_repeat_with_the_seed_alone():
    captions = ["one two three four five six seven eight"] * 50
    runs = [[cut(caption) for caption in captions] for cut in (CaptionCutter("quarter", seed=s) for s in (1, 1, 2))]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.parametrize("part", ["third", "", "Half", "2"])
def test_a_part_that_does_not_exist_is_refused(part):
    message = f"data.caption_part={part!r} does not exist; choose one of full, half, quarter"
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_caption_part(part)
    with pytest.raises(ValueError, match=f"^{message}$"):
        CaptionCutter(part, seed=0)
