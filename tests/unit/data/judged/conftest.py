"""Stand-ins of judged captions: small JPEGs, a transform to 8 pixels and a tokenizer of bytes."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

OPTIONS = {
    "prompt_prefix": "A photo depicts ",
    "max_caption_chars": None,
    "only_present": False,
    "limit": None,
    "eval_batch_size": 2,
    "num_workers": 0,
}
TRANSFORM = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])


def tokenize(texts):
    return torch.tensor([list(text.encode().ljust(64, b"\0")[:64]) for text in texts], dtype=torch.int64)


def save_images(folder, names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        seed = np.random.default_rng(list(name.encode()))
        Image.fromarray(seed.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(folder / name, format="JPEG")


@pytest.fixture
def options():
    return dict(OPTIONS)


@pytest.fixture
def images():
    return save_images


@pytest.fixture
def bind():
    def bound(datamodule):
        datamodule.bind(transform=TRANSFORM, tokenizer=tokenize)
        return datamodule

    return bound


@pytest.fixture
def rows_of():
    """What a split says of every judgement, in words instead of row numbers; words come without the prefix."""

    def rows(datamodule):
        info = datamodule.describe("test")
        judged, prefix = info.judgements, datamodule.prompt_prefix
        assert all(text.startswith(prefix) for text in info.captions)
        texts = [text.removeprefix(prefix) for text in info.captions]
        assert len(set(texts)) == len(texts)
        assert len(set(info.image_ids)) == info.num_images
        references = [[] for _ in judged.candidates]
        for number, text in judged.references.tolist():
            references[number].append(texts[text])
        return [
            (info.image_ids[image], texts[text], references[number], judged.ratings[number].tolist())
            for number, (image, text) in enumerate(judged.candidates.tolist())
        ]

    return rows


@pytest.fixture
def pairs_of():
    """The true pairs of a split, as (image, text) in words."""

    def pairs(datamodule):
        info = datamodule.describe("test")
        texts = [text.removeprefix(datamodule.prompt_prefix) for text in info.captions]
        named = [(info.image_ids[image], texts[text]) for image, text in info.pairs.tolist()]
        assert len(set(named)) == len(named)
        return set(named)

    return pairs
