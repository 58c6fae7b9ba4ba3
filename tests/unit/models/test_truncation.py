"""Counting the texts that are cut, beside encoding every one of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

from i0t.models.base import ClipModel
from i0t.models.mad_tiny import WordTokenizer
from i0t.models.tokenizers import ArchitectureTokenizer
from i0t.models.truncation import count_architecture, count_byte_pairs

# One token or many from few characters, and everything that cleaning changes.
ODD = [
    "",
    " \n\t ",
    "🦄",
    "日本語",
    "ﬃ",
    "İ",
    "&ngt;",
    "&amp;amp;lt;",
    "&NotNestedGreaterGreater;",
    "< &amp;amp;amp;lt;",  # a "<" anywhere keeps one of the three rounds of unescaping away from the whole text
    "âœ”",
    "\u201cquoted\u201d\u2026",
    "a\x00b\x1b[31mc",
    "x\x85y\xa0z\u2003w\u2028v",
    "\r\n",
    "it's we'll i'd",
    "<start_of_text>",
    "<End_Of_Text>",
    "antidisestablishmentarianism",
    "qxzqxzqxz",
    "12345",
    "!!!???...",
    "_under_score_",
    "\uff26\uff35\uff2c\uff2c\u3000wide",
    "e\u0301",
]


@pytest.fixture(scope="module")
def byte_pairs():
    return {clean: SimpleTokenizer(clean=clean) for clean in ("lower", "whitespace", "canonicalize")}


def naive(tokenizer, texts, context_length):
    return sum(len(tokenizer.encode(text)) + 2 > context_length for text in texts)


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
@pytest.mark.parametrize("context_length", [3, 8, 77, 248])
def test_texts_around_the_boundary(clean, context_length, byte_pairs):
    tokenizer, room = byte_pairs[clean], context_length - 2
    for word in ("a", "cat", "!", "🦄", "&gt;", "don't", "x_y", "antidisestablishmentarianism"):
        for count in sorted({*range(room // 12, room // 12 + 4), room // 2, *range(room - 2, room + 3)}):
            for text in ([" ".join([word] * count)], ["7" * count]):  # a digit is a token, without spaces too
                expected = naive(tokenizer, text, context_length)
                assert count_byte_pairs(tokenizer, text, context_length=context_length) == expected, (word, count)
    assert count_byte_pairs(tokenizer, ["a " * room, "a " * (room + 1)], context_length=context_length) == 1


@pytest.mark.parametrize("clean", ["lower", "whitespace", "canonicalize"])
def test_odd_texts_one_by_one_and_together(clean, byte_pairs):
    tokenizer = byte_pairs[clean]
    texts = ODD + [a + b for a in ODD for b in ODD]
    for context_length in (3, 6, 14):
        expected = [naive(tokenizer, [text], context_length) for text in texts]
        assert [count_byte_pairs(tokenizer, [text], context_length=context_length) for text in texts] == expected
        assert count_byte_pairs(tokenizer, texts, context_length=context_length) == sum(expected) > 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([*ODD, " ", "&", "cat", ";", "'s"]) | st.text(max_size=4), max_size=9), max_size=4
    )
)
def test_any_text(parts):
    tokenizer, texts = _TOKENIZER, ["".join(part) for part in parts]
    for context_length in (5, 10):
        expected = naive(tokenizer, texts, context_length)
        assert count_byte_pairs(tokenizer, texts, context_length=context_length) == expected


_TOKENIZER = SimpleTokenizer()


def test_models_count_what_their_context_cuts(build, build_long):
    short, long = build("tiny-vit"), build_long("tiny-vit")
    texts = ["word " * n for n in (10, 75, 76, 246, 247)]
    assert short.count_truncated(texts) == 3
    assert long.count_truncated(texts) == 1
    assert long.count_truncated([]) == 0
    assert (short.tokenizer(texts[2:3])[0, -1], short.tokenizer(texts[1:2])[0, -1]) == (49407, 49407)


def test_words_of_mad_are_never_cut():
    assert WordTokenizer(["a", "b"], separator="-", context_length=3).count_truncated(["a", "a-b-a-b"]) == 0


def test_a_tokenizer_of_one_s_own_may_not_tell(build):
    model = build("tiny-vit")
    own = ClipModel(
        model.clip, transform=model.transform, tokenizer=model.tokenizer.__call__, embed_dim=24, max_logit_scale=None
    )
    assert own.count_truncated(["word " * 99]) is None


WORDY = [
    "",
    "a cat",
    "A  red CAT",
    "cat " * 9,
    "cat " * 10,
    "cat " * 11,
    "cat-dog! " * 3,
    "&amp; " * 10,
    "ünknown " * 12,
]


@pytest.mark.parametrize("context_length", [4, 7, 12])
def test_tokenizers_of_transformers(context_length, tokenizer_folder):
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(tokenizer_folder)
    wrapper = HFTokenizer(str(tokenizer_folder), context_length=context_length)
    expected = [len(plain(wrapper.clean_fn(text))["input_ids"]) > context_length for text in WORDY]
    assert count_architecture(wrapper, WORDY, context_length=context_length) == sum(expected) > 0
    tokenizer = ArchitectureTokenizer("tiny-vit", context_length=context_length, folder=str(tokenizer_folder))
    assert [tokenizer.count_truncated([text]) for text in WORDY] == expected
    assert tokenizer.count_truncated(WORDY * 1000) == 1000 * sum(expected), "over many batches"


@pytest.mark.parametrize("context_length", [4, 7, 12])
def test_a_tokenizer_that_adds_its_own_class_token(context_length, tokenizer_folder):
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(tokenizer_folder)
    wrapper = HFTokenizer(str(tokenizer_folder), context_length=context_length, tokenizer_mode="clips")
    for text in WORDY:
        words = plain(wrapper.clean_fn(text), add_special_tokens=False)["input_ids"]
        cut = wrapper([text])[0].tolist()[1 : 1 + len(words)] != words
        assert count_architecture(wrapper, [text], context_length=context_length) == cut, text
