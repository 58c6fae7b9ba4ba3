"""OpenClip beside plain open_clip code on the same files, photos and captions."""

import logging
import math
import pickle
import random
import subprocess
import sys

import open_clip
import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet
from PIL import Image
from safetensors.torch import save_file

from i0t.config import compose, conf_dir, instantiate
from i0t.models.base import describe_transform

NAMES = ("tiny-vit", "tiny-vit-quickgelu", "tiny-resnet", "tiny-bias", "tiny-timm")


def plain_features(architecture, file, photos, captions):
    """What the documentation of open_clip does."""
    model, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=str(file))
    tokenizer = open_clip.get_tokenizer(architecture)
    with torch.no_grad():
        images = torch.stack([transform(photo) for photo in photos])
        return model.eval().encode_image(images), model.encode_text(tokenizer(captions))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("architecture", NAMES)
def test_features_are_those_of_plain_open_clip(architecture, suffix, build, plain, encode, photos, captions, tmp_path):
    file = tmp_path / f"weights{suffix}"
    state = plain(architecture).state_dict()
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)
    model = build(architecture, str(file))
    expected = plain_features(architecture, file, photos, captions)
    for ours, theirs in zip(encode(model), expected, strict=True):
        assert ours.shape == (3, 24)
        assert (ours - theirs).abs().max() <= 1e-5
        assert (ours.norm(dim=1) - 1).abs().max() > 0.01, "not normalised"
    assert model.weights_files == (file,)
    assert model.embed_dim == 24


@pytest.mark.slow
def test_features_of_a_vit_b_32_from_a_file_are_those_of_plain_open_clip(plain, encode, photos, captions, tmp_path):
    file = tmp_path / "vit.pt"
    torch.save(plain("ViT-B-32").state_dict(), file)
    cfg = compose("eval", ["data=embeddings", "data.path=x", "model=vit_b_32", f"model.pretrained={file}"])
    for ours, theirs in zip(
        encode(instantiate(cfg.model)), plain_features("ViT-B-32", file, photos, captions), strict=True
    ):
        assert (ours - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("lie", ["color_jitter_prob", "gray_scale_prob"])
def test_open_clip_s_false_alarm_about_augmentation_is_silenced(lie, build, recwarn):
    build("tiny-vit", color_jitter=[0.1] * 4, **{lie: 0.5})
    assert not [w for w in recwarn if "Unused augmentation" in str(w.message)]


def test_coca_features_are_not_normalised(build, encode):
    # open_clip's CoCa normalises where its CLIP does not.
    config = open_clip.get_model_config("coca_base")
    assert "multimodal_cfg" in config
    seen = {}

    class Clip(torch.nn.Module):
        def encode_image(self, images, normalize=True):
            seen["image"] = normalize

        def encode_text(self, tokens, normalize=True):
            seen["text"] = normalize

    model = build("tiny-vit")
    model.clip = Clip()
    model.encode_image(torch.zeros(1))
    model.encode_text(torch.zeros(1))
    assert seen == {"image": False, "text": False}


def test_random_weights_are_silent_and_have_the_architecture_s_logits(build, caplog):
    with caplog.at_level(logging.WARNING):
        model = build("tiny-bias")
    assert not caplog.records
    scale, bias = model.logit_values()
    assert scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert bias == -10
    assert model.weights_files == ()
    assert build("tiny-vit").logit_values()[1] is None


def test_logit_scale_and_bias_are_set_after_loading(build, plain, tmp_path):
    torch.save(plain("tiny-vit").state_dict(), tmp_path / "w.pt")
    file = str(tmp_path / "w.pt")
    scale, bias = build("tiny-vit", file, logit_scale=100.0, logit_bias=-7.5).logit_values()
    assert scale == pytest.approx(100, rel=1e-5)
    assert bias == -7.5
    assert build("tiny-vit", file).log_logit_scale.item() == pytest.approx(math.log(1 / 0.07), rel=1e-5)


def test_logits_are_numbers_where_the_parameters_are_rows_of_one(build):
    model = build("tiny-bias-row")
    assert model.clip.logit_scale.shape == model.clip.logit_bias.shape == (1,)
    scale, bias = model.logits()
    assert scale.shape == bias.shape == ()
    (scale + bias).backward()
    assert model.clip.logit_scale.grad.tolist() == [pytest.approx(1 / 0.07, rel=1e-5)]
    assert model.clip.logit_bias.grad.tolist() == [1.0]


@pytest.mark.parametrize("architecture", ["tiny-resnet", "tiny-vit", "tiny-bias"])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_a_locked_tower_keeps_weights_and_buffers_under_train(architecture, tower, build, captions):
    torch.manual_seed(0)
    model = build(architecture, lock_image=tower == "image", lock_text=tower == "text").train()
    visual = {k: v.clone() for k, v in model.clip.visual.state_dict().items()}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    side = model.clip.visual.image_size[0] if isinstance(model.clip.visual.image_size, tuple) else 64
    output = model(torch.randn(3, 3, side, side), model.tokenizer(captions))
    similarity = output.image_features @ output.text_features.T * output.logit_scale
    (similarity.diagonal().sum() + (output.logit_bias if output.logit_bias is not None else 0)).backward()
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    names = {f"clip.visual.{k}" for k in visual}
    logits = {"clip.logit_scale", "clip.logit_bias"}
    assert changed & logits, "the temperature stays trainable"
    if tower == "image":
        assert not changed & names
        assert changed - logits, "the text tower is trained"
    else:
        assert changed - logits
        assert changed - logits <= names
    assert model.training
    assert model.clip.visual.training == (tower == "text")


def test_batch_statistics_of_a_resnet_move_only_if_it_is_not_locked(build):
    images = torch.randn(4, 3, 64, 64) * 3 + 2
    for locked in (False, True):
        model = build("tiny-resnet", lock_image=locked).train()
        assert isinstance(model.clip.visual, ModifiedResNet)
        before = model.clip.visual.bn1.running_mean.clone()
        model.encode_image(images)
        assert torch.equal(model.clip.visual.bn1.running_mean, before) == locked
        assert model.eval().train().clip.visual.bn1.training != locked


def test_gradient_checkpointing_changes_no_gradient(build, captions):
    torch.manual_seed(0)
    plain = build("tiny-vit").train()
    thrifty = build("tiny-vit", grad_checkpointing=True).train()
    thrifty.load_state_dict(plain.state_dict())
    assert thrifty.clip.visual.transformer.grad_checkpointing
    assert thrifty.clip.transformer.grad_checkpointing
    assert not plain.clip.transformer.grad_checkpointing
    images = torch.randn(3, 3, 32, 32)
    for model in (plain, thrifty):
        output = model(images, model.tokenizer(captions))
        (output.image_features * output.text_features).sum().backward()
    for a, b in zip(plain.parameters(), thrifty.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.allclose(a.grad, b.grad, atol=1e-6)


def test_gradient_checkpointing_that_open_clip_would_ignore_is_refused(build):
    with pytest.raises(ValueError, match="grad_checkpointing: open_clip has none for the image tower of tiny-resnet"):
        build("tiny-resnet", grad_checkpointing=True)


def test_compiled_towers_keep_their_names(build, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call: call)  # the slow test compiles for real
    model = build("tiny-vit", compile=True)
    assert model.clip.visual._compiled_call_impl is not None
    assert model.clip.transformer._compiled_call_impl is not None
    assert list(model.state_dict()) == list(build("tiny-vit").state_dict())
    assert build("tiny-bias", compile=True).clip.text._compiled_call_impl is not None


@pytest.mark.slow
def test_compiled_towers_give_the_same_features(build, encode):
    torch.manual_seed(0)
    compiled = build("tiny-vit", compile=True)
    eager = build("tiny-vit")
    eager.load_state_dict(compiled.state_dict())
    for a, b in zip(encode(compiled), encode(eager), strict=True):
        assert (a - b).abs().max() <= 1e-5


def test_transforms(build, photos):
    model = build("tiny-vit", crop_scale=[0.5, 0.6])
    shortest = build("tiny-vit", resize_mode="squash", image_mean=[0.5] * 3, image_std=[0.5] * 3)
    assert "CenterCrop" in repr(model.transform)
    assert "CenterCrop" not in repr(shortest.transform)
    white = Image.new("RGB", (40, 70), "white")
    assert torch.allclose(shortest.transform(white), torch.ones(3, 32, 32), atol=1e-5)
    assert torch.equal(model.transform(photos[0]), model.transform(photos[0]))
    torch.manual_seed(0)
    assert not torch.equal(model.train_transform(photos[0]), model.train_transform(photos[0]))
    assert "scale=(0.5, 0.6)" in repr(model.train_transform)
    unchanged = build("tiny-vit", crop_scale=None)
    assert unchanged.train_transform is unchanged.transform


def test_augmentation_settings_reach_the_transform_or_are_refused(build, photos):
    model = build("tiny-vit", crop_scale=[1.0, 1.0], gray_scale_prob=1.0)
    colours = model.train_transform(photos[0])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    colours = colours * std + mean
    assert torch.allclose(colours[0], colours[1], atol=1e-5)
    with pytest.raises(ValueError, match=r"need model\.crop_scale"):
        build("tiny-vit", crop_scale=None, gray_scale_prob=0.5)
    with pytest.raises(ValueError, match=r"four numbers.*got \[0.1\]"):
        build("tiny-vit", color_jitter=[0.1], color_jitter_prob=0.5)


def test_siglip_gets_the_pixels_of_its_tags_even_from_a_file(build):
    from i0t.models.architectures import preprocess_of

    for pretrained in ("webli", "some/file.pt", None):
        assert preprocess_of("ViT-B-16-SigLIP", pretrained)["mean"] == (0.5, 0.5, 0.5)
        assert preprocess_of("ViT-B-16-SigLIP", pretrained)["resize_mode"] == "squash"
    assert preprocess_of("ViT-L-14", "laion2b_s32b_b82k")["mean"] == (0.5, 0.5, 0.5)
    assert preprocess_of("ViT-L-14", None)["mean"] == open_clip.OPENAI_DATASET_MEAN  # its tags disagree
    assert preprocess_of("ViT-L-14", None, mean=[0, 0, 0])["mean"] == [0, 0, 0]


def test_transform_and_tokenizer_reach_other_processes(build, photos, captions):
    model = build("tiny-vit", color_jitter=[0.1] * 4, color_jitter_prob=0.5)
    transform, train_transform, tokenizer = pickle.loads(
        pickle.dumps((model.transform, model.train_transform, model.tokenizer))
    )
    assert torch.equal(transform(photos[0]), model.transform(photos[0]))
    pixels = []
    for augment in (train_transform, model.train_transform):
        random.seed(0)
        torch.manual_seed(0)
        pixels.append(augment(photos[0]))
    assert torch.equal(*pixels)
    assert torch.equal(tokenizer(captions), model.tokenizer(captions))


def test_an_architecture_may_be_a_file(build, architectures, tmp_path):
    text = (architectures / "tiny-vit.json").read_text().replace('"embed_dim": 24', '"embed_dim": 25')
    (tmp_path / "mine.json").write_text(text)
    assert build(str(tmp_path / "mine.json")).embed_dim == 25
    (tmp_path / "ViT-B-32.json").write_text(text)
    with pytest.raises(ValueError, match="open_clip has another ViT-B-32; rename"):
        build(str(tmp_path / "ViT-B-32.json"))
    assert open_clip.get_model_config("ViT-B-32")["embed_dim"] == 512
    with pytest.raises(ValueError, match=r"absent\.json cannot be read as JSON"):
        build(str(tmp_path / "absent.json"))
    (tmp_path / "part.json").write_text('{"embed_dim": 3}')
    with pytest.raises(ValueError, match=r"must have embed_dim, vision_cfg and text_cfg"):
        build(str(tmp_path / "part.json"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"architecture": "ViT-B32"},
            "model.architecture=ViT-B32 is not an open_clip architecture; did you mean 'ViT-B-32'",
        ),
        (
            {"architecture": "ViT-B-32", "pretrained": "laion2b_s34b_b79"},
            "neither a file nor a tag of ViT-B-32; did you mean 'laion2b_s34b_b79k'",
        ),
        (
            {"architecture": "tiny-vit", "pretrained": "absent.pt"},
            "neither a file nor a tag of tiny-vit; its tags: none",
        ),
    ],
)
def test_unknown_names_are_one_line(given, message, build):
    with pytest.raises(ValueError, match=message) as error:
        build(**given)
    assert "\n" not in str(error.value)


def test_identity_is_that_of_the_weights_not_of_the_way_they_came(build, plain, tmp_path):
    state = plain("tiny-vit").state_dict()
    torch.save(state, tmp_path / "a.pt")
    save_file(state, tmp_path / "b.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "c.pt")
    models = [build("tiny-vit", str(tmp_path / name)) for name in ("a.pt", "b.safetensors", "c.pt")]
    identities = [model.identity() for model in models]
    models[0].tokenizer(["used in between"])
    assert identities[0] == identities[1] == identities[2] == models[0].identity()
    with torch.no_grad():
        models[1].clip.visual.proj[0, 0] += 1e-6
    assert models[1].identity()["weights"] != identities[0]["weights"]
    squashed = build("tiny-vit", str(tmp_path / "a.pt"), resize_mode="squash").identity()
    assert {k for k in squashed if squashed[k] != identities[0][k]} == {"transform"}
    quick = build("tiny-vit-quickgelu", str(tmp_path / "a.pt")).identity()
    assert {k for k in quick if quick[k] != identities[0][k]} == {"architecture"}


@pytest.mark.slow
def test_identity_is_the_same_in_another_process(build, plain, architectures, tmp_path):
    torch.save(plain("tiny-vit").state_dict(), tmp_path / "a.pt")
    file = architectures / "tiny-vit.json"
    code = f"""
from i0t.config import instantiate
from omegaconf import OmegaConf
node = OmegaConf.load({str(conf_dir() / "model" / "open_clip.yaml")!r})
node.architecture, node.pretrained = {str(file)!r}, {str(tmp_path / "a.pt")!r}
print(instantiate(node).identity())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(build("tiny-vit", str(tmp_path / "a.pt")).identity())


def test_a_transform_without_settings_in_its_repr_has_no_identity():
    with pytest.raises(ValueError, match="__repr__"):
        describe_transform(object())


def test_a_model_whose_state_follows_reads_and_fetches_nothing(build, tags, tmp_path, monkeypatch):
    monkeypatch.setattr("i0t.models.open_clip.find_weights", lambda *a: pytest.fail("looked for weights"))
    model = build("tiny-vit", "openai", load_weights=False)
    assert '"quick_gelu": true' in model.description, "the activation of the tag is kept"
    assert "mean=(0.5, 0.5, 0.5)" in repr(model.transform), "and its pixels"
    assert model.weights_files == ()
    assert build("tiny-vit", str(tmp_path / "deleted.pt"), load_weights=False).embed_dim == 24


READY = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


def test_every_ready_file_says_every_argument():
    assert {"vit_b_32", "vit_b_16", "vit_l_14", "rn50", "siglip_vit_b_16", "convnext_base", "longclip_vit_b_32"} <= set(
        READY
    )
    node = compose("train", ["model=siglip_vit_b_16", "model.pretrained=null", "paths.output_dir=out"]).model
    assert node.architecture == "ViT-B-16-SigLIP"
    assert node.max_logit_scale is None
    assert node.load_weights is True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stem", "embed_dim", "image_size", "context_length"),
    [
        ("vit_b_32", 512, (224, 224), 77),
        ("vit_b_16", 512, (224, 224), 77),
        ("vit_l_14", 768, (224, 224), 77),
        ("rn50", 1024, 224, 77),
        ("siglip_vit_b_16", 768, (224, 224), 64),
        ("convnext_base", 512, (224, 224), 77),
        ("longclip_vit_b_32", 512, (224, 224), 248),
        ("pac_s", 512, (224, 224), 77),
        ("cyclip", 1024, 224, 77),
    ],
)
def test_every_ready_file_builds(stem, embed_dim, image_size, context_length):
    cfg = compose("train", [f"model={stem}", "model.pretrained=null", "paths.output_dir=out"])
    model = instantiate(cfg.model)
    assert model.embed_dim == embed_dim
    assert model.clip.visual.image_size == image_size
    assert model.tokenizer.context_length == context_length
    assert (model.logit_values()[1] is None) == (stem != "siglip_vit_b_16")
    side = 224
    with torch.no_grad():
        assert model.eval().encode_image(torch.zeros(1, 3, side, side)).shape == (1, embed_dim)
        assert model.encode_text(torch.ones(1, context_length, dtype=torch.int64)).shape == (1, embed_dim)


@pytest.mark.parametrize("architecture", ["tiny-vit", "tiny-resnet", "tiny-timm"])
def test_channels_last_gives_the_same_features_gradients_and_identity(architecture, build, plain, captions, tmp_path):
    torch.save(plain(architecture).state_dict(), tmp_path / "w.pt")
    models = [build(architecture, str(tmp_path / "w.pt"), channels_last=last).eval() for last in (False, True)]
    assert models[0].identity() == models[1].identity()
    convolutions = [m for m in models[1].clip.visual.modules() if isinstance(m, torch.nn.Conv2d) and m.in_channels > 1]
    assert convolutions
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
    side = models[0].clip.visual.image_size
    images = torch.randn(3, 3, *([side] * 2 if isinstance(side, int) else side))
    seen = []
    models[1].clip.visual.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    for model in models:
        model.encode_image(images).square().sum().backward()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    # Some gradients are zero but for rounding (a bias of keys), so that the largest of all sets the bound.
    bound = 1e-5 * max(p.grad.abs().max().item() for p in models[0].clip.visual.parameters())
    for (name, one), (_, other) in zip(*(m.clip.visual.named_parameters() for m in models), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=bound, msg=name)
    torch.testing.assert_close(*(m.encode_image(images) for m in models), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_checkpointed_activations_are_computed_twice_and_give_the_same_gradients(lora, build, captions):
    found, calls = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = build("tiny-vit", grad_checkpointing=checkpointing, dropout=0.2, lora=lora).train()
        count = []
        model.clip.visual.transformer.resblocks[0].register_forward_pre_hook(lambda *_, count=count: count.append(1))
        torch.manual_seed(1)
        output = model(torch.randn(3, 3, 32, 32), model.tokenizer(captions))
        (output.image_features @ output.text_features.T).square().sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
        calls.append(len(count))
    assert calls == [1, 2]
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-6, msg=name)


def test_checkpointing_is_refused_where_batch_norms_would_count_twice(build, monkeypatch):
    config = {"embed_dim": 24, "vision_cfg": {"timm_model_name": "resnet10t", "timm_pool": "avg", "image_size": 64},
              "text_cfg": open_clip.get_model_config("tiny-vit")["text_cfg"]}  # fmt: skip
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-timm-resnet", config)
    with pytest.raises(ValueError, match="tiny-timm-resnet has batch norms, whose running statistics would count"):
        build("tiny-timm-resnet", grad_checkpointing=True)
    assert build("tiny-timm-resnet", grad_checkpointing=True, lock_image=True).clip.visual.training is False
