"""Splits as read from disk, and finding files in a few looks."""

import os
from pathlib import Path

import numpy as np
import pytest

from i0t.data.photo_split import ImageFinder, PhotoSplit, annotation_file


def split_of(captions):
    return PhotoSplit(
        image_files=[Path(f"{i}.jpg") for i in range(len(captions))],
        captions=captions,
        image_ids=[str(i) for i in range(len(captions))],
        annotation_files=[Path("all.json")],
        labels={"class": np.arange(len(captions)) * 10},
    )


def test_captions_know_their_images():
    split = split_of([["a", "b"], ["c"], ["d", "e", "f"]])
    assert split.num_captions.tolist() == [2, 1, 3]
    assert split.text_image_index.tolist() == [0, 0, 1, 2, 2, 2]
    kept = split.select(np.array([2, 0]))
    assert kept.text_image_index.tolist() == [0, 0, 0, 1, 1]
    assert kept.image_ids == ["2", "0"]
    assert kept.labels["class"].tolist() == [20, 0]
    assert split.select(slice(1)).captions == [["a", "b"]]


def test_an_image_without_captions_is_an_error():
    with pytest.raises(ValueError, match=r"2 of 3 images in all\.json have no caption, first 0, 2"):
        split_of([[], ["c"], []])


def test_the_finder_takes_the_first_place_in_order_of_names_then_folders(tmp_path):
    for name in ("two/a.jpg", "two/b.jpg", "one/sub/b.jpg", "one/c.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    folders = [tmp_path / "none", tmp_path / "one", tmp_path / "two"]
    finder = ImageFinder()
    assert finder.find(folders, ["a.jpg"]) == tmp_path / "two/a.jpg"
    assert finder.find(folders, ["sub/b.jpg", "b.jpg"]) == tmp_path / "one/sub/b.jpg"
    assert finder.find(folders, ["x.jpg", "b.jpg"]) == tmp_path / "two/b.jpg"
    assert finder.find(folders, ["x.jpg"]) == tmp_path / "one/x.jpg", "named where images are"
    assert finder.find([tmp_path / "none"], ["x.jpg"]) == tmp_path / "none/x.jpg"
    assert finder.has(tmp_path / "one/c.jpg")
    assert not finder.has(tmp_path / "one/d.jpg")
    assert not finder.has(tmp_path / "none/d.jpg")


def test_each_folder_is_listed_once(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").touch()
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(str(folder)) or scandir(folder))
    finder = ImageFinder()
    for i in range(50):
        finder.find([tmp_path / "gone", tmp_path], [f"{i}.jpg"])
        finder.has(tmp_path / f"{i}.jpg")
    assert listed == [str(tmp_path)]


def test_an_annotation_file_is_looked_for_in_its_usual_places(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "c.json").touch()
    assert annotation_file(tmp_path, ["c.json", "annotations/c.json"]) == tmp_path / "annotations/c.json"
    with pytest.raises(ValueError, match=rf"data.root={tmp_path} has no d.json \(nor annotations/d.json\)"):
        annotation_file(tmp_path, ["d.json", "annotations/d.json"])
