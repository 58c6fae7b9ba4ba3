"""The three annotation formats, and what is said of a file that is not one of them."""

import gc
import json
import os

import pytest

from i0t.data.caption_files import CaptionedImage, read_coco, read_karpathy, read_token_file


def test_karpathys_restval_is_part_of_train(tmp_path, make):
    path = tmp_path / "dataset_coco.json"
    make.karpathy_json(
        path,
        {"train": ["COCO_val2014_000000000001.jpg"], "test": ["b.jpg"], "restval": ["c.jpg"]},
        filepath=lambda name: "val2014",
        cocoid=lambda name: ord(name[0]),
        num_captions=2,
    )
    splits = read_karpathy(path)
    assert [image.name for image in splits["train"]] == ["val2014/COCO_val2014_000000000001.jpg", "val2014/c.jpg"]
    captions = ("Caption 0 of b.jpg", "Caption 1 of b.jpg")
    assert splits["test"] == [CaptionedImage("val2014/b.jpg", "98", captions)]
    assert "restval" not in splits


def test_without_folders_and_ids_the_name_does(tmp_path, make):
    make.karpathy_json(tmp_path / "k.json", {"val": ["1007.jpg"]}, num_captions=1)
    assert read_karpathy(tmp_path / "k.json") == {"val": [("1007.jpg", "1007", ("Caption 0 of 1007.jpg",))]}


def test_a_file_that_has_changed_is_read_again(tmp_path, make):
    path = tmp_path / "k.json"
    make.karpathy_json(path, {"val": ["a.jpg"]})
    assert read_karpathy(path) is read_karpathy(path)
    make.karpathy_json(path, {"val": ["b.jpg"]})
    os.utime(path, ns=(1, 1))
    assert read_karpathy(path)["val"][0].name == "b.jpg"


def test_cocos_captions_find_their_images(tmp_path, make):
    make.coco_json(tmp_path / "c.json", [(7, "b.jpg"), (3, "a.jpg")], num_captions=2)
    assert read_coco(tmp_path / "c.json") == [
        ("b.jpg", "7", ["Caption 0 of b.jpg", "Caption 1 of b.jpg"]),
        ("a.jpg", "3", ["Caption 0 of a.jpg", "Caption 1 of a.jpg"]),
    ]


def test_a_token_file_is_read_line_by_line(tmp_path):
    path = tmp_path / "t.token"
    path.write_text("b.jpg#0\tA dog .\na.jpg.1#0\tA cat\twith a tab .\n\nb.jpg#1\tTwo é dogs #2 .\n", encoding="utf-8")
    assert read_token_file(path) == {"b.jpg": ["A dog .", "Two é dogs #2 ."], "a.jpg.1": ["A cat\twith a tab ."]}


@pytest.mark.parametrize("line", ["b.jpg#0 A dog", "b.jpg\tA dog", "just text"])
def test_a_line_that_is_no_caption_is_named(tmp_path, line):
    path = tmp_path / "t.token"
    path.write_text(f"a.jpg#0\tA cat\n{line}\n")
    with pytest.raises(ValueError, match=r"t.token, line 2: expected <image>#<number><tab><caption>, got "):
        read_token_file(path)


@pytest.mark.parametrize("read", [read_karpathy, read_coco])
@pytest.mark.parametrize("content", ["", '{"images": [{"file', "[]", "7", '{"pictures": []}', '{"images": [3]}'])
def test_a_damaged_or_strange_file_is_one_line_with_its_name(tmp_path, read, content):
    path = tmp_path / "odd.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"odd\.json") as error:
        read(path)
    assert "\n" not in str(error.value)


def test_an_entry_without_a_field_names_the_field(tmp_path):
    path = tmp_path / "k.json"
    path.write_text(json.dumps({"images": [{"filename": "a.jpg", "split": "val"}]}))
    with pytest.raises(ValueError, match="not a caption file of Karpathy's format: an entry has no 'sentences'"):
        read_karpathy(path)
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1}]}))
    with pytest.raises(ValueError, match="not a caption file of COCO's format: an entry has no 'caption'"):
        read_coco(path)


def test_captions_of_unlisted_images_are_counted(tmp_path):
    path = tmp_path / "c.json"
    annotations = [{"image_id": i, "caption": "x"} for i in (1, 5, 6)]
    path.write_text(json.dumps({"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": annotations}))
    with pytest.raises(ValueError, match=r"c\.json has 2 captions of images it does not list, first 5"):
        read_coco(path)


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_collection_is_as_it_was_after_reading(tmp_path, make, collecting):
    make.coco_json(tmp_path / "c.json", [(7, "b.jpg")])
    (tmp_path / "torn.json").write_text("{")
    before = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        read_coco(tmp_path / "c.json")
        with pytest.raises(ValueError, match=r"torn\.json"):
            read_coco(tmp_path / "torn.json")
        assert gc.isenabled() is collecting
    finally:
        (gc.enable if before else gc.disable)()
