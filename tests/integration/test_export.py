"""A run leaves: plain open_clip and NumPy give what i0t gives."""

import json
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import torch
import yaml
from PIL import Image

from i0t import engine, runs
from i0t.config import compose
from i0t.engine.rows import checkpoint_row
from i0t.engine.weights import build_from_checkpoint
from i0t.export import main
from i0t.gap_reducers import GapReducer, Posthoc

from .flickr8k import make_flickr8k

SHAPE = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
RUN = (
    "data=flickr8k",
    "data.num_workers=0",
    "data.batch_size=8",
    "data.eval_batch_size=20",
    "trainer.max_steps=3",
    "trainer.val_check_interval=3",
    "trainer.enable_progress_bar=false",
    "scheduler.warmup_steps=1",
    "compare=baseline",
    "evaluation=[gap]",
    "logger=[csv]",
    "optimizer.lr=1e-2",
)
CASES = {
    "async_bn": ["gap_reducer=async_bn", "model.dropout=.1"],
    "posthoc": ["gap_reducer=posthoc", "gap_reducer.fit_split=train"],
    "none": ["gap_reducer=none"],
    "long_clip": ["model=long_clip", "gap_reducer=mean_shift", "gap_reducer.fit_split=val"],
    "lora": ["gap_reducer=none", "+model.lora={rank: 2, alpha: 4, dropout: 0}"],
    "siglip": ["gap_reducer=none", "loss=siglip", "model.logit_bias=-10"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with photos and an architecture of a name that no other test registers."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "export-small.json").write_text(json.dumps(SHAPE))
    make_flickr8k(folder / "flickr8k", num_photos=20)
    return folder


@pytest.fixture(scope="module")
def finished_run(world):
    """Trains a case once; returns its folder."""
    done = {}

    def train(case):
        if case not in done:
            done[case] = world / case
            model = [f"model.architecture={world / 'export-small.json'}", "model.pretrained=null"]
            chosen = [] if any(option.startswith("model=") for option in CASES[case]) else ["model=open_clip"]
            places = [f"data.root={world / 'flickr8k'}", f"paths.output_dir={done[case]}", "report=false"]
            engine.train(compose("train", [*chosen, *RUN, *model, *CASES[case], *places]))
        return done[case]

    return train


def model_of(run):
    checkpoint = runs.read_checkpoint(run / runs.CHECKPOINT)
    model = build_from_checkpoint(checkpoint[runs.CHECKPOINT_KEY]["config"]["model"], checkpoint, run)
    model.merge_adapters()  # as eval.py has it
    return model.eval(), checkpoint_row(checkpoint, dim=model.embed_dim)


@pytest.fixture(scope="module")
def inputs(world):
    photos = sorted((world / "flickr8k").rglob("*.jpg"))[:6]
    return [Image.open(photo).convert("RGB") for photo in photos], ["a dog on grass", "two boats", "a red bus " * 40]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_plain_open_clip_and_numpy_give_the_features_of_i0t(finished_run, inputs, tmp_path, case):
    run = finished_run(case)
    folder = tmp_path / "mine"
    main([str(run), "--output", str(folder)])
    photos, texts = inputs
    model, row = model_of(run)

    plain, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    pixels = torch.stack([transform(photo) for photo in photos])
    tokens = tokenizer(texts)
    with torch.no_grad():
        image, text = plain.eval().encode_image(pixels), plain.encode_text(tokens)
        ours = model(torch.stack([model.transform(photo) for photo in photos]), model.tokenizer(texts))
        reduced = [torch.nn.functional.normalize(f, dim=-1) for f in ours[:2]]
        if row is not None:  # in float64, as centring amplifies the rounding of float32
            reduced = list(row.reducer.double()(*(f.double() for f in ours[:2])))
        bias = getattr(plain, "logit_bias", None)
    assert torch.equal(tokens, model.tokenizer(texts))
    torch.testing.assert_close(image, ours.image_features, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(text, ours.text_features, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(plain.logit_scale.exp(), ours.logit_scale)
    assert (bias is None) == (ours.logit_bias is None)
    if bias is not None:
        torch.testing.assert_close(bias, ours.logit_bias)

    found = applied_by_numpy_alone(folder, image=image.numpy(), text=text.numpy())
    for modality, expected in zip(("image", "text"), reduced, strict=True):
        np.testing.assert_allclose(found[modality], expected.numpy(), atol=1e-6)


def applied_by_numpy_alone(folder, **features):
    """The application in a process of its own, which must need nothing but NumPy and the standard library."""
    program = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from apply_reducer import GapReducer
reducer = GapReducer()
for modality in ("image", "text"):
    rows = np.load(f"{sys.argv[1]}/{modality}.npy")
    np.save(f"{sys.argv[1]}/{modality}_reduced.npy", getattr(reducer, modality)(rows))
foreign = {"torch", "safetensors", "i0t", "scipy", "open_clip"} & set(sys.modules)
assert not foreign, foreign
"""
    for modality, rows in features.items():
        np.save(folder / f"{modality}.npy", rows)
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True, timeout=120)
    return {modality: np.load(folder / f"{modality}_reduced.npy") for modality in features}


@pytest.mark.slow
def test_the_weights_load_by_the_name_of_the_architecture(finished_run, inputs, tmp_path):
    folder = tmp_path / "mine"
    main([str(finished_run("none") / runs.CHECKPOINT), "--output", str(folder)])
    plain = open_clip.create_model("export-small", pretrained=str(folder / "open_clip_model.safetensors")).eval()
    model, _ = model_of(finished_run("none"))
    pixels = torch.stack([model.transform(photo) for photo in inputs[0]])
    with torch.no_grad():
        torch.testing.assert_close(plain.encode_image(pixels), model.encode_image(pixels), atol=1e-6, rtol=1e-6)


@pytest.mark.slow
def test_a_reducer_of_i0t_reduce_in_place_of_the_runs_own(finished_run, tmp_path, capsys):
    torch.manual_seed(0)
    reducer = Posthoc(32, fit_split="train")
    reducer.fit_image(torch.randn(9, 32) + 1)
    reducer.fit_text(torch.randn(9, 32) - 1)
    reducer.save(tmp_path / "mine.safetensors")
    main(
        [str(finished_run("none")), "--output", str(tmp_path / "out"), "--reducer", str(tmp_path / "mine.safetensors")]
    )
    found = GapReducer.load(tmp_path / "out" / "gap_reducer.safetensors")
    assert torch.equal(found.image_mean, reducer.image_mean)
    assert found.fit_split == "train"
    assert "Posthoc" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| Posthoc | train | 9 | 9 |" in card

    narrow = Posthoc(7, fit_split="train")
    narrow.fit_image(torch.randn(9, 7))
    narrow.save(tmp_path / "narrow.safetensors")
    with pytest.raises(SystemExit) as left:
        main(
            [
                str(finished_run("none")),
                "--output",
                str(tmp_path / "o"),
                "--reducer",
                str(tmp_path / "narrow.safetensors"),
            ]
        )
    assert left.value.code == 2
    assert "is for width 7, the model's is 32" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_the_card_is_filled_from_the_run(finished_run, tmp_path):
    run = finished_run("posthoc")
    main([str(run), "--output", str(tmp_path / "out"), "--license", "mit"])
    card = (tmp_path / "out" / "README.md").read_text()
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["library_name"] == "open_clip"
    assert metadata["license"] == "mit"
    assert "| Posthoc | train | 20 | 100 |" in card
    assert (run / "table.md").read_text().strip() in card
    assert "| loss | clip |" in card
    assert "| steps | 3 |" in card
    assert 'open_clip.create_model("local-dir:<this folder>")' in card
    assert 'open_clip.get_tokenizer("local-dir:<this folder>")' in card


@pytest.mark.slow
def test_what_is_there_stays_unless_asked(finished_run, tmp_path, capsys):
    run, out = str(finished_run("none")), tmp_path / "out"
    main([run, "--output", str(out)])
    before = (out / "open_clip_model.safetensors").stat().st_mtime_ns
    for arguments, message in (
        ([run, "--output", str(out)], f"{out} exists; --overwrite replaces it"),
        ([run, "--output", str(tmp_path), "--overwrite"], "is no export, and is not replaced"),
        ([str(tmp_path / "nothing.ckpt")], "there is no file"),
        ([run, "--private"], "--push-to-hub OWNER/NAME"),
        ([run, "--outptu", "x"], "unrecognized arguments"),
    ):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        said = capsys.readouterr().err
        assert left.value.code == 2
        assert message in said
        assert len(said.splitlines()) == 1
    assert (out / "open_clip_model.safetensors").stat().st_mtime_ns == before
    main([run, "--output", str(out), "--overwrite"])
    assert (out / "open_clip_model.safetensors").stat().st_mtime_ns != before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_model_that_open_clip_does_not_have(tmp_path, capsys):
    overrides = ["debug=tiny", f"paths.output_dir={tmp_path / 'run'}", "report=false", f"data.root={tmp_path / 'data'}"]
    engine.train(compose("train", overrides))
    with pytest.raises(SystemExit) as left:
        main([str(tmp_path / "run")])
    assert left.value.code == 2
    assert "open_clip has no model like MadTiny" in capsys.readouterr().err
    assert not (tmp_path / "run" / "export").exists()
