"""Dropout inside the towers: where it is, what it does there, and when it does nothing."""

import math

import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from i0t.models.dropout import add_dropout

WIDTH, COPIES = 8, 20_000


def block_with_dropout(probability):
    torch.manual_seed(0)
    block = ResidualAttentionBlock(WIDTH, 1)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    assert add_dropout(block, probability, name="it") == 2
    return block


def residual(block, x, part):
    """What the attention or the MLP of a block adds to its input, by the other one's removal."""
    with torch.no_grad():
        silent = block.mlp.c_proj if part == "attention" else block.attn.out_proj
        for parameter in silent.parameters():
            parameter.zero_()
        return block(x) - x


def is_near_share(hits, share):
    """Within five standard deviations of a binomial."""
    return abs(hits.double().mean().item() - share) < 5 * math.sqrt(share * (1 - share) / hits.numel())


@pytest.mark.parametrize("probability", [0.1, 0.4])
def test_an_output_of_the_mlp_is_zero_or_scaled_up(probability):
    block, x = block_with_dropout(probability), torch.randn(1, 3, WIDTH)
    expected = residual(block.eval(), x, "mlp")
    drawn = residual(block.train(), x.expand(COPIES, -1, -1), "mlp")
    zero = drawn.abs() < 1e-6
    assert is_near_share(zero, probability)
    scaled = (expected / (1 - probability)).expand(COPIES, -1, -1)
    assert torch.allclose(drawn[~zero], scaled[~zero], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("probability", [0.1, 0.4])
def test_a_weight_of_the_attention_is_zero_or_scaled_up(probability):
    # With one token and one head there is one weight, and it is 1.
    block, x = block_with_dropout(probability), torch.randn(1, 1, WIDTH)
    bias = block.attn.out_proj.bias.detach()
    expected = residual(block.eval(), x, "attention") - bias
    drawn = residual(block.train(), x.expand(COPIES, -1, -1), "attention")[:, 0] - bias
    zero = drawn.abs().amax(1) < 1e-5
    assert is_near_share(zero, probability)
    assert torch.allclose(drawn[~zero], (expected / (1 - probability))[0].expand(COPIES, -1)[~zero], atol=1e-4)


@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_the_expectation_is_the_output_without_it(part):
    block, x = block_with_dropout(0.3), torch.randn(1, 5, WIDTH)
    expected = residual(block.eval(), x, part)[0]
    drawn = residual(block.train(), x.expand(COPIES, -1, -1), part).double()
    error = drawn.std(0) / math.sqrt(COPIES)
    assert error.min() > 0
    assert ((drawn.mean(0) - expected).abs() < 5 * error).all()


@pytest.fixture
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def features(model, images, captions):
    with torch.no_grad():
        return model(images, model.tokenizer(captions))[:2]


@pytest.mark.parametrize("kind", ["tiny-vit", "tiny-bias", "tiny-custom", "long"])
def test_two_passes_differ_in_training_and_only_there(kind, build, build_long, images, captions):
    make, architecture = (build_long, "tiny-vit") if kind == "long" else (build, kind)
    torch.manual_seed(0)
    plain = make(architecture).eval()
    model = make(architecture, dropout=0.1)
    model.load_state_dict(plain.state_dict())
    assert list(model.state_dict()) == list(plain.state_dict())
    assert model.identity() == plain.identity()
    model.train()
    for a, b in zip(features(model, images, captions), features(model, images, captions), strict=True):
        assert ((a - b).abs().amax(1) > 1e-4).all(), "every row has its own draw"
    model.eval()
    for a, b in zip(features(model, images, captions), features(plain, images, captions), strict=True):
        assert torch.equal(a, b)
    plain.train()
    for a, b in zip(features(plain, images, captions), features(plain, images, captions), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("architecture", "in_image", "in_text"), [("tiny-vit", 4, 4), ("tiny-bias", 4, 4), ("tiny-custom", 5, 4)]
)
def test_every_attention_and_every_mlp_has_its_place(architecture, in_image, in_text, build):
    clip = build(architecture, dropout=0.25).clip
    text = clip.text if architecture == "tiny-bias" else clip.transformer
    for tower, places in ((clip.visual, in_image), (text, in_text)):
        set_to = [m.dropout for m in tower.modules() if isinstance(m, nn.MultiheadAttention)]
        set_to += [m.p for m in tower.modules() if isinstance(m, nn.Dropout)]
        assert set_to.count(0.25) == places
        assert set(set_to) <= {0.25, 0.0}
        for block in (m for m in tower.modules() if hasattr(m, "mlp")):
            assert isinstance(list(block.mlp.children())[-1], nn.Dropout), "behind the last projection"


@pytest.mark.parametrize("locked", ["image", "text"])
def test_a_locked_tower_has_none(locked, build, images, captions):
    model = build("tiny-vit", dropout=0.5, **{f"lock_{locked}": True}).train()
    (image, text), (image2, text2) = features(model, images, captions), features(model, images, captions)
    assert torch.equal(image, image2) == (locked == "image")
    assert torch.equal(text, text2) == (locked == "text")


def test_a_resnet_that_is_locked_leaves_it_to_the_text(build, captions):
    model = build("tiny-resnet", dropout=0.5, lock_image=True).train()
    first, second = (features(model, torch.randn(3, 3, 64, 64), captions)[1] for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("architecture", "given", "message"),
    [
        ("tiny-resnet", {}, r"dropout=0.1 cannot be put into the image tower of tiny-resnet \(ModifiedResNet has no"),
        ("tiny-timm", {}, r"cannot be put into the image tower of tiny-timm \(TimmModel has no .*model.dropout=0.0"),
        ("tiny-vit", {"lock_image": True, "lock_text": True}, "dropout=0.1 would be ignored: both towers are locked"),
        ("tiny-vit", {"dropout": 1.0}, r"at least 0 and below 1, got 1\.0"),
        ("tiny-vit", {"dropout": -0.1}, r"at least 0 and below 1, got -0\.1"),
    ],
)
def test_where_it_cannot_be_it_is_refused(architecture, given, message, build):
    with pytest.raises(ValueError, match=message):
        build(architecture, **{"dropout": 0.1} | given)


def test_a_text_tower_of_transformers_is_refused():
    transformers = pytest.importorskip("transformers")
    from open_clip.hf_model import HFTextEncoder

    config = transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    tower = HFTextEncoder("", 8, config=config, pooler_type="mean_pooler", proj_type="linear")
    with pytest.raises(ValueError, match=r"the text tower of x \(HFTextEncoder has no transformer block"):
        add_dropout(tower, 0.1, name="the text tower of x")


def test_checkpointed_blocks_draw_the_same_twice(build, images, captions):
    torch.manual_seed(0)
    plain = build("tiny-vit", dropout=0.3).train()
    thrifty = build("tiny-vit", dropout=0.3, grad_checkpointing=True).train()
    thrifty.load_state_dict(plain.state_dict())
    for model in (plain, thrifty):
        torch.manual_seed(1)
        output = model(images, model.tokenizer(captions))
        (output.image_features * output.text_features).sum().backward()
    gradients = [[p.grad for p in m.parameters() if p.grad is not None] for m in (plain, thrifty)]
    assert len(gradients[0]) > 20
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_compiled_towers_draw_too(build, images, captions):
    torch.manual_seed(0)
    model = build("tiny-vit", dropout=0.1, compile=True)
    eager = build("tiny-vit")
    eager.load_state_dict(model.state_dict())
    model.train()
    for a, b in zip(features(model, images, captions), features(model, images, captions), strict=True):
        assert ((a - b).abs().amax(1) > 1e-4).all()
    for a, b in zip(features(model.eval(), images, captions), features(eager.eval(), images, captions), strict=True):
        assert (a - b).abs().max() <= 1e-5
