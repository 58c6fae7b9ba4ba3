"""Small architectures of open_clip's kinds, real JPEG photos, and a model built with the shipped defaults."""

import json

import numpy as np
import open_clip
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from i0t.config import conf_dir
from i0t.models.long_clip import LongClip
from i0t.models.open_clip import OpenClip

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
ARCHITECTURES = {
    "tiny-vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-vit-quickgelu": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-vit-wide": {"embed_dim": 40, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-resnet": {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": TEXT,
    },
    "tiny-bias": {
        "embed_dim": 24,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": VIT,
        "text_cfg": {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
    "tiny-bias-row": {
        "embed_dim": 24,
        "init_logit_bias": -10,
        "nonscalar_logit_scale": True,
        "vision_cfg": VIT,
        "text_cfg": TEXT,
    },
    "tiny-custom": {
        "embed_dim": 24,
        "vision_cfg": {**VIT, "qk_norm": True, "attentional_pool": True, "attn_pooler_heads": 2},
        "text_cfg": {**TEXT, "scale_fc": True},
    },
    # As OpenAI builds them: heads of 64, their number told by the widths.
    "tiny-openai-vit-quickgelu": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {**VIT, "head_width": 64},
        "text_cfg": TEXT,
    },
    "tiny-openai-resnet-quickgelu": {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None},
        "text_cfg": TEXT,
    },
    "tiny-timm": {
        "embed_dim": 24,
        "vision_cfg": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
        "text_cfg": TEXT,
    },
    "tiny-hub-tokenizer": {
        "embed_dim": 24,
        "vision_cfg": VIT,
        "text_cfg": {**TEXT, "context_length": 12, "hf_tokenizer_name": "nobody/nothing"},
    },
}


@pytest.fixture(scope="session", autouse=True)
def architectures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model_configs")
    for name, config in ARCHITECTURES.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return folder


@pytest.fixture
def tags(monkeypatch):
    """Published weights of the small architecture: some with QuickGELU, some without."""
    common = {"hf_hub": "nobody/tiny/", "url": "", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    common |= {"interpolation": "bicubic", "resize_mode": "squash"}
    openai, quick = {**common, "quick_gelu": True}, {**common, "quick_gelu": True}
    table = open_clip.pretrained._PRETRAINED
    monkeypatch.setitem(table, "tiny-vit", {"openai": openai, "quick_400m": quick, "smooth_2b": common})
    monkeypatch.setitem(table, "tiny-vit-quickgelu", {"openai": openai, "quick_400m": quick})


def arguments(stem):
    """The shipped defaults of a ready file that stands alone."""
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / f"{stem}.yaml"))
    return {key: value for key, value in node.items() if key != "_target_"}


@pytest.fixture(scope="session")
def build():
    """Builds an OpenClip with the shipped defaults and what is given."""

    def build(architecture, pretrained=None, **given):
        return OpenClip(**arguments("open_clip") | {"architecture": architecture, "pretrained": pretrained} | given)

    return build


@pytest.fixture(scope="session")
def build_long():
    """Builds a LongClip with the shipped defaults and what is given."""

    def build(architecture, pretrained=None, **given):
        return LongClip(**arguments("long_clip") | {"architecture": architecture, "pretrained": pretrained} | given)

    return build


@pytest.fixture(scope="session")
def plain():
    """A randomly initialised model as plain open_clip makes it, reproducible by name."""

    def plain(architecture, seed=0):
        torch.manual_seed(seed)
        return open_clip.create_model(architecture).eval()

    return plain


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Three JPEGs of different shapes, one of them gray."""
    folder, generator = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    images = []
    for i, (height, width) in enumerate([(90, 120), (200, 61), (50, 50)]):
        coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        image = image.convert("L") if i == 2 else image
        image.save(folder / f"{i}.jpg", quality=95)
        images.append(Image.open(folder / f"{i}.jpg"))
    return images


CAPTIONS = ["a photo of a cat.", "Two DOGS, running — fast!", "word " * 100]


@pytest.fixture(scope="session")
def captions():
    return CAPTIONS


WORDS = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "a", "photo", "of", "cat", "dog", "red"]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """A tokenizer of words, as transformers saves it."""
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="[CLS]", eos_token="[SEP]", **special)
    path = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(path)
    return path


@pytest.fixture
def encode(photos, captions):
    """Features of the photos and captions through a model's own transform and tokenizer."""

    def encode(model):
        with torch.no_grad():
            output = model.eval()(torch.stack([model.transform(p) for p in photos]), model.tokenizer(captions))
        return output.image_features, output.text_features

    return encode
