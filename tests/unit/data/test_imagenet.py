import open_clip
import pytest
from PIL import Image

from i0t.data.imagenet import ImageNetDataModule, class_names_by_folder, openai_templates, simple_templates


@pytest.fixture
def imagenet(tmp_path):
    """Three of the 1,000 classes."""
    for name in ("n02123045", "n01440764", "n15075141"):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.new("RGB", (5, 5)).save(tmp_path / "val" / name / "ILSVRC2012_val_1.JPEG")
    return ImageNetDataModule(
        root=str(tmp_path),
        train_folder="train",
        test_folder="val",
        templates=None,
        caption_template="a photo of a {c}.",
        limit=None,
        eval_batch_size=2,
        num_workers=0,
    )


def test_a_partial_copy_keeps_the_labels_of_the_whole_and_all_its_classes(imagenet):
    info = imagenet.describe("test")
    names = info.class_names["class"]
    assert names == tuple(open_clip.IMAGENET_CLASSNAMES)
    # Known labels of ImageNet: tench is the first, tabby cat the 282nd, toilet paper the last.
    assert info.labels["class"].tolist() == [0, 281, 999]
    assert [names[label] for label in info.labels["class"]] == ["tench", "tabby cat", "toilet paper"]
    assert [t.replace("{c}", "tench") for t in openai_templates()] == list(info.prompts["class"].texts[0])
    assert len(info.captions) == len(info.prompts["class"].texts) == 1000
    assert info.provenance["warnings"] == ["imagenet test: 3 images, where the published split has 50,000"]


def test_there_is_no_validation_split_because_the_test_split_is_it(imagenet):
    assert imagenet.describe("test").provenance["folder"] == "val"
    with pytest.raises(ValueError, match="these data have no split 'val'; choose one of train, test"):
        imagenet.describe("val")


def test_folders_that_are_no_wordnet_id_are_named(imagenet, tmp_path):
    (tmp_path / "val" / "tench").mkdir()
    with pytest.raises(ValueError, match=r"1 of the 4 folders in .*val are no known class: tench"):
        imagenet.describe("test")


def test_templates_are_those_of_open_clip():
    for templates, expected in (
        (openai_templates(), open_clip.OPENAI_IMAGENET_TEMPLATES),
        (simple_templates(), open_clip.SIMPLE_IMAGENET_TEMPLATES),
    ):
        assert [template.replace("{c}", "gold {x}") for template in templates] == [t("gold {x}") for t in expected]
    assert len(openai_templates()) == 80
    assert len(simple_templates()) == 7


def test_folders_and_names_are_in_label_order():
    table = class_names_by_folder()
    assert list(table) == sorted(table)
    assert len(table) == 1000
