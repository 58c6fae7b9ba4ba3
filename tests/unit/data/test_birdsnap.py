import logging

import pytest
from PIL import Image

from i0t.data.birdsnap import BirdsnapDataModule


@pytest.fixture
def birdsnap(tmp_path):
    for name in ("Yellow_Warbler", "Acadian_Flycatcher"):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (5, 5)).save(tmp_path / "test" / name / "1.jpg")
    return BirdsnapDataModule(
        root=str(tmp_path),
        train_folder="train",
        test_folder="test",
        templates=["a photo of a {c}, a type of bird."],
        caption_template="a photo of a {c}.",
        limit=None,
        eval_batch_size=2,
        num_workers=0,
    )


def test_classes_are_named_after_their_folders_and_a_wrong_count_stands_beside_the_numbers(birdsnap, caplog):
    with caplog.at_level(logging.WARNING, logger="i0t"):
        info = birdsnap.describe("test")
    assert info.class_names["class"] == ("Acadian Flycatcher", "Yellow Warbler")
    assert info.prompts["class"].texts[0] == ["a photo of a Acadian Flycatcher, a type of bird."]
    assert info.labels["class"].tolist() == [0, 1]
    warnings = [
        "birdsnap test: 2 images, where the published split has 2,443",
        "birdsnap test: 2 classes, where the published split has 500",
    ]
    assert info.provenance["warnings"] == warnings
    assert [record.message for record in caplog.records] == warnings


def test_there_is_no_validation_split(birdsnap):
    with pytest.raises(ValueError, match="these data have no split 'val'; choose one of train, test"):
        birdsnap.describe("val")
