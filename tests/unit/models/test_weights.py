"""Every form in which weights come, and every form that is refused, in one line."""

import functools
import hashlib
import json
import os
import subprocess
import sys

import open_clip
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from i0t.models import weights as weights_module
from i0t.models.weights import find_weights, read_weights


def lightning(state):
    """As ClipModule saves: the model beside a reducer and metrics."""
    content = {f"model.clip.{name}": value for name, value in state.items()}
    return {
        "state_dict": content | {"gap_reducer.image_mean": torch.ones(2), "val_metrics.n": torch.ones(1)},
        "i0t": {"config": {"model": {"_target_": "i0t.models.mad_tiny.MadTiny"}}},
        "epoch": 3,
    }


FORMS = {
    "plain": lambda state: state,
    "ddp": lambda state: {f"module.{k}": v for k, v in state.items()},
    "open_clip": lambda state: {"epoch": 1, "name": "run", "state_dict": state, "optimizer": {"state": {}}},
    "open_clip ddp": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{k}": v for k, v in state.items()},
    "our model": lambda state: {f"clip.{k}": v for k, v in state.items()},
    "lightning": lightning,
    "other lightning": lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}},
    "lightning ddp": lambda state: {"state_dict": {f"module.model.clip.{k}": v for k, v in state.items()}},
    "half": lambda state: {k: v.half() for k, v in state.items()},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_state(form, zipped, plain, tmp_path):
    state = plain("tiny-vit").state_dict()
    torch.save(FORMS[form](dict(state)), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    read = read_weights(tmp_path / "w.pt")
    assert set(read.state) == set(state)
    for name, value in state.items():
        assert torch.equal(read.state[name], value.half() if form == "half" else value), name
    assert read.quick_gelu is None


@pytest.mark.parametrize("prefix", ["", "module.", "model.clip."])
def test_safetensors_with_any_prefix(prefix, plain, tmp_path):
    state = plain("tiny-vit").state_dict()
    save_file({prefix + k: v for k, v in state.items()}, tmp_path / "w.safetensors")
    assert set(read_weights(tmp_path / "w.safetensors").state) == set(state)


def test_half_precision_becomes_single(build, plain, tmp_path):
    state = plain("tiny-vit").state_dict()
    torch.save({k: v.half() for k, v in state.items()}, tmp_path / "half.pt")
    model = build("tiny-vit", str(tmp_path / "half.pt"))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.clip.visual.proj, state["visual.proj"].half().float())


def test_a_checkpoint_of_a_model_s_run_loads_into_the_same_model(build, tmp_path):
    torch.manual_seed(5)
    trained = build("tiny-bias")
    torch.save({"state_dict": {f"model.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "run.ckpt")
    again = build("tiny-bias", str(tmp_path / "run.ckpt"))
    assert again.identity() == trained.identity()


def refusal(build, *arguments, **given):
    with pytest.raises(ValueError, match=r"\w") as error:
        build(*arguments, **given)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_of_another_architecture_name_it(build, plain, tmp_path):
    torch.save(plain("tiny-vit-wide").state_dict(), tmp_path / "wide.pt")
    text = refusal(build, "tiny-vit", str(tmp_path / "wide.pt"))
    assert (
        "0 tensors are missing, 0 unexpected, 2 of another shape, first text_projection (64x40, needed 64x24)" in text
    )
    assert "its shapes are those of tiny-vit-wide: model.architecture=tiny-vit-wide" in text


def test_a_resnet_in_a_vit_and_back(build, plain, tmp_path):
    for held, wanted in (("tiny-resnet", "tiny-vit"), ("tiny-vit", "tiny-resnet")):
        torch.save(plain(held).state_dict(), tmp_path / "w.pt")
        text = refusal(build, wanted, str(tmp_path / "w.pt"))
        assert f"does not fit {wanted}" in text
        assert f"model.architecture={held}" in text


def test_a_lost_and_a_strange_tensor_are_counted_and_the_model_is_left_alone(build, plain, tmp_path):
    state = plain("tiny-vit").state_dict()
    del state["ln_final.weight"], state["ln_final.bias"]
    state["head.weight"] = torch.ones(2)
    torch.save(state, tmp_path / "w.pt")
    text = refusal(build, "tiny-vit", str(tmp_path / "w.pt"))
    assert "2 tensors are missing, 1 unexpected, 0 of another shape, first ln_final.weight" in text


def test_images_of_another_size_are_interpolated_only_when_asked(build, plain, captions, tmp_path):
    torch.save(plain("tiny-vit").state_dict(), tmp_path / "w.pt")
    file = str(tmp_path / "w.pt")
    larger = build("tiny-vit", file, image_size=64)
    assert larger.transform(torch.zeros(3, 90, 90)).shape == (3, 64, 64)
    assert larger.clip.visual.positional_embedding.shape == (65, 64)
    reference = open_clip.create_model("tiny-vit", pretrained=file, force_image_size=64)
    assert torch.equal(larger.clip.visual.positional_embedding, reference.visual.positional_embedding)
    torch.save(larger.clip.state_dict(), tmp_path / "64.pt")
    text = refusal(build, "tiny-vit", str(tmp_path / "64.pt"))
    assert "trained on images of 64 pixels, tiny-vit takes (32, 32)" in text
    assert "model.image_size=64" in text
    assert build("tiny-vit", str(tmp_path / "64.pt"), image_size=64).identity() == larger.identity()


# What is known of the activation.


def test_openai_s_tag_switches_to_quick_gelu(build, plain, tags, tmp_path, monkeypatch):
    save_file(plain("tiny-vit").state_dict(), tmp_path / "openai.safetensors")
    monkeypatch.setattr("i0t.models.weights.download_pretrained", lambda config: str(tmp_path / "openai.safetensors"))
    by_tag, by_name = build("tiny-vit", "openai"), build("tiny-vit-quickgelu", "openai")
    assert by_tag.identity() == by_name.identity()
    assert by_tag.weights_files == (tmp_path / "openai.safetensors",)
    assert "mean=(0.5, 0.5, 0.5)" in repr(by_tag.transform)
    kinds = {type(m).__name__ for m in by_tag.modules()}
    assert "QuickGELU" in kinds
    assert "GELU" not in kinds
    assert build("tiny-vit", "smooth-2b").identity()["architecture"] != by_tag.identity()["architecture"]


@pytest.mark.parametrize(
    ("architecture", "tag", "message"),
    [
        ("tiny-vit", "quick_400m", "with QuickGELU, tiny-vit has GELU: set model.architecture=tiny-vit-quickgelu"),
        ("ViT-B-16", "dfn2b", "trained with QuickGELU, ViT-B-16 has GELU: set model.architecture=ViT-B-16-quickgelu"),
        (
            "ViT-B-32-quickgelu",
            "laion2b_s34b_b79k",
            "trained with GELU, ViT-B-32-quickgelu has QuickGELU: set model.architecture=ViT-B-32 (",
        ),
    ],
)
def test_any_other_tag_of_another_activation_is_refused_before_it_is_fetched(
    architecture, tag, message, build, tags, monkeypatch
):
    monkeypatch.setattr("i0t.models.weights.download_pretrained", lambda config: pytest.fail("fetched"))
    assert message in refusal(build, architecture, tag)


def test_a_local_file_with_openai_s_numbers_needs_quick_gelu(build, plain, tmp_path):
    state = plain("tiny-vit").state_dict()
    numbers = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77), "vocab_size": torch.tensor(9)}
    torch.save(state | numbers, tmp_path / "openai.pt")
    text = refusal(build, "tiny-vit", str(tmp_path / "openai.pt"))
    assert "openai.pt was trained with QuickGELU, tiny-vit has GELU: set model.architecture=tiny-vit-quickgelu" in text
    assert build("tiny-vit-quickgelu", str(tmp_path / "openai.pt")).embed_dim == 24


def test_the_config_beside_a_file_is_believed(build, plain, tmp_path):
    torch.save(plain("tiny-vit").state_dict(), tmp_path / "w.pt")
    config = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "size": 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    assert "set model.architecture=tiny-vit-quickgelu" in refusal(build, "tiny-vit", str(tmp_path / "w.pt"))
    text = refusal(build, "tiny-vit-quickgelu", str(tmp_path / "w.pt"))
    assert "trained with mean [0.5, 0.5, 0.5]" in text
    assert "set model.image_mean=[0.5,0.5,0.5]" in text
    model = build("tiny-vit-quickgelu", str(tmp_path / "w.pt"), image_mean=[0.5, 0.5, 0.5])
    assert "mean=[0.5, 0.5, 0.5]" in repr(model.transform)


def test_a_checkpoint_of_ours_tells_what_its_model_was(build, plain, tmp_path):
    node = {
        "architecture": "ViT-B-32",
        "pretrained": "openai",
        "image_mean": None,
        "image_std": None,
        "interpolation": None,
        "resize_mode": "squash",
    }
    torch.save(
        {"state_dict": plain("tiny-vit").state_dict(), "i0t": {"config": {"model": node}}}, tmp_path / "run.ckpt"
    )
    assert "trained with QuickGELU" in refusal(build, "tiny-vit", str(tmp_path / "run.ckpt"))
    text = refusal(build, "tiny-vit-quickgelu", str(tmp_path / "run.ckpt"))
    assert "was trained with resize_mode squash" in text
    assert "model.resize_mode=squash" in text
    assert build("tiny-vit-quickgelu", str(tmp_path / "run.ckpt"), resize_mode="squash").embed_dim == 24


# What is not loaded.


class Holder(torch.nn.Module):
    """As OpenAI's archives: a program whose state dict has the model's names."""

    def __init__(self, state):
        super().__init__()
        self.weight = torch.nn.Parameter(state["text_projection"])
        for name in ("input_resolution", "context_length", "vocab_size"):
            self.register_buffer(name, torch.tensor(1))

    def forward(self, x):
        return x


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_torchscript_archive_is_run_only_if_openai_published_it(build, plain, tmp_path, monkeypatch):
    state = plain("tiny-vit").state_dict()
    torch.jit.save(torch.jit.script(Holder(state)), tmp_path / "archive.pt")
    monkeypatch.setattr(torch.jit, "load", functools.partial(pytest.fail, "a program was run"))
    text = refusal(build, "tiny-vit", str(tmp_path / "archive.pt"))
    assert "is a TorchScript archive, a program, and none that OpenAI published" in text
    monkeypatch.undo()
    digest = hashlib.sha256((tmp_path / "archive.pt").read_bytes()).hexdigest()
    url = f"https://openaipublic.azureedge.net/clip/models/{digest}/ViT-B-32.pt"
    monkeypatch.setattr(open_clip, "get_pretrained_url", lambda name, tag: url)
    read = read_weights(tmp_path / "archive.pt")
    assert read.quick_gelu is True
    assert torch.equal(read.state["weight"], state["text_projection"])
    assert set(read.state) == {"weight"}


def test_the_published_hashes_are_known():
    hashes = weights_module._openai_hashes()
    assert "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af" in hashes  # ViT-B-32.pt
    assert all(len(digest) == 64 for digest in hashes)


class Stranger:
    """What a pickle could bring."""

    def __reduce__(self):
        return os.system, ("exit 3",)


def test_a_pickle_with_more_than_tensors_is_not_run(build, tmp_path):
    torch.save({"state_dict": {"a": torch.ones(1)}, "args": Stranger()}, tmp_path / "evil.pt")
    text = refusal(build, "tiny-vit", str(tmp_path / "evil.pt"))
    assert "holds more than tensors and plain containers" in text
    assert "torch.save(model.state_dict()" in text


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_file_cut_short_is_refused(name, keep, build, plain, tmp_path):
    state, file = plain("tiny-vit").state_dict(), tmp_path / name
    save_file(state, file) if name.endswith("safetensors") else torch.save(state, file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    assert str(file) in refusal(build, "tiny-vit", str(file))


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], {"state_dict": {}}, {"state_dict": [1]}, torch.ones(3)])
def test_a_file_without_weights_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="holds no weights"):
        read_weights(tmp_path / "w.pt")


# The network.


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    def unreachable(**given):
        raise LocalEntryNotFoundError("cannot find the requested files\nin the cache")

    monkeypatch.setattr(open_clip.pretrained, "hf_hub_download", unreachable)
    with pytest.raises(ConnectionError) as error:
        find_weights("ViT-B-32", "openai")
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith("model.pretrained=openai: the weights are not in the cache (")
    assert "huggingface.co/timm/vit_base_patch32_clip_224.openai cannot be reached" in text
    assert "model.pretrained=<file>" in text
    assert "HF_HUB_CACHE" in text


def test_a_path_may_start_at_home(plain, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(plain("tiny-vit").state_dict(), tmp_path / "w.pt")
    assert find_weights("tiny-vit", "~/w.pt") == tmp_path / "w.pt"


@pytest.mark.slow
def test_the_command_says_it_in_one_line(tmp_path):
    code = "from i0t.config import compose, instantiate as i; i(compose('eval', ['data=embeddings', 'data.path=x', "
    code += "'model=vit_b_32', 'model.pretrained=laion2b_s34b_b79k']).model)"
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "model.pretrained=laion2b_s34b_b79k: the weights are not in the cache" in last
    assert "http://127.0.0.1:9/laion/CLIP-ViT-B-32-laion2B-s34B-b79K cannot be reached" in last
