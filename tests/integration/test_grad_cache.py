"""`trainer.grad_cache_chunk` from the command line: the same weights, on one device and on two."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A small ViT's architecture, and photos of random colours under Flickr8k's names."""
    folder = tmp_path_factory.mktemp("grad_cache")
    (folder / "small_vit_in_chunks.json").write_text(json.dumps(SMALL))
    generator = np.random.default_rng(0)
    (folder / "images").mkdir()
    tokens = []
    for split in ("train", "dev", "test"):
        names = [f"{split}_{i}.jpg" for i in range(16)]
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names) + "\n")
        for name in names:
            color = generator.integers(0, 255, size=(6, 8, 3), dtype=np.uint8)
            Image.fromarray(color).resize((60, 60)).save(folder / "images" / name)
            tokens += [f"{name}#{i}\tA thing in {generator.integers(99)} colours ." for i in range(5)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(tokens) + "\n")
    return folder


def command(photos, folder, *more):
    return (
        "data=flickr8k",
        f"data.root={photos}",
        "data.num_workers=0",
        "model=open_clip",
        f"model.architecture={photos}/small_vit_in_chunks.json",
        "model.pretrained=null",
        "model.crop_scale=null",
        "trainer.precision=64-true",
        "trainer.max_steps=5",
        "trainer.val_check_interval=5",
        "trainer.check_val_every_n_epoch=null",
        "scheduler.warmup_steps=1",
        "optimizer.lr=1e-3",
        "compare=baseline",
        "evaluation=[gap]",
        "report=false",
        "logger=[csv]",
        f"hydra.run.dir={folder}",
        *more,
    )


def weights(folder):
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if name.startswith("model.")}


@pytest.mark.slow
@pytest.mark.ddp
def test_chunks_train_the_weights_of_the_whole_batch_on_one_device_and_on_two(run_script, photos, tmp_path):
    trained = {}
    for name, options in {
        "whole": ("trainer=cpu", "data.batch_size=8"),
        "chunks": ("trainer=cpu", "data.batch_size=8", "trainer.grad_cache_chunk=3"),
        "two": ("trainer=ddp_cpu", "data.batch_size=4", "trainer.grad_cache_chunk=3"),
    }.items():
        done = run_script("train.py", *command(photos, tmp_path / name, *options))
        assert done.returncode == 0, done.stderr
        trained[name] = weights(tmp_path / name)
    for name in ("chunks", "two"):
        for key, value in trained["whole"].items():
            found = trained[name][key]
            torch.testing.assert_close(found, value, rtol=1e-8, atol=1e-10, msg=lambda m, k=key: f"{k} {m}")


def test_what_cannot_be_cut_is_said_before_training(run_script, tmp_path):
    done = run_script("train.py", "trainer.grad_cache_chunk=16", f"hydra.run.dir={tmp_path}/run")
    assert done.returncode == 2
    assert "clip.visual.layers.1 is a batch norm, whose statistics of a chunk are not those of the batch" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()
