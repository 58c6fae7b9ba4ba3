"""ShareGPT4V: the caption is the answer, the first 1,000 entries of the subset are for validation."""

import json

import pytest

from i0t.data import sharegpt4v
from i0t.data.sharegpt4v import ShareGpt4vDataModule

FILE = "share-captioner_coco_lcs_sam_1246k_1107.json"
IMAGES = ["sam/images/sa_1.jpg", *(f"coco/train2017/{i:012d}.jpg" for i in range(6)), "llava/00453/7.jpg"]


def entry(image):
    question = {"from": "human", "value": "What do you see?\n<image>"}
    return {"id": 1, "image": image, "conversations": [question, {"from": "gpt", "value": f"First {image}.\n\nThen."}]}


@pytest.fixture
def build(tmp_path, make, options, monkeypatch):
    def build(json_folder=".", image_folder=".", path_contains="coco", num_validation=2, short_captions=False):
        monkeypatch.setattr(sharegpt4v, "NUM_VALIDATION", num_validation)
        for image in IMAGES:
            place = tmp_path / image_folder / image
            make.save_photos(place.parent, [place.name])
        (tmp_path / json_folder).mkdir(exist_ok=True)
        (tmp_path / json_folder / FILE).write_text(json.dumps([entry(image) for image in IMAGES]))
        return ShareGpt4vDataModule(
            annotations=FILE,
            path_contains=path_contains,
            short_captions=short_captions,
            root=str(tmp_path),
            **options,
        )

    return build


def test_i0t_takes_the_images_of_coco(build):
    assert sharegpt4v.NUM_VALIDATION == 1000
    module = build()
    assert module.describe("val").image_ids == IMAGES[1:3]
    assert module.describe("train").image_ids == IMAGES[3:7]
    assert module.describe("train").captions[0] == f"First {IMAGES[3]}.  Then."
    assert module.describe("train").provenance["path_contains"] == "coco"
    assert module.describe("train").provenance["warnings"] == []
    test = module.describe("test")
    assert test.image_ids == IMAGES[1:3]
    assert test.provenance["same_images_as"] == "val"


@pytest.mark.parametrize("image_folder", [".", "data", "images"])
def test_all_entries_in_the_usual_folders(build, tmp_path, image_folder):
    module = build(json_folder="data", image_folder=image_folder, path_contains=None)
    files = [*module.split("val").image_files, *module.split("train").image_files]
    assert files == [tmp_path / image_folder / image for image in IMAGES]


def test_a_subset_that_is_empty_and_a_file_of_another_form(build, tmp_path):
    with pytest.raises(ValueError, match=r"no image path contains data.path_contains='imagenet'"):
        build(path_contains="imagenet").describe("val")
    with pytest.raises(ValueError, match=r"1246k_1107.json: no image is of the train split"):
        build(num_validation=100).describe("train")
    module = build()
    for content in ([{"image": "a.jpg"}], [{"image": "a.jpg", "conversations": [{"value": "q"}]}], {"a": 1}, [3]):
        (tmp_path / FILE).write_text(json.dumps(content))
        with pytest.raises(ValueError, match="is not a caption file of ShareGPT4V"):
            module.describe("val")


def test_short_captions_are_the_answers_first_sentences(build, bind, read_tokens):
    (batch, second) = bind(build(short_captions=True)).train_dataloader()
    names = {row: IMAGES[3 + row] for row in range(4)}
    for found in (batch, second):
        rows = found.sample_id.tolist()
        assert read_tokens(found.tokens) == [f"First {names[row]}.  Then." for row in rows]
        assert read_tokens(found.short_tokens) == [f"First {names[row]}" for row in rows]
    assert all(found.short_tokens is None for found in bind(build()).train_dataloader())
