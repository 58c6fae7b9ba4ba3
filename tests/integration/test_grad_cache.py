"""`trainer.grad_cache_chunk` from the command line: the same weights, on one device and on two."""

import json

import pytest
import torch

from .flickr8k import make_flickr8k

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
    make_flickr8k(folder / "flickr8k", num_photos=16)
    return folder


def command(photos, folder, *more):
    return (
        "data=flickr8k",
        f"data.root={photos}/flickr8k",
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
@pytest.mark.parametrize(
    "options",
    [(), ("callbacks=[default,ema]", "model.lora={rank:2}", "layer_decay=0.7", "model.grad_checkpointing=true")],
)
def test_chunks_train_the_weights_of_the_whole_batch_on_one_device_and_on_two(run_script, photos, tmp_path, options):
    if "model.lora={rank:2}" in options:
        pytest.importorskip("peft", reason="pip install 'i0t[lora]'")
    trained = {}
    for name, more in {
        "whole": ("trainer=cpu", "data.batch_size=8"),
        "chunks": ("trainer=cpu", "data.batch_size=8", "trainer.grad_cache_chunk=3"),
        "two": ("trainer=ddp_cpu", "data.batch_size=4", "trainer.grad_cache_chunk=3"),
    }.items():
        done = run_script("train.py", *command(photos, tmp_path / name, *more, *options))
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
