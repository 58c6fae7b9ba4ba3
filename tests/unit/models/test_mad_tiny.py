import pytest
import torch

from i0t.config import compose, instantiate
from i0t.data import mad_generator
from i0t.models.mad_tiny import WordTokenizer


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return instantiate(compose("train", ["paths.output_dir=out"]).model).eval()


def test_features_are_those_of_open_clip_and_not_normalised(model):
    images, tokens = torch.randn(3, 3, 28, 28), model.tokenizer(["3-red", "4", "small-7"])
    output = model(images, tokens)
    assert output.image_features.shape == output.text_features.shape == (3, model.embed_dim)
    assert torch.equal(output.image_features, model.clip.encode_image(images))
    assert torch.equal(output.text_features, model.clip.encode_text(tokens))
    assert not torch.allclose(output.image_features.norm(dim=1), torch.ones(3), atol=0.05)
    assert output.logit_scale.item() == pytest.approx(1 / 0.07, rel=1e-5)
    assert output.logit_bias is None


def test_a_caption_is_read_in_order_and_padding_changes_nothing(model):
    a, b, c = model.encode_text(model.tokenizer(["3-red", "red-3", "3-red-small"]))
    assert not torch.allclose(a, b)
    assert not torch.allclose(a, c)
    longer = WordTokenizer(list(model.tokenizer.token_of), separator="-", context_length=8)
    assert torch.equal(longer(["3-red"]), model.tokenizer(["3-red"]))


def test_every_word_of_mad_has_a_token_and_no_two_share_one(model):
    words = [value for values in mad_generator.FACTORS.values() for value in values]
    tokens = model.tokenizer(words)
    assert len({tuple(row) for row in tokens.tolist()}) == len(words) == 26
    # open_clip reads the text off where the largest id stands: the end.
    assert (tokens.argmax(1) == 2).all()


def test_tokens_by_hand():
    tokenizer = WordTokenizer(["b", "a"], separator=" ", context_length=5)
    assert tokenizer(["a b", "b"]).tolist() == [[1, 3, 2, 4, 0], [1, 2, 4, 0, 0]]
    assert tokenizer.vocab_size == 5


@pytest.mark.parametrize(
    ("text", "message"), [("a-x", "'x', which is not in model.vocabulary"), ("a-a-a", "needs 5 tokens")]
)
def test_what_cannot_be_tokenized_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        WordTokenizer(["a"], separator="-", context_length=4)([text])


def test_a_vocabulary_names_no_word_twice():
    with pytest.raises(ValueError, match="twice"):
        WordTokenizer(["a", "a"], separator="-", context_length=4)


def test_transform_maps_black_and_white_to_minus_one_and_one(model):
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 28, 28)
    out = model.transform(images)
    assert out.dtype == torch.float32
    assert out[0].unique().tolist() == [-1.0]
    assert out[1].unique().tolist() == [1.0]
