"""What labelled images share, on folders of classes made here."""

import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from i0t.data import samplers
from i0t.data.image_files import UnreadableImage
from i0t.data.imagefolder import ImageFolderDataModule

CLASSES = {"night_heron": 3, "Ibis": 2, "common owl": 4}
IN_ORDER = ["Ibis", "common owl", "night_heron"]


def colour(name, number):
    return (40 * IN_ORDER.index(name) + 10, 50 * number, 7)


@pytest.fixture
def folders(tmp_path):
    """A test split: one plain colour per image, so that an image tells its class and number."""
    for name, count in CLASSES.items():
        (tmp_path / "test" / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (9, 6), colour(name, number)).save(tmp_path / "test" / name / f"{number}.png")
    (tmp_path / "test" / "Ibis" / "notes.txt").write_text("not an image")
    (tmp_path / "test" / ".hidden").mkdir()
    return tmp_path


@pytest.fixture
def imagefolder(folders):
    def make(**options):
        defaults = {
            "root": str(folders),
            "train_folder": "train",
            "val_folder": None,
            "test_folder": "test",
            "class_names": None,
            "templates": ["a photo of a {c}.", "the {c}, a {c}."],
            "caption_template": "one {c}",
            "limit": None,
            "eval_batch_size": 4,
            "num_workers": 0,
        }
        datamodule = ImageFolderDataModule(**defaults | options)
        datamodule.bind(
            transform=lambda image: torch.tensor(image.getpixel((0, 0)), dtype=torch.float32).reshape(3, 1, 1),
            tokenizer=lambda texts: torch.ones(len(texts), 5, dtype=torch.int64),
        )
        return datamodule

    return make


def test_labels_follow_the_sorted_folders_and_every_class_has_one_text_and_its_prompts(imagefolder):
    info = imagefolder().describe("test")
    assert info.num_images == 9
    assert info.class_names == {"class": ("Ibis", "common owl", "night heron")}
    assert info.labels["class"].tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    assert list(info.captions) == ["one Ibis", "one common owl", "one night heron"]
    assert info.pairs.tolist() == [[row, label] for row, label in enumerate([0, 0, 1, 1, 1, 1, 2, 2, 2])]
    assert info.text_image_index is None
    assert info.groups is None
    assert info.image_ids[2:4] == ["common owl/0.png", "common owl/1.png"]
    prompts = info.prompts["class"]
    assert prompts.texts[2] == ["a photo of a night heron.", "the night heron, a night heron."]
    assert prompts.class_names == ("Ibis", "common owl", "night heron")
    assert prompts.aggregate == "mean"
    assert prompts.description == 'mean of 2 templates such as "a photo of a {c}."'
    assert imagefolder(templates=["{c}"]).describe("test").prompts["class"].description == '"{c}"'


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_loaders_give_every_image_once_without_texts(imagefolder, monkeypatch, num_ranks):
    datamodule = imagefolder()
    info = datamodule.describe("test")
    found = []
    for rank in range(num_ranks):
        monkeypatch.setattr(samplers, "_world", lambda rank=rank: (rank, num_ranks))
        for batch in datamodule.eval_dataloader("test"):
            assert batch.tokens.shape == (0, 5)
            assert batch.tokens.dtype == torch.int64
            assert batch.text_image_index.shape == batch.text_id.shape == (0,)
            found += zip(batch.sample_id.tolist(), batch.images[:, :, 0, 0].tolist(), strict=True)
    expected = [colour(name, number) for name in IN_ORDER for number in range(CLASSES[name])]
    assert [row for row, _ in found] == list(range(9))
    assert [tuple(pixel) for _, pixel in found] == expected
    assert info.labels["class"].tolist() == [(red - 10) // 40 for red, _, _ in expected]


def test_batches_of_rows_images_and_files(imagefolder, folders):
    datamodule = imagefolder()
    (batch,) = datamodule.eval_dataloader("test", [[8, 0]])
    assert batch.sample_id.tolist() == [8, 0]
    assert batch.images[:, :, 0, 0].tolist() == [list(colour("night_heron", 2)), list(colour("Ibis", 0))]
    assert list(datamodule.eval_dataloader("test", [])) == [], "no batches are none, not this rank's share"
    (image,) = datamodule.images("test", [3])
    assert image.shape == (6, 9, 3)
    assert np.array_equal(image[0, 0], colour("common owl", 1))
    assert datamodule.files("test")[3] == folders / "test" / "common owl" / "1.png"
    assert len(datamodule.files("test")) == 9


@pytest.mark.parametrize(
    ("limit", "rows"), [(1, [0]), (3, [0, 3, 6]), (4, [0, 2, 4, 6]), (9, range(9)), (50, range(9))]
)
def test_a_limit_is_spread_over_the_classes(imagefolder, limit, rows):
    datamodule = imagefolder(limit=limit)
    whole, part = imagefolder().describe("test"), datamodule.describe("test")
    assert part.num_images == len(rows)
    assert list(part.image_ids) == [whole.image_ids[row] for row in rows]
    assert part.labels["class"].tolist() == [whole.labels["class"][row].item() for row in rows]
    assert part.pairs.tolist() == [[i, whole.labels["class"][row].item()] for i, row in enumerate(rows)]
    reds = torch.cat([batch.images[:, 0, 0, 0] for batch in datamodule.eval_dataloader("test")])
    assert ((reds - 10) / 40).tolist() == part.labels["class"].tolist()
    assert datamodule.images("test", [len(rows) - 1])[0][0, 0, 0] == reds[-1]


def test_names_come_by_folder_so_that_their_order_cannot_be_wrong(imagefolder, folders):
    names = {"night_heron": "a heron", "common owl": "an owl", "Ibis": "an ibis", "absent": "a ghost"}
    (folders / "names.json").write_text(json.dumps(names))
    datamodule = imagefolder(class_names="names.json")
    info = datamodule.describe("test")
    assert info.class_names["class"] == ("an ibis", "a ghost", "an owl", "a heron"), "sorted by folder"
    assert info.labels["class"].tolist() == [0, 0, 2, 2, 2, 2, 3, 3, 3]
    assert datamodule.files("test")[0] == folders / "names.json"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"data\.class_names: cannot read .*names\.json \("),
        ("{", r"data\.class_names: cannot read .*names\.json \("),
        ('["a", "b", "c"]', "must be an object"),
        ('{"Ibis": 3}', "must be an object"),
        ('{"Ibis": "ibis"}', "2 of the 3 folders in .*test are no known class: common owl, night_heron"),
    ],
)
def test_names_that_do_not_fit_are_refused(imagefolder, folders, content, message):
    if content is not None:
        (folders / "names.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        imagefolder(class_names="names.json").describe("test")


def test_folders_that_are_not_there_are_named(imagefolder, folders):
    with pytest.raises(ValueError, match="these data have no split 'val'; choose one of train, test"):
        imagefolder().describe("val")
    with pytest.raises(ValueError, match=r"has no folder 'train' for the train split; set data\.train_folder"):
        imagefolder().describe("train")
    assert imagefolder(root=str(folders / "test"), test_folder=".").describe("test").num_images == 9
    (folders / "train" / "Ibis").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"the 1 folders in .*train have no images"):
        imagefolder().describe("train")
    with pytest.raises(ValueError, match=r"train/Ibis has no folders: images must stand in one folder per class"):
        imagefolder(train_folder="train/Ibis").describe("train")


def test_evaluation_stops_at_a_corrupt_image(imagefolder, folders):
    (folders / "test" / "Ibis" / "1.png").write_bytes(b"nothing")
    with pytest.raises(UnreadableImage, match=r"^cannot read image .*Ibis/1\.png: "):
        list(imagefolder().eval_dataloader("test"))


def test_there_is_nothing_to_train_on(imagefolder):
    with pytest.raises(ValueError, match="imagefolder cannot be trained on: its images have classes and no captions"):
        imagefolder().train_dataloader()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "data.limit=0 must be null or at least 1"),
        ({"templates": []}, "data.templates is empty"),
        ({"templates": ["a photo of a {}."]}, r"template 'a photo of a \{\}\.' has no \{c\}"),
        ({"caption_template": "a photo"}, r"template 'a photo' has no \{c\}"),
    ],
)
def test_options_out_of_range_are_named(imagefolder, options, message):
    with pytest.raises(ValueError, match=message):
        imagefolder(**options)


def test_a_whole_split_is_not_warned_of(imagefolder, caplog):
    with caplog.at_level(logging.WARNING, logger="i0t"):
        assert imagefolder().describe("test").provenance["warnings"] == []
    assert not caplog.records
