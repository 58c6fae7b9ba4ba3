"""Composite: the three tables of Mechanical Turk, read by their columns."""

import json
import math

import pytest

from i0t.data.composite import CompositeDataModule

IMAGES = {"8k": ["11_a.jpg", "12_b.jpg"], "30k": ["21.jpg"], "coco": ["COCO_val2014_000000000031.jpg"]}


def table(part, rows, *, texts):
    """As Mechanical Turk gives it: columns of no interest first, cells with commas, two lines of sums at the end."""
    columns = ["HITId", "Keywords", "Input.image_url", *(f"Input.text{i}" for i in range(1, texts + 1))]
    columns += [f"Answer.Q{i}Answer" for i in range(1, texts + 1)]
    lines = [";".join(columns)]
    lines += [";".join(["3X", '"image, text"', url, *cells]) for url, cells in rows]
    lines += [";" * (len(columns) - 2) + "4.1;3.9", ";" * (len(columns) - 1)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def folders(tmp_path, images):
    root, flickr8k, flickr30k, coco = (tmp_path / name for name in ("composite", "flickr8k", "flickr30k", "coco"))
    for folder in (root, flickr8k, flickr30k, coco):
        folder.mkdir()
    images(flickr8k / "Images", IMAGES["8k"])
    images(flickr30k / "flickr30k-images", IMAGES["30k"])
    images(coco / "val2014", IMAGES["coco"])
    tokens = [f"{name}#{i}\tOwn caption {i} of {name} ." for name in IMAGES["8k"] for i in range(5)]
    (flickr8k / "Flickr8k.token.txt").write_text("\n".join(tokens))
    sentences = [{"raw": f"Thirty {i}"} for i in range(5)]
    entry = {"filename": "21.jpg", "split": "train", "sentences": sentences}
    (flickr30k / "dataset_flickr30k.json").write_text(json.dumps({"images": [entry]}))
    content = {
        "images": [{"id": 31, "file_name": IMAGES["coco"][0]}],
        "annotations": [{"image_id": 31, "caption": f"Coco {i}"} for i in range(5)],
    }
    (coco / "annotations").mkdir()
    (coco / "annotations" / "captions_val2014.json").write_text(json.dumps(content))
    url = "http://host/photos/"
    rows = {
        "8k": [
            (f"{url}11_a.jpg", ["Own caption 1 of 11_a.jpg", "a, machine", "man", "5", "2", ""]),
            (f"{url}12_b.jpg", ["human", '"says ""hi"""', "", "4", "3", ""]),
        ],
        "30k": [(f"{url}21.jpg", ["t1", "t2", "thirty 3", "t4", "1", "2", "3", "4"])],
        "coco": [(f"{url}{IMAGES['coco'][0]}", ["c1", "c2", "c3", "c4", "5", "4", "3", "2.5"])],
    }
    for part, part_rows in rows.items():
        texts = 3 if part == "8k" else 4
        (root / f"{part}_correctness.csv").write_text(table(part, part_rows, texts=texts))
    return {
        "root": str(root),
        "flickr8k_root": str(flickr8k),
        "flickr30k_root": str(flickr30k),
        "coco_root": str(coco),
    }


@pytest.fixture
def data(folders, options):
    def build(**changed):
        more = {"question": "correctness", "captions_per_image": None, "with_references": True}
        return CompositeDataModule(**folders | more | options | changed)

    return build


def test_every_caption_of_every_line_with_its_own_rating_and_the_references_that_nobody_judged(data, rows_of, pairs_of):
    a, b = ([f"Own caption {i} of {name} ." for i in range(5)] for name in IMAGES["8k"])
    thirty, coco = ([f"{name} {i}" for i in range(5)] for name in ("Thirty", "Coco"))
    nan = pytest.approx(math.nan, nan_ok=True)
    a.remove("Own caption 1 of 11_a.jpg .")
    thirty.remove("Thirty 3")
    stem = IMAGES["coco"][0].removesuffix(".jpg")
    assert rows_of(data()) == [
        ("11_a", "Own caption 1 of 11_a.jpg", a, [5]),
        ("11_a", "a, machine", a, [2]),
        ("11_a", "man", a, [nan]),
        ("12_b", "human", b, [4]),
        ("12_b", 'says "hi"', b, [3]),
        *(("21", text, thirty, [rating]) for text, rating in [("t1", 1), ("t2", 2), ("thirty 3", 3), ("t4", 4)]),
        *((stem, f"c{i}", coco, [rating]) for i, rating in enumerate([5, 4, 3, 2.5], start=1)),
    ]
    assert len(pairs_of(data())) == 4 + 5 + 4 + 5
    judged = data().describe("test").judgements
    assert judged.headline == "c"
    assert judged.source == ()


def test_the_first_captions_of_a_line(data, rows_of):
    assert [row[1] for row in rows_of(data(captions_per_image=1))] == ["Own caption 1 of 11_a.jpg", "human", "t1", "c1"]
    (warning,) = data(captions_per_image=1).describe("test").provenance["warnings"]
    assert "4 judged captions, where the published set has 11,985" in warning
    with pytest.raises(ValueError, match=r"data.captions_per_image=0 must be null or at least 1"):
        data(captions_per_image=0)


def test_without_references_no_caption_file_is_needed(data, rows_of, folders, tmp_path):
    (tmp_path / "coco" / "annotations" / "captions_val2014.json").unlink()
    with pytest.raises(ValueError, match=r"data.coco_root=.* has no dataset_coco.json.*data.with_references=false"):
        data().describe("test")
    rows = rows_of(data(with_references=False))
    assert len(rows) == 13
    assert all(references == [] for _, _, references, _ in rows)
    assert data(with_references=False).describe("test").pairs.shape == (0, 2)


def test_problems_of_all_tables_are_one_error_with_their_files_and_lines(data, tmp_path):
    path = tmp_path / "composite" / "30k_correctness.csv"
    url = "http://host/"
    rows = [
        (f"{url}21.jpg", ["t1", "t2", "t3", "t4", "1", "2", "3", "6"]),
        (f"{url}99.jpg", ["t1", "t2", "t3", "t4", "1", "2", "3", "4"]),
        (f"{url}21.jpg", ["t1", "t2", "t3", "", "1", "2", "3", "4"]),
        (f"{url}21.jpg", ["a dog", " a cat", "t2", "t3", "t4", "1", "2", "3", "4"]),
        (f"{url}21.jpg", ["t1", "t2", "t3", "t4", "1", "2", "3"]),
    ]
    path.write_text(table("30k", rows, texts=4))
    (tmp_path / "flickr8k" / "Images" / "12_b.jpg").unlink()
    with pytest.raises(ValueError, match=r"6 of 8 rows cannot be used") as error:
        data().describe("test")
    message = str(error.value)
    assert message.startswith("8k_correctness.csv and 30k_correctness.csv and coco_correctness.csv: ")
    parts = message.split("used: ")[1].split("; ")
    assert parts[0].startswith("8k_correctness.csv line 3: no image 12_b.jpg in ")
    assert parts[1:5] == [
        "30k_correctness.csv line 2: the rating '6' is not within 1 to 5",
        "30k_correctness.csv line 3: the data set has no captions of 99.jpg",
        "30k_correctness.csv line 4: Input.text4 is empty, but rated",
        "30k_correctness.csv line 5: not as many cells as columns",
    ]
    assert parts[5].startswith("… (data.only_present=true")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no columns"),
        ("a,Input.image_url,Input.text1,Answer.Q1Answer\n", "has no columns"),
        ("Input.image_url;Input.text1;Answer.Q1Answer\n", "coco_correctness.csv has no rows"),
        ("Input.image_url;Input.text1;Answer.Q1Answer\n;;3\n", "coco_correctness.csv has no rows"),
    ],
)
def test_a_table_of_another_kind(data, tmp_path, content, message):
    (tmp_path / "composite" / "coco_correctness.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        data().describe("test")


def test_the_other_question_and_the_folder_of_the_archive(data, tmp_path):
    with pytest.raises(ValueError, match=r"has no 8k_throughness.csv \(nor AMT_eval/8k_throughness.csv\)"):
        data(question="throughness").describe("test")
    root = tmp_path / "composite"
    (root / "AMT_eval").mkdir()
    for part in IMAGES:
        (root / f"{part}_correctness.csv").rename(root / "AMT_eval" / f"{part}_throughness.csv")
    assert len(data(question="throughness").describe("test").judgements.candidates) == 13


def test_cocos_photos_of_2017_do_as_well(data, tmp_path, rows_of):
    old = tmp_path / "coco" / "val2014" / IMAGES["coco"][0]
    (tmp_path / "coco" / "train2017").mkdir()
    old.rename(tmp_path / "coco" / "train2017" / "000000000031.jpg")
    module = data()
    assert module.files("test")[-1] == tmp_path / "coco" / "train2017" / "000000000031.jpg"
    assert [path.name for path in module.files("test")[:6]] == [
        "8k_correctness.csv",
        "30k_correctness.csv",
        "coco_correctness.csv",
        "Flickr8k.token.txt",
        "dataset_flickr30k.json",
        "captions_val2014.json",
    ]
