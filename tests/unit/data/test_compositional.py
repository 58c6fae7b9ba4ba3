"""MIT-States and UT-Zappos, on small copies of their layouts made here."""

import json
import logging
import zipfile

import pytest
import torch
from PIL import Image

from i0t.data.base import MissingSplitError
from i0t.data.composition_files import attribute_words, object_words
from i0t.data.image_files import UnreadableImage
from i0t.data.mit_states import MitStatesDataModule
from i0t.data.ut_zappos import UtZapposDataModule

NATURAL = "compositional-split-natural"
PAIRS = {
    "train": [("ripe", "apple"), ("sliced", "apple"), ("old", "car")],
    "val": [("ripe", "apple"), ("old", "apple")],
    "test": [("sliced", "apple"), ("sliced", "car"), ("old", "car")],
}
# (attribute, object, set, number of images); the order of the list is not that of classes.
IMAGES = [
    ("old", "car", "test", 2),
    ("sliced", "apple", "train", 2),
    ("sliced", "apple", "test", 3),
    ("ripe", "apple", "val", 1),
    ("NA", "apple", "NA", 1),
    ("mossy", "apple", "test", 1),
    ("sliced", "car", "test", 1),
    ("ripe", "apple", "train", 2),
    ("old", "apple", "NA", 1),
    ("old", "apple", "val", 1),
    ("old", "car", "train", 1),
]


def write_pairs(root, splits=NATURAL, pairs=None):
    (root / splits).mkdir(parents=True, exist_ok=True)
    for split, several in (pairs or PAIRS).items():
        (root / splits / f"{split}_pairs.txt").write_text("\n".join(map(" ".join, several)) + "\n")


def colour(attribute, object_, number):
    return (10 * len(attribute), 20 * len(object_), number)


def write_images(root, mark=" ", images=IMAGES):
    """The list, and the images in one folder per composition; one plain colour per image."""
    entries, number = [], 0
    for attribute, object_, split, count in images:
        for _ in range(count):
            number += 1
            folder = root / "images" / f"{attribute}{mark}{object_}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (6, 4), colour(attribute, object_, number)).save(folder / f"{number}.png")
            entries.append(
                {"image": f"{attribute}_{object_}/{number}.png", "attr": attribute, "obj": object_, "set": split}
            )
    return entries


@pytest.fixture
def root(tmp_path):
    write_pairs(tmp_path)
    torch.save(write_images(tmp_path), tmp_path / f"metadata_{NATURAL}.t7")
    return tmp_path


def module(root, kind=MitStatesDataModule, **options):
    defaults = {
        "root": str(root),
        "splits": NATURAL,
        "compositions": "split",
        "raw_names": False,
        "attribute_template": "an image of a {c} object",
        "object_template": "image of a {c}",
        "caption_template": "an image of a {c}",
        "limit": None,
        "eval_batch_size": 4,
        "num_workers": 0,
    }
    made = kind(**defaults | options)
    made.bind(
        transform=lambda image: torch.tensor(image.getpixel((0, 0)), dtype=torch.float32).reshape(3, 1, 1),
        tokenizer=lambda texts: torch.ones(len(texts), 5, dtype=torch.int64),
    )
    return made


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("apple", "apple"),
        ("Boots.Ankle", "ankle boots"),
        ("Boots.Knee.High", "knee high boots"),
        ("Shoes.Boat.Shoes", "boat shoes"),
        ("Slippers.Slipper.Heels", "slipper heels slippers"),
        ("Sandals", "sandals"),
    ],
)
def test_objects_in_words(name, words):
    assert object_words(name) == words


def test_attributes_in_words():
    assert attribute_words("Full.grain.leather") == "full grain leather"
    assert attribute_words("sliced") == "sliced"


def test_images_have_the_labels_object_and_attribute_and_the_text_of_their_composition(root):
    info = module(root).describe("test")
    assert info.num_images == 6
    assert info.class_names == {"object": ["apple", "car"], "attribute": ["old", "ripe", "sliced"]}, "of all splits"
    assert info.labels["object"].tolist() == [1, 1, 0, 0, 0, 1], "in the order of the list"
    assert info.labels["attribute"].tolist() == [0, 0, 2, 2, 2, 2]
    assert info.captions == ["an image of a old car", "an image of a sliced apple", "an image of a sliced car"]
    assert info.pairs.tolist() == [[0, 0], [1, 0], [2, 1], [3, 1], [4, 1], [5, 2]]
    assert info.text_image_index is None
    apples = [f"sliced apple/{number}.png" for number in (5, 6, 7)]
    assert info.image_ids == ["old car/1.png", "old car/2.png", *apples, "sliced car/11.png"]
    assert info.provenance["main_object"] == "object"
    assert info.provenance["list_of_images"] == f"metadata_{NATURAL}.t7"
    assert module(root).main_object == "object"


def test_prompts_are_the_papers(root):
    prompts = module(root).describe("val").prompts
    assert prompts["attribute"].texts == [[f"an image of a {name} object"] for name in ("old", "ripe", "sliced")]
    assert prompts["attribute"].class_names == ["old", "ripe", "sliced"]
    assert prompts["attribute"].description == '"an image of a {c} object"'
    assert prompts["object"].texts == [["image of a apple"], ["image of a car"]]
    assert prompts["object"].aggregate == "mean"


@pytest.mark.parametrize(("split", "count"), [("train", 5), ("val", 2), ("test", 6)])
def test_the_list_says_which_image_is_of_which_split(root, split, count):
    info = module(root).describe(split)
    assert info.num_images == count
    for caption, name in zip((info.captions[text] for _, text in info.pairs.tolist()), info.image_ids, strict=True):
        assert caption == f"an image of a {name.rpartition('/')[0]}"


def test_texts_of_all_compositions_are_the_grid_attribute_by_attribute(root):
    info = module(root, compositions="all").describe("test")
    grid = [f"an image of a {a} {o}" for a in ("old", "ripe", "sliced") for o in ("apple", "car")]
    assert list(info.captions) == grid
    assert torch.equal(info.pairs[:, 1], 2 * info.labels["attribute"] + info.labels["object"])
    assert info.pairs[:, 1].tolist() == [1, 1, 4, 4, 4, 5]
    assert [info.captions[text] for text in info.pairs[:, 1].tolist()][3] == "an image of a sliced apple"


def test_loaders_give_every_image_with_its_labels(root):
    datamodule = module(root)
    info = datamodule.describe("test")
    batches = list(datamodule.eval_dataloader("test"))
    assert torch.cat([batch.sample_id for batch in batches]).tolist() == list(range(6))
    greens = torch.cat([batch.images[:, 1, 0, 0] for batch in batches])
    assert greens.tolist() == [20.0 * len(("apple", "car")[label]) for label in info.labels["object"]]
    for name in ("object", "attribute"):
        assert torch.equal(torch.cat([batch.labels[name] for batch in batches]), info.labels[name])
    (batch,) = datamodule.eval_dataloader("test", [[5, 0]])
    assert batch.labels["attribute"].tolist() == [2, 0]
    assert batch.tokens.shape == (0, 5)


def test_a_limit_is_spread_over_the_split(root):
    info = module(root, limit=3).describe("test")
    assert info.image_ids == ["old car/1.png", "sliced apple/5.png", "sliced apple/7.png"]
    assert info.labels["attribute"].tolist() == [0, 2, 2]
    assert info.pairs.tolist() == [[0, 0], [1, 1], [2, 1]]


def test_raw_names_are_in_the_texts_alone(tmp_path):
    pairs = {"test": [("Faux.Leather", "Boots.Ankle")]}
    write_pairs(tmp_path, pairs=pairs)
    torch.save(
        write_images(tmp_path, "_", [("Faux.Leather", "Boots.Ankle", "test", 1)]), tmp_path / f"metadata_{NATURAL}.t7"
    )
    worded, raw = (module(tmp_path, UtZapposDataModule, raw_names=raw).describe("test") for raw in (False, True))
    assert list(worded.captions) == ["an image of a faux leather ankle boots"]
    assert list(raw.captions) == ["an image of a Faux.Leather Boots.Ankle"]
    for info in (worded, raw):
        assert info.prompts["object"].texts == [["image of a ankle boots"]]
        assert info.prompts["attribute"].texts == [["an image of a faux leather object"]]
        assert info.image_ids == ["Faux.Leather_Boots.Ankle/1.png"]


def test_the_catalogue_of_ut_zappos_does_as_it_was_published(tmp_path):
    write_pairs(tmp_path, pairs={"test": [("Suede", "Shoes.Loafers")]})
    own = "Shoes/Loafers/A Brand/7.jpg"
    (tmp_path / "_images" / own).parent.mkdir(parents=True)
    Image.new("RGB", (5, 5)).save(tmp_path / "_images" / own)
    entry = {
        "image": "Suede_Shoes.Loafers/7.jpg",
        "_image": own,
        "attr": "Suede",
        "obj": "Shoes.Loafers",
        "set": "test",
    }
    torch.save([entry], tmp_path / f"metadata_{NATURAL}.t7")
    assert module(tmp_path, UtZapposDataModule).files("test")[-1] == tmp_path / "_images" / own


def test_the_list_may_be_json_and_folders_have_spaces_or_underscores(root):
    before = module(root).describe("test")
    entries = torch.load(root / f"metadata_{NATURAL}.t7", weights_only=True)
    (root / f"metadata_{NATURAL}.t7").unlink()
    (root / f"metadata_{NATURAL}.json").write_text(json.dumps(entries))
    (root / "images" / "old car").rename(root / "images" / "old_car")
    after = module(root).describe("test")
    assert after.image_ids == [name.replace("old car", "old_car") for name in before.image_ids]
    assert torch.equal(after.pairs, before.pairs)


def test_without_a_list_folders_do_where_splits_share_no_composition(tmp_path):
    write_images(tmp_path)
    apart = {"train": [("ripe", "apple"), ("sliced", "apple")], "test": [("sliced", "car"), ("old", "car")]}
    write_pairs(tmp_path, "compositional-split", apart)
    (tmp_path / "images" / "old car" / "notes.txt").write_text("no image")
    info = module(tmp_path, splits="compositional-split").describe("test")
    assert sorted(info.image_ids) == ["old car/1.png", "old car/16.png", "old car/2.png", "sliced car/11.png"]
    assert info.provenance["warnings"] == [], "nobody published how many these are"
    with pytest.raises(MissingSplitError, match="these data have no split 'val'; choose one of train, test"):
        module(tmp_path, splits="compositional-split").describe("val")
    write_pairs(tmp_path)
    with pytest.raises(
        ValueError, match=r"has no metadata_….t7 .*2 of the 3 compositions of the test split are of anot"
    ):
        module(tmp_path).describe("test")


def test_counts_other_than_the_published_ones_stand_beside_the_numbers(root, caplog):
    with caplog.at_level(logging.WARNING, logger="i0t"):
        mit = module(root).describe("test").provenance["warnings"]
    assert mit == [
        "mit_states test: 6 images, where the published split has 12,995",
        "mit_states test: 3 classes, where the published split has 800",
    ]
    assert [record.message for record in caplog.records] == mit
    zappos = module(root, UtZapposDataModule, compositions="all").describe("test").provenance["warnings"]
    assert zappos == ["ut_zappos test: 6 images, where the published split has 2,914"]


def test_files_are_the_lists_and_the_images(root):
    files = module(root).files("val")
    lists = ["test_pairs.txt", "train_pairs.txt", "val_pairs.txt", f"metadata_{NATURAL}.t7"]
    assert [file.name for file in files[:4]] == lists
    assert [file.parent.name for file in files[4:]] == ["ripe apple", "old apple"]


def test_missing_images_are_counted_and_named(root):
    for number in (5, 6):
        (root / "images" / "sliced apple" / f"{number}.png").unlink()
    message = (
        r"^2 of the 6 images that metadata_.*\.t7 names are not there: sliced apple/5.png, sliced apple/6.png \(look"
    )
    with pytest.raises(ValueError, match=message):
        module(root).describe("test")


def test_a_damaged_image_stops_the_evaluation(root):
    (root / "images" / "sliced car" / "11.png").write_bytes(b"nothing")
    with pytest.raises(UnreadableImage, match=r"^cannot read image .*sliced car/11\.png: "):
        list(module(root).eval_dataloader("test"))


class Evil:
    def __reduce__(self):
        return print, ("code of a file was run",)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_bytes(b"no list at all"), r"cannot read .*\.t7: .*; is it whole\?"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), r"cannot read .*\.t7: .*; is it whole\?"),
        (lambda path: torch.save([Evil()], path), r"cannot read .*\.t7: .*; is it whole\?"),
        (lambda path: torch.save([{"image": "a/b.jpg"}], path), r"is not a list of \{image, attr, obj, set\}"),
        (lambda path: torch.save([3], path), r"is not a list of \{image, attr, obj, set\}"),
        (lambda path: torch.save([], path), r"has no image of the test split of compositional-split-natural"),
        (lambda path: zipfile.ZipFile(path, "w").close(), r"cannot read .*\.t7: .*; is it whole\?"),
    ],
)
def test_a_damaged_list_is_one_line_and_no_code_of_it_is_run(root, make, message, capsys):
    make(root / f"metadata_{NATURAL}.t7")
    with pytest.raises(ValueError, match=message) as error:
        module(root).describe("test")
    assert "\n" not in str(error.value)
    assert "code of a file" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sliced apple\nold\n", r"test_pairs.txt, entry 2: expected <attribute> <object>, got 'old'"),
        ("\n", r"test_pairs.txt lists no composition"),
    ],
)
def test_a_wrong_list_of_compositions_is_named(root, text, message):
    (root / NATURAL / "test_pairs.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        module(root).describe("test")


def test_what_is_not_there_is_named(tmp_path, root):
    with pytest.raises(ValueError, match=r"nothing.*compositional-split-natural has no train_pairs.txt"):
        module(tmp_path / "nothing").describe("test")
    with pytest.raises(ValueError, match=r"data.compositions='every' does not exist; choose split or all"):
        module(root, compositions="every")
    with pytest.raises(ValueError, match=r"template 'an image' has no \{c\}"):
        module(root, object_template="an image")
    with pytest.raises(ValueError, match="mit_states cannot be trained on"):
        module(root).train_dataloader()
