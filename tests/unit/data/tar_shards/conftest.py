"""Shards of small real photos, written by the webdataset package."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import webdataset as wds
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision import transforms

from i0t.data import shard_positions, shard_stream
from i0t.data.cc12m import Cc12mDataModule


@pytest.fixture(scope="session")
def photos():
    """``photos(number)``: bytes of a JPEG of 60 x 40 pixels, another one for every number."""
    whole = np.concatenate([load_sample_image("china.jpg"), load_sample_image("flower.jpg")], axis=1)

    def photo(number):
        top, left = 37 * number % 380, 61 * number % 1200
        file = io.BytesIO()
        Image.fromarray(whole[top : top + 40, left : left + 60]).save(file, format="JPEG", quality=90)
        return file.getvalue()

    return photo


@pytest.fixture
def write_shard(tmp_path, photos):
    """Writes a tar of samples numbered from ``first``; ``change(number, sample)`` may alter or empty them."""

    def write(name, first, count, change=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with wds.TarWriter(str(path)) as tar:
            for number in range(first, first + count):
                sample = {"__key__": f"{number:06d}", "jpg": photos(number), "txt": f"photo {number}"}
                if change is not None:
                    change(number, sample)
                tar.write(sample)
        return path

    return write


def resize_to_16(image):
    return transforms.functional.to_tensor(transforms.functional.resize(image, [16, 16]))


def tokenize(texts):
    """A caption's bytes, padded to 24."""
    return torch.tensor([list(text.encode().ljust(24, b"\0")) for text in texts], dtype=torch.int64).reshape(-1, 24)


@pytest.fixture
def captions_of():
    """The captions of a batch."""

    def captions(batch):
        return [bytes(row.tolist()).rstrip(b"\0").decode() for row in batch.tokens]

    return captions


@pytest.fixture
def cc12m(tmp_path):
    """A data module on ``tmp_path`` with the given differences from small defaults."""

    def make(**options):
        defaults = {
            "root": str(tmp_path),
            "train_shards": "train/*.tar",
            "val_shards": "val/*.tar",
            "test_shards": None,
            "caption_key": "txt",
            "caption_field": None,
            "caption_part": "full",
            "shuffle_buffer": 8,
            "resampled": False,
            "limit": None,
            "train_eval_limit": 10,
            "batch_size": 4,
            "eval_batch_size": 4,
            "num_workers": 0,
            "train_seed": 0,
        }
        datamodule = Cc12mDataModule(**defaults | options)
        datamodule.bind(transform=resize_to_16, tokenizer=tokenize)
        return datamodule

    return make


@pytest.fixture
def cut():
    """Writes the first bytes of a file under another name."""

    def write(path: Path, size: int, name: str) -> Path:
        target = path.parent / name
        target.write_bytes(path.read_bytes()[:size])
        return target

    return write


@pytest.fixture
def position(monkeypatch):
    """Makes this process a rank among ``num_ranks``, and, where it is given, a worker of it."""

    def set_position(rank=0, num_ranks=1, worker=None):
        world = SimpleNamespace(
            is_available=lambda: True,
            is_initialized=lambda: True,
            get_rank=lambda: rank,
            get_world_size=lambda: num_ranks,
        )
        monkeypatch.setattr(shard_positions, "dist", world)
        if worker is not None:
            monkeypatch.setattr(shard_stream, "get_worker_info", lambda: SimpleNamespace(id=worker))

    return set_position
