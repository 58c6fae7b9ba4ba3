"""Densely Captioned Images, on a small copy of its layout."""

import json

import pytest
import torch
from PIL import Image

from i0t.data.base import MissingSplitError
from i0t.data.dci import DciDataModule

SPLITS = {"train": [0, 1, 2, 3], "valid": [5], "test": [6, 4]}
CAPTIONS = {
    1: ("", "A boat.  It is red! Nobody\nis in it.", "A boat."),
    2: ("Two\tdogs\nplay.", "They run.", "Two dogs play."),
    6: ("  ", "Is it a bird?\nYes.", "Is it a bird?"),
}


def annotation(number):
    short, extra, _ = CAPTIONS.get(number, (f"Photo {number}.", "More of it. And more.", ""))
    return {"image": f"sa_{number}.jpg", "short_caption": short, "extra_caption": extra, "mask_data": {}}


def caption(number):
    return CAPTIONS[number][2] if number in CAPTIONS else f"Photo {number}."


@pytest.fixture
def root(tmp_path):
    for folder in ("annotations", "photos"):
        (tmp_path / folder).mkdir()
    for number in range(7):
        (tmp_path / "annotations" / f"{9 - number}.json").write_text(json.dumps(annotation(number)))
        Image.new("RGB", (6, 5), (30 * number, 0, 0)).save(tmp_path / "photos" / f"sa_{number}.jpg", quality=100)
    splits = {split: [f"{9 - number}.json" for number in numbers] for split, numbers in SPLITS.items()}
    (tmp_path / "splits.json").write_text(json.dumps(splits))
    return tmp_path


def module(root, **options):
    defaults = {
        "train_on": "train",
        "full_captions": False,
        "root": str(root),
        "captions_per_image": None,
        "prompt_prefix": "",
        "lowercase_first": False,
        "max_caption_chars": None,
        "only_present": False,
        "limit": None,
        "batch_size": 2,
        "eval_batch_size": 2,
        "num_workers": 0,
        "train_seed": 0,
    }
    made = DciDataModule(**defaults | options)
    made.bind(
        transform=lambda image: torch.tensor(image.getpixel((0, 0)), dtype=torch.float32).reshape(3, 1, 1),
        tokenizer=lambda texts: torch.tensor([[len(text)] for text in texts]),
    )
    return made


@pytest.mark.parametrize(("split", "key"), [("train", "train"), ("val", "valid"), ("test", "test")])
def test_splits_and_captions_are_the_published_ones(root, split, key):
    info = module(root).describe(split)
    assert info.image_ids == [f"sa_{number}.jpg" for number in SPLITS[key]]
    assert list(info.captions) == [caption(number) for number in SPLITS[key]]
    assert info.text_image_index.tolist() == list(range(len(SPLITS[key])))


def test_all_images_are_trained_on_as_in_the_paper_and_the_others_say_so(root):
    datamodule = module(root, train_on="all")
    assert datamodule.describe("train").image_ids == [f"sa_{number}.jpg" for number in (6, 5, 4, 3, 2, 1, 0)]
    assert datamodule.training_captions() == [caption(number) for number in (6, 5, 4, 3, 2, 1, 0)]
    train, test = (datamodule.describe(split).provenance["warnings"] for split in ("train", "test"))
    assert train == ["dci train: 7 images, where the published split has 7,805"]
    assert test[0] == "dci test: 2 images, where the published split has 112"
    assert test[1].startswith("dci test: these images are among those that data.train_on=all trains on")
    assert not any("among those" in warning for warning in module(root).describe("test").provenance["warnings"])


def test_full_captions_are_both_on_one_line(root):
    captions = module(root, full_captions=True).describe("train").captions
    assert captions[0] == "Photo 0. More of it. And more."
    assert captions[1] == "A boat.  It is red! Nobody is in it."
    assert captions[2] == "Two dogs play. They run."


def test_training_gives_every_image_with_its_caption(root):
    datamodule = module(root)
    loader = datamodule.train_dataloader()
    loader.sampler.set_epoch(0)
    seen = {}
    for batch in loader:
        for red, row, length in zip(batch.images[:, 0, 0, 0], batch.sample_id, batch.tokens[:, 0], strict=True):
            seen[int(row)] = (round(float(red) / 30), int(length))
    assert seen == {row: (number, len(caption(number))) for row, number in enumerate(SPLITS["train"])}


def test_files_are_the_split_the_photos_and_their_annotations(root):
    names = [path.name for path in module(root).files("test")]
    assert names == ["splits.json", "sa_6.jpg", "sa_4.jpg", "3.json", "5.json"]


def test_annotations_may_stand_in_complete_and_be_listed_without_their_suffix(root):
    (root / "annotations").rename(root / "complete")
    (root / "splits.json").write_text(json.dumps({"train": ["9"], "valid": ["4"], "test": ["3.json"]}))
    assert list(module(root).describe("test").captions) == [caption(6)]
    assert module(root, train_on="all").describe("train").num_images == 7


def test_missing_photos_are_named_or_left_out(root):
    (root / "photos" / "sa_4.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of the 2 images that splits\.json name are not there: sa_4\.jpg"):
        module(root).describe("test")
    info = module(root, only_present=True).describe("test")
    assert info.image_ids == ["sa_6.jpg"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("splits.json", None, r"has no splits\.json"),
        ("splits.json", "[1]", r"splits\.json must be an object"),
        ("splits.json", '{"train": 3}', r"splits\.json must be an object"),
        ("annotations/3.json", None, r"cannot read .*annotations/3\.json"),
        ("annotations/3.json", "{", r"cannot read .*annotations/3\.json.*is it a whole JSON file"),
        ("annotations/3.json", '{"image": "a.jpg"}', r"annotations/3\.json is not an annotation of DCI"),
        ("annotations/3.json", "[]", r"annotations/3\.json is not an annotation of DCI"),
        (
            "annotations/3.json",
            '{"image": "sa_6.jpg", "short_caption": "", "extra_caption": ""}',
            r"1 of 2 images in splits\.json have no caption, first sa_6\.jpg",
        ),
    ],
)
def test_missing_and_damaged_files_are_one_line(root, file, content, message):
    if content is None:
        (root / file).unlink()
    else:
        (root / file).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        module(root).describe("test")
    assert "\n" not in str(error.value)


def test_a_split_that_is_not_listed_and_a_choice_that_is_none_are_named(root):
    (root / "splits.json").write_text(json.dumps({"train": ["9.json"]}))
    with pytest.raises(MissingSplitError, match=r"splits\.json has no split 'valid'; it has train"):
        module(root).describe("val")
    with pytest.raises(ValueError, match=r"data\.train_on='everything' does not exist; choose train or all"):
        module(root, train_on="everything")
    for file in (root / "annotations").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=r"has no annotations/\*\.json \(nor complete/\*\.json\)"):
        module(root, train_on="all").describe("train")
