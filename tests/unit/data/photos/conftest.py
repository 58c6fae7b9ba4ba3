"""Stand-ins of the data sets: the same trees on disk with small JPEGs, and a model's transform and tokenizer."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

OPTIONS = {
    "captions_per_image": None,
    "prompt_prefix": "",
    "lowercase_first": False,
    "max_caption_chars": None,
    "only_present": False,
    "limit": None,
    "batch_size": 2,
    "eval_batch_size": 3,
    "num_workers": 0,
    "train_seed": 0,
}
TRANSFORM = transforms.Compose(
    [
        transforms.Resize(16, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(16),
        transforms.ToTensor(),
    ]
)
_LONGEST = 96


class ByteTokenizer:
    """Texts to their bytes, so that a test can read them back."""

    def __call__(self, texts):
        assert len(texts) > 0
        rows = [list(text.encode().ljust(_LONGEST, b"\0")[:_LONGEST]) for text in texts]
        return torch.tensor(rows, dtype=torch.int64)

    @staticmethod
    def read(tokens):
        return [bytes(row.tolist()).rstrip(b"\0").decode() for row in tokens]


def photo(seed, size=(40, 30)):
    """A smooth picture that no other seed has, ``size`` being (width, height)."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def save_photos(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        # Python's own hash of strings differs between processes.
        photo([number, *name.encode()], size=(40 - number % 3, 30 + number % 2)).save(folder / name, quality=92)


def captions_of(name, count=5):
    return [f"Caption {i} of {name}" for i in range(count)]


def karpathy_json(path, splits, *, filepath=None, cocoid=None, num_captions=5):
    """Writes Karpathy's format; ``splits`` maps a split to file names."""
    images = []
    for split, names in splits.items():
        for name in names:
            entry = {
                "filename": name,
                "split": split,
                "imgid": len(images),
                "sentences": [{"raw": c, "tokens": c.split()} for c in captions_of(name, num_captions)],
            }
            if filepath is not None:
                entry |= {"filepath": filepath(name), "cocoid": cocoid(name)}
            images.append(entry)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "dataset": "stand-in"}))


def coco_json(path, ids_and_names, num_captions=5):
    """Writes COCO's format, captions in another order than the images."""
    annotations = [
        {"id": 100 + i, "image_id": image_id, "caption": caption}
        for i in range(num_captions)
        for image_id, name in reversed(ids_and_names)
        for caption in [captions_of(name, num_captions)[i]]
    ]
    images = [{"id": image_id, "file_name": name, "height": 30, "width": 40} for image_id, name in ids_and_names]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


def flickr8k_names(split, count):
    return [f"{1000 + i}_{split}{i:04x}.jpg" for i in range(count)]


@pytest.fixture
def make():
    """The functions above, under one name: test modules import nothing from each other."""

    class Make:
        pass

    for function in (photo, save_photos, captions_of, karpathy_json, coco_json, flickr8k_names):
        setattr(Make, function.__name__, staticmethod(function))
    return Make


@pytest.fixture
def options():
    return dict(OPTIONS)


@pytest.fixture
def bind():
    """Binds a transform to 16 pixels and a tokenizer of bytes."""

    def bound(datamodule, train_transform=None):
        datamodule.bind(transform=TRANSFORM, tokenizer=ByteTokenizer(), train_transform=train_transform)
        return datamodule

    return bound


@pytest.fixture
def transform():
    return TRANSFORM


@pytest.fixture
def read_tokens():
    return ByteTokenizer.read


@pytest.fixture
def flickr8k_root(tmp_path):
    """Flickr8k with 7 images for training, 3 and 5: official files, five captions each but the first image's seven."""
    root = tmp_path / "flickr8k"
    root.mkdir()
    sizes = {"train": 7, "dev": 3, "test": 5}
    tokens = []
    for split, count in sizes.items():
        names = flickr8k_names(split, count)
        save_photos(root / "Flicker8k_Dataset", names)
        (root / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names) + "\n")
        for name in names:
            several = 7 if name == names[0] else 5
            tokens += [f"{name}#{i}\t{caption}" for i, caption in enumerate(captions_of(name, several))]
    (root / "Flickr8k.token.txt").write_text("\n".join(tokens) + "\n")
    return root
