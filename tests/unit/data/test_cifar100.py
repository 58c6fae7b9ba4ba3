import hashlib
import pickle

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR100

from i0t.data.cifar100 import Cifar100DataModule

NAMES = ["apple", "aquarium_fish", "baby"]


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """CIFAR-100's files with 7 and 5 images of 3 classes, and their checksums."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    rng = np.random.default_rng(0)
    counts = {"train": 7, "test": 5}
    pixels = {name: rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8) for name, count in counts.items()}
    contents = {
        name: {"data": data.reshape(len(data), -1), "fine_labels": [i % 3 for i in range(len(data))]}
        for name, data in pixels.items()
    }
    sums = {}
    for name, content in {**contents, "meta": {"fine_label_names": NAMES}}.items():
        (folder / name).write_bytes(pickle.dumps(content))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    datamodule = Cifar100DataModule(
        root=str(tmp_path),
        download=False,
        templates=["a photo of a {c}."],
        caption_template="a photo of a {c}.",
        limit=None,
        eval_batch_size=3,
        num_workers=0,
    )
    datamodule.bind(
        transform=lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1).float(),
        tokenizer=lambda texts: torch.ones(len(texts), 4, dtype=torch.int64),
    )
    return datamodule, pixels


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_labels_and_names_are_those_of_the_files(cifar100, tmp_path, split):
    datamodule, pixels = cifar100
    info = datamodule.describe(split)
    count = len(pixels[split])
    images = torch.cat([batch.images for batch in datamodule.eval_dataloader(split)])
    assert torch.equal(images, torch.from_numpy(pixels[split]).float())
    assert info.labels["class"].tolist() == [i % 3 for i in range(count)]
    assert list(info.class_names["class"]) == ["apple", "aquarium fish", "baby"]
    assert info.image_ids[1] == f"{split}/1"
    whole = {"train": "50,000", "test": "10,000"}[split]
    assert info.provenance["warnings"] == [
        f"cifar100 {split}: {count} images, where the published split has {whole}",
        f"cifar100 {split}: 3 classes, where the published split has 100",
    ]
    assert np.array_equal(datamodule.images(split, [2])[0], pixels[split][2].transpose(1, 2, 0))
    folder = tmp_path / "cifar-100-python"
    assert datamodule.files(split) == [folder / "meta", folder / split]


def test_files_that_are_missing_or_damaged_are_an_error_that_names_the_mend(cifar100, tmp_path):
    datamodule, _ = cifar100
    (tmp_path / "cifar-100-python" / "test").write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"data\.root=.* has no whole folder cifar-100-python .*data\.download=true"):
        datamodule.describe("test")


def test_there_is_no_validation_split(cifar100):
    with pytest.raises(ValueError, match="these data have no split 'val'; choose one of train, test"):
        cifar100[0].describe("val")
