"""Weights released with other papers, in the layouts of their files, beside open_clip's own reading of OpenAI's."""

import random

import numpy as np
import pytest
import torch
from open_clip.model import build_model_from_openai_state_dict
from open_clip.tokenizer import SimpleTokenizer

from i0t.config import compose, instantiate
from i0t.models.weights import _NumpyValue


def openai_state(plain, architecture):
    """OpenAI's names, values that half precision holds exactly, batch norms that do something."""
    state = {name: value.clone() for name, value in plain(architecture).state_dict().items()}
    generator = torch.Generator().manual_seed(1)
    for name, value in state.items():
        if name.endswith("bn3.weight"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif "running" in name:
            value.uniform_(0.01, 0.1, generator=generator)
    return {name: value.half().float() if value.is_floating_point() else value for name, value in state.items()}


def reference_features(state, model, photos, captions):
    """open_clip's model of an OpenAI state dict: sizes, heads and QuickGELU by OpenAI's own rules."""
    clip = build_model_from_openai_state_dict(dict(state)).float()
    images = torch.stack([model.transform(photo) for photo in photos])
    with torch.no_grad():
        return clip.encode_image(images), clip.encode_text(SimpleTokenizer()(captions))


def read(stem, file, architecture=None):
    overrides = [f"model={stem}", f"model.pretrained={file}", "data=embeddings", "data.path=x"]
    overrides += [f"model.architecture={architecture}"] if architecture else []
    return instantiate(compose("eval", overrides).model)


def pac_s_file(state):
    """{"state_dict": …} in single precision, beside what its authors' training programs save: random states, scores."""
    return {
        "torch_rng_state": torch.get_rng_state(),
        "numpy_rng_state": np.random.get_state(),
        "random_rng_state": random.getstate(),
        "epoch": 7,
        "val_loss": np.float64(0.5),
        "state_dict": state,
        "optimizer": {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]},
    }


def cyclip_file(state):
    """What CyCLIP's main.py saves under DistributedDataParallel."""
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 5e-4, "params": [0]}]}
    wrapped = {f"module.{name}": value for name, value in state.items()}
    return {"epoch": 64, "name": "cyclip", "state_dict": wrapped, "optimizer": optimizer}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("stem", "layout", "architecture"),
    [
        ("pac_s", pac_s_file, "tiny-openai-vit-quickgelu"),
        ("cyclip", cyclip_file, "tiny-openai-resnet-quickgelu"),
    ],
)
def test_features_are_those_of_openai_s_model(
    stem, layout, architecture, zipped, plain, encode, photos, captions, tmp_path
):
    state = openai_state(plain, architecture)
    torch.save(layout(state), tmp_path / "released.pth", _use_new_zipfile_serialization=zipped)
    model = read(stem, tmp_path / "released.pth", architecture)
    for ours, theirs in zip(encode(model), reference_features(state, model, photos, captions), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5
        assert ours.std(0).min() > 1e-4, "features that differ between inputs"
    assert model.logit_values()[0] == pytest.approx(state["logit_scale"].exp().item())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stem", "layout", "architecture", "embed_dim"),
    [
        ("pac_s", pac_s_file, "ViT-B-32-quickgelu", 512),
        ("cyclip", cyclip_file, "RN50-quickgelu", 1024),
    ],
)
def test_files_of_the_real_size(stem, layout, architecture, embed_dim, plain, encode, photos, captions, tmp_path):
    state = openai_state(plain, architecture)
    torch.save(layout(state), tmp_path / "released.pth")
    model = read(stem, tmp_path / "released.pth")
    assert model.embed_dim == embed_dim
    for ours, theirs in zip(encode(model), reference_features(state, model, photos, captions), strict=True):
        assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.parametrize(("stem", "architecture"), [("pac_s", "ViT-B-32-quickgelu"), ("cyclip", "RN50-quickgelu")])
def test_the_ready_files_have_openai_s_activation(stem, architecture):
    node = compose("eval", [f"model={stem}", "model.pretrained=null", "data=embeddings", "data.path=x"]).model
    assert node.architecture == architecture


def test_numpy_values_of_any_version_are_skipped_not_built(plain, build, tmp_path):
    state = plain("tiny-vit").state_dict()
    content = {
        "state_dict": state,
        "rng": np.random.get_state(),
        "best": np.float32(3),
        "objects": np.array([{}, None]),
    }
    file = tmp_path / "w.pt"
    torch.save(content, file, _use_new_zipfile_serialization=False)
    expected = build("tiny-vit", str(file)).identity()
    # NumPy 1 calls its modules by another name.
    raw = file.read_bytes()
    old, new = b"numpy._core.multiarray", b"numpy.core.multiarray"
    file.write_bytes(raw.replace(old, new) if old in raw else raw.replace(new, old))
    assert file.read_bytes() != raw
    assert build("tiny-vit", str(file)).identity() == expected
    assert torch.serialization.get_safe_globals().count((_NumpyValue, "numpy.ndarray")) == 0, "nothing stays allowed"


def test_numpy_functions_that_make_no_values_are_refused(build, tmp_path):
    class Stranger:
        def __reduce__(self):
            return np.fromfile, ("/etc/hostname",)

    torch.save({"state_dict": {"a": torch.ones(1)}, "args": Stranger()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match="holds more than tensors and plain containers"):
        build("tiny-vit", str(tmp_path / "evil.pt"))
