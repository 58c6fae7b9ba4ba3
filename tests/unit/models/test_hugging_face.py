"""BLIP and ALIGN beside plain transformers code, from tiny random models in a folder."""

import builtins
import math
import pickle

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from i0t.config import conf_dir
from i0t.models.align import Align
from i0t.models.blip import Blip

transformers = pytest.importorskip("transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "cat", "dog", "two", "running", "word"]
BERT = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}


def save_tokenizer(folder):
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizerFast(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)


@pytest.fixture(scope="module")
def blip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blip")
    torch.manual_seed(0)
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.BlipConfig(
        text_config={**BERT, "encoder_hidden_size": 16, "pad_token_id": 0, "projection_dim": 8},
        vision_config={**vision, "intermediate_size": 32, "projection_dim": 8},
        image_text_hidden_size=12,
        projection_dim=8,
    )
    transformers.BlipForImageTextRetrieval(config).eval().save_pretrained(folder)
    transformers.BlipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def align_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("align")
    torch.manual_seed(0)
    vision = transformers.AlignVisionConfig(
        image_size=64, width_coefficient=0.1, depth_coefficient=0.1, hidden_dim=12, depth_divisor=4
    )
    config = transformers.AlignConfig(
        text_config={**BERT, "pad_token_id": 0}, vision_config=vision.to_dict(), projection_dim=32
    )
    config.temperature_init_value = 0.05
    model = transformers.AlignModel(config).eval()
    for module in model.vision_model.modules():
        if isinstance(module, torch.nn.Conv2d):  # the usual small weights vanish through so many layers
            torch.nn.init.kaiming_normal_(module.weight)
    model.save_pretrained(folder)
    size = {"height": 64, "width": 64}
    transformers.EfficientNetImageProcessor(size=size, do_center_crop=False).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def build(kind, folder, **given):
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / f"{kind.__name__.lower()}.yaml"))
    node = {key: value for key, value in node.items() if key != "_target_"}
    return kind(**node | {"architecture": str(folder), "pretrained": str(folder)} | given)


@pytest.fixture(params=[Blip, Align], ids=["blip", "align"])
def kind_and_folder(request):
    return request.param, request.getfixturevalue(f"{request.param.__name__.lower()}_folder")


def pixels(folder, photos):
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    return processor(images=[photo.convert("RGB") for photo in photos], return_tensors="pt")["pixel_values"]


def test_blip_scores_are_those_of_transformers(blip_folder, photos, captions, encode):
    reference = transformers.BlipForImageTextRetrieval.from_pretrained(blip_folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(blip_folder)
    tokens = tokenizer(captions, padding=True, truncation=True, max_length=35, return_tensors="pt")
    with torch.no_grad():
        expected = reference(
            input_ids=tokens["input_ids"],
            attention_mask=tokens["attention_mask"],
            pixel_values=pixels(blip_folder, photos),
            use_itm_head=False,
        ).itm_score
    model = build(Blip, blip_folder)
    images, texts = encode(model)
    assert model.embed_dim == images.shape[1] == 12
    cosines = torch.nn.functional.normalize(images, dim=1) @ torch.nn.functional.normalize(texts, dim=1).T
    assert (cosines - expected).abs().max() <= 1e-5
    assert (images.norm(dim=1) - 1).abs().max() > 0.01
    assert model.logit_values() == (pytest.approx(1 / 0.07), None)


def test_align_logits_are_those_of_transformers(align_folder, photos, captions, encode):
    reference = transformers.AlignModel.from_pretrained(align_folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(align_folder)
    tokens = tokenizer(captions, padding=True, truncation=True, max_length=40, return_tensors="pt")
    with torch.no_grad():
        expected = reference(**tokens, pixel_values=pixels(align_folder, photos)).logits_per_image
    model = build(Align, align_folder, context_length=40)
    images, texts = encode(model)
    scale, bias = model.logit_values()
    assert scale == pytest.approx(1 / reference.temperature.item(), rel=1e-5)
    assert bias is None
    cosines = torch.nn.functional.normalize(images, dim=1) @ torch.nn.functional.normalize(texts, dim=1).T
    assert (scale * cosines - expected).abs().max() <= 1e-4


def test_texts_have_one_length_and_padding_changes_nothing(blip_folder):
    short, long = build(Blip, blip_folder, context_length=10), build(Blip, blip_folder, context_length=35)
    texts = ["a photo of a cat", "dog"]
    assert short.tokenizer(texts).shape == (2, 10)
    assert short.tokenizer(["cat " * 99]).shape == (1, 10)
    with torch.no_grad():
        a, b = (model.eval().encode_text(model.tokenizer(texts)) for model in (short, long))
    assert (a - b).abs().max() <= 1e-5


def test_texts_that_are_cut_are_counted(kind_and_folder):
    kind, folder = kind_and_folder
    model = build(kind, folder, context_length=10)
    texts = ["", "dog", *("cat " * n for n in (7, 8, 9, 40)), "A  photo, of-a cat!" * 2, "unheard " * 9]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = [len(tokenizer(text)["input_ids"]) > 10 for text in texts]
    assert expected[2:6] == [False, False, True, True]
    assert [model.count_truncated([text]) for text in texts] == expected
    assert model.count_truncated(texts) == sum(expected)


def test_transform_and_tokenizer_reach_other_processes(kind_and_folder, photos):
    kind, folder = kind_and_folder
    model = build(kind, folder, context_length=20)
    transform, tokenizer = pickle.loads(pickle.dumps((model.transform, model.tokenizer)))
    assert torch.equal(transform(photos[2]), model.transform(photos[2]))
    assert torch.equal(tokenizer(["a cat"]), model.tokenizer(["a cat"]))
    assert "0x" not in repr(model.transform)


def test_a_checkpoint_rebuilds_it_without_weights(kind_and_folder, tmp_path, monkeypatch):
    kind, folder = kind_and_folder
    model = build(kind, folder, logit_scale=50.0, context_length=20)
    assert model.weights_files == (folder / "model.safetensors",)
    rebuilt = build(kind, folder, pretrained="nobody/nothing", load_weights=False, context_length=20)
    assert rebuilt.identity()["weights"] != model.identity()["weights"]
    rebuilt.load_state_dict(model.state_dict())
    assert rebuilt.identity() == model.identity()
    assert rebuilt.log_logit_scale.item() == pytest.approx(math.log(50))
    save_file({f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "w.safetensors")
    again = build(kind, folder, pretrained=str(tmp_path / "w.safetensors"), context_length=20)
    assert again.identity() == model.identity()


def test_locks_and_what_is_not_trained(kind_and_folder):
    kind, folder = kind_and_folder
    model = build(kind, folder, lock_image=True, context_length=20).train()
    assert not any(p.requires_grad for module in model.clip.image_modules for p in module.parameters())
    assert not any(m.training for module in model.clip.image_modules for m in module.modules())
    assert all(module.training for module in model.clip.text_modules)
    free = build(kind, folder, context_length=20).train()
    torch.manual_seed(0)
    side = 32 if kind is Blip else 64
    output = free(torch.randn(3, 3, side, side), free.tokenizer(["a cat", "dog", "two"]))
    (output.logit_scale * (output.image_features * output.text_features).sum()).backward()
    unused = [name for name, p in free.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused, "DDP would wait for these"


def test_files_without_all_weights_are_refused(blip_folder, tmp_path):
    config = transformers.BlipConfig.from_pretrained(blip_folder)
    transformers.BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"lacks \d+ tensors of the model, first ") as error:
        build(Blip, blip_folder, pretrained=str(tmp_path))
    assert "\n" not in str(error.value)


def test_a_name_that_is_not_here_is_one_line(blip_folder):
    with pytest.raises(ConnectionError, match=r"nobody/nothing is no folder.*hf download nobody/nothing") as error:
        build(Blip, "nobody/nothing", load_weights=False)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="cannot read it"):
        build(Blip, conf_dir())


def test_without_transformers_the_line_says_what_to_install(blip_folder, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "transformers":
            raise ImportError("No module named 'transformers'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'i0t\[transformers\]'"):
        build(Blip, blip_folder)
