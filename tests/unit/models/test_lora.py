"""Adapters against the formula written out, against peft's own merging, and through files."""

import sys

import open_clip
import pytest
import torch
from open_clip.transformer import ResidualAttentionBlock
from torch import nn

from i0t.models.lora import LinearAttention, LoraSettings, merged_weight

pytest.importorskip("peft")
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0}


def randomised(model):
    """Adapters as after training: the second factor begins as zeros."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def inputs(model):
    size = model.clip.visual.image_size
    side = size if isinstance(size, int) else size[0]
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    return images, model.tokenizer(["a cat", "two dogs", "word " * 40])


def features(model):
    with torch.no_grad():
        output = model.eval()(*inputs(model))
    return torch.cat([output.image_features, output.text_features])


@pytest.fixture
def file(plain, tmp_path):
    torch.save(plain("tiny-vit").state_dict(), tmp_path / "w.pt")
    return str(tmp_path / "w.pt")


def plain_with_formula(architecture, model, scaling):
    """A plain open_clip model whose weights are ``W + scaling * B @ A``, by the names of peft."""
    state, clip = model.clip.state_dict(), open_clip.create_model(architecture).eval()
    own = {}
    for name in clip.state_dict():
        under = name.replace("in_proj_weight", "in_proj.weight").replace("in_proj_bias", "in_proj.bias")
        layer, _, kind = under.rpartition(".")
        if f"{layer}.base_layer.{kind}" in state:
            own[name] = state[f"{layer}.base_layer.{kind}"].double()
            if kind == "weight":
                a, b = (state[f"{layer}.lora_{x}.default.weight"].double() for x in "AB")
                own[name] = own[name] + scaling * (b @ a)
        else:
            own[name] = state[under if under in state else name]
    clip.load_state_dict(own)
    return clip


@pytest.mark.parametrize("architecture", ["tiny-vit", "tiny-bias"])
def test_features_are_those_of_the_formula(architecture, build):
    model = randomised(build(architecture, lora=LORA))
    clip = plain_with_formula(architecture, model, scaling=8 / 4)
    images, tokens = inputs(model)
    with torch.no_grad():
        expected = torch.cat([clip.encode_image(images), clip.encode_text(tokens)])
    assert (features(model) - expected).abs().max() <= 1e-5
    assert (features(model) - features(build(architecture))).abs().max() > 1e-2


@pytest.mark.parametrize("targets", [["in_proj"], ["out_proj", "c_fc"], ["c_proj"]])
def test_new_adapters_change_nothing(targets, build, file):
    plain, model = build("tiny-vit", file), build("tiny-vit", file, lora={"rank": 2, "targets": targets})
    assert (features(model) - features(plain)).abs().max() <= 1e-5
    assert model.identity() == plain.identity(), "the cache of embeddings serves both"
    adapted = {n.split(".lora_")[0].rpartition(".")[2] for n, _ in model.named_parameters() if ".lora_" in n}
    assert adapted == set(targets)


def test_merged_equals_unmerged_and_is_the_same_model(build, file):
    model = randomised(build("tiny-vit", file, lora=LORA))
    before, identity, state = features(model), model.identity(), dict(model.plain_state())
    model.merge_adapters()
    assert (features(model) - before).abs().max() <= 1e-5
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    assert model.identity() == identity
    fresh = build("tiny-vit")
    fresh.load_state_dict(state)
    assert (features(fresh) - before).abs().max() <= 1e-5
    assert fresh.identity() == identity


def test_the_merge_is_that_of_peft(build):
    model = randomised(build("tiny-vit", lora=LORA))
    for name, layer in model.clip.named_modules():
        if hasattr(layer, "lora_A"):
            expected = layer.base_layer.weight + layer.get_delta_weight("default")
            plain = name.replace("in_proj", "in_proj_weight") if name.endswith("in_proj") else f"{name}.weight"
            torch.testing.assert_close(model.plain_state()[f"clip.{plain}"], expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_merged_weight_is_the_sum_in_the_weight_s_precision(dtype):
    generator = torch.Generator().manual_seed(0)
    weight, a, b = (torch.randn(shape, generator=generator).to(dtype) for shape in ((5, 7), (3, 7), (5, 3)))
    expected = [
        [weight[i, j].item() + 2.5 * sum(b[i, k].item() * a[k, j].item() for k in range(3)) for j in range(7)]
        for i in range(5)
    ]
    merged = merged_weight(weight, a, b, scaling=2.5)
    assert merged.dtype == dtype
    bound = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 0.1}[dtype]
    assert (merged.double() - torch.tensor(expected, dtype=torch.float64)).abs().max() <= bound


def test_only_adapters_and_the_logits_are_trained_and_the_rest_does_not_move(build):
    model = build("tiny-bias", lora=LORA).train()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {n for n, _ in model.named_parameters() if ".lora_" in n} | {
        "clip.logit_scale",
        "clip.logit_bias",
    }
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(2):  # the first step moves the factors that begin as zeros, the second the others
        output = model(*inputs(model))
        logits = output.image_features @ output.text_features.T * output.logit_scale + output.logit_bias
        logits.diagonal().sum().backward()
        optimizer.step()
    assert {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])} == trained


@pytest.mark.parametrize(("locked", "prefix"), [("image", "clip.visual."), ("text", "clip.transformer.")])
def test_a_locked_tower_gets_no_adapters(locked, prefix, build):
    model = build("tiny-vit", lora=LORA, **{f"lock_{locked}": True})
    towers = {name.split("resblocks")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert prefix + ("transformer." if locked == "image" else "") not in towers
    assert len(towers) == 1


def test_attention_by_layers_is_pytorch_s(build):
    torch.manual_seed(0)
    for batch_first in (True, False):
        block = ResidualAttentionBlock(24, 3, batch_first=batch_first).eval()
        x = torch.randn(5, 7, 24)
        mask = torch.full((7 if batch_first else 5,) * 2, float("-inf")).triu(1)
        expected = block(x, attn_mask=mask)
        block.attn = LinearAttention(block.attn)
        torch.testing.assert_close(block(x, attn_mask=mask), expected, rtol=1e-5, atol=1e-6)
        block.attn.dropout = 0.5
        torch.testing.assert_close(block(x, attn_mask=mask), expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(block.train()(x, attn_mask=mask), expected, atol=1e-3)


@pytest.mark.parametrize("kind", ["added", "added per head", "true where nothing is looked at"])
def test_masks_mean_what_they_mean_to_pytorch(kind):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(24, 3, batch_first=True).eval()
    x = torch.randn(2, 5, 24)
    hidden = torch.ones(5, 5).triu(1).bool()
    mask = {
        "added": torch.randn(5, 5),
        "added per head": torch.randn(2 * 3, 5, 5),
        "true where nothing is looked at": hidden,
    }[kind]
    expected, _ = attention(x, x, x, need_weights=False, attn_mask=mask)
    found, _ = LinearAttention(attention)(x, x, x, attn_mask=mask)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_dropout_of_the_adapters_and_of_the_towers_both_act(build):
    model = randomised(build("tiny-vit", lora={**LORA, "dropout": 0.5})).train()
    one, other = model(*inputs(model)), model(*inputs(model))
    assert not torch.allclose(one.image_features, other.image_features, atol=1e-4)
    assert not torch.allclose(one.text_features, other.text_features, atol=1e-4)
    model = randomised(build("tiny-vit", lora=LORA, dropout=0.5)).train()
    block = model.clip.visual.transformer.resblocks[0]
    assert block.attn.dropout == 0.5
    assert isinstance(block.mlp.dropout, nn.Dropout)


def test_checkpoints_go_both_ways(build, file, tmp_path):
    trained = randomised(build("tiny-vit", file, lora=LORA))
    node = {"architecture": "tiny-vit", "pretrained": None, "lora": LORA}
    state = {f"model.{name}": tensor for name, tensor in trained.state_dict().items()}
    torch.save({"state_dict": state, "i0t": {"config": {"model": node}}}, tmp_path / "last.ckpt")
    exported = build("tiny-vit", str(tmp_path / "last.ckpt"))
    assert (features(exported) - features(trained)).abs().max() <= 1e-5
    assert exported.identity() == trained.identity()
    fresh = build("tiny-vit", lora=LORA)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(features(fresh), features(trained))
    onto = randomised(build("tiny-vit", lora=LORA))
    own = {n: t.clone() for n, t in onto.state_dict().items() if ".lora_" in n}
    plain = build("tiny-vit", file)
    assert onto.load_state_dict(plain.state_dict()) == ([], []), "weights from before the adapters"
    assert all(torch.equal(onto.state_dict()[n], t) for n, t in own.items())
    onto.load_state_dict(own, strict=False)
    assert torch.equal(onto.clip.visual.proj, plain.clip.visual.proj)


def test_a_resnet_must_be_locked_beside_adapters(build):
    with pytest.raises(ValueError, match=r"to adapt in the image tower of tiny-resnet .*: set model.lock_image=true"):
        build("tiny-resnet", lora=LORA)
    locked = build("tiny-resnet", lora=LORA, lock_image=True).train()
    assert not locked.clip.visual.training


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 0}, "model.lora.rank must be a whole number of at least 1, got 0"),
        ({"rank": 2.5}, "model.lora.rank must be a whole number of at least 1, got 2.5"),
        ({}, "model.lora needs a rank"),
        ({"rank": 2, "alfa": 3}, "unknown key 'model.lora.alfa'; did you mean 'alpha'"),
        ({"rank": 2, "alpha": 0}, "model.lora.alpha must be above 0"),
        ({"rank": 2, "dropout": 1.0}, "model.lora.dropout must be at least 0 and below 1"),
        ({"rank": 2, "targets": []}, "model.lora.targets names no layer"),
        ({"rank": 2, "targets": ["qkv"]}, "has no linear layer 'qkv' that can be adapted; it has c_fc, c_proj"),
    ],
)
def test_what_cannot_be_adapted_is_refused_in_one_line(lora, message, build):
    with pytest.raises(ValueError, match=message):
        build("tiny-vit", lora=lora)


def test_both_towers_locked_leave_nothing_to_adapt(build):
    with pytest.raises(ValueError, match=r"model\.lora would be ignored: both towers are locked"):
        build("tiny-vit", lora=LORA, lock_image=True, lock_text=True)


def test_without_peft_one_line_says_what_to_install(build, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"model.lora needs peft: pip install 'i0t\[lora\]'"):
        build("tiny-vit", lora=LORA)


def test_alpha_is_what_the_product_is_scaled_by():
    assert LoraSettings.read({"rank": 4}).scaling == 1
    assert LoraSettings.read({"rank": 4, "alpha": 2}).scaling == 0.5
