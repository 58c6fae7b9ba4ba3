"""The user's own file of captions: what is read, what is refused, and by which line."""

import json
import math

import pytest

from i0t.data.captions import CaptionsDataModule

ROWS = [
    {"image": "photos/a.jpg", "caption": "a dog", "references": ["the dog", "one dog"], "rating": 3},
    {"image": "photos/b.jpg", "caption": "a cat"},
    {"image": "./photos/../photos/a.jpg", "caption": "the dog", "references": ["a dog"], "ratings": [1, None, 2.5]},
    {"image": "photos/b.jpg", "caption": "a cat", "rating": None, "model": "x"},
    {"image": "photos/b.jpg", "caption": "a cat"},
]


@pytest.fixture
def write(tmp_path, images):
    images(tmp_path / "photos", ["a.jpg", "b.jpg"])

    def written(rows, name="candidates.jsonl"):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(tmp_path / name)

    return written


@pytest.fixture
def data(write, options, bind):
    def build(rows, **changed):
        return bind(CaptionsDataModule(path=write(rows), **options | changed))

    return build


def test_every_line_is_a_judgement_and_every_image_and_text_stands_once(data, rows_of, pairs_of):
    module = data(ROWS)
    info = module.describe("test")
    nan = pytest.approx(math.nan, nan_ok=True)
    assert rows_of(module) == [
        ("photos/a.jpg", "a dog", ["the dog", "one dog"], [3, nan, nan]),
        ("photos/b.jpg", "a cat", [], [nan, nan, nan]),
        ("photos/a.jpg", "the dog", ["a dog"], [1, nan, 2.5]),
        ("photos/b.jpg", "a cat", [], [nan, nan, nan]),
        ("photos/b.jpg", "a cat", [], [nan, nan, nan]),
    ]
    assert info.num_images == 2
    assert sorted(info.captions) == [f"A photo depicts {text}" for text in ("a cat", "a dog", "one dog", "the dog")]
    assert pairs_of(module) == {("photos/a.jpg", text) for text in ("the dog", "one dog", "a dog")}
    assert info.judgements.source == (1, 2, 3, 4, 5)
    assert info.text_image_index is None
    assert info.provenance["num_judged_captions"] == 5


def test_a_file_without_ratings_or_references_has_neither(data):
    judged = data([{"image": "photos/a.jpg", "caption": "a dog"}]).describe("test").judgements
    assert judged.ratings.shape == (1, 0)
    assert judged.references.shape == (0, 2)


def test_lines_are_numbered_as_an_editor_does(data):
    strange = {"image": "photos/a.jpg", "caption": "line\u2028break\x0b", "rating": 1}
    rows = ["", json.dumps(strange, ensure_ascii=False), "", json.dumps({"image": "photos/b.jpg", "caption": "b"})]
    module = data(rows)
    assert module.describe("test").judgements.source == (2, 4)
    assert module.describe("test").captions[0] == "A photo depicts line break"


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path, write, options):
    path = tmp_path / "windows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, ROWS)).encode())
    windows = CaptionsDataModule(path=str(path), **options).describe("test")
    plain = CaptionsDataModule(path=write(ROWS), **options).describe("test")
    assert windows.captions == plain.captions
    assert windows.judgements.candidates.tolist() == plain.judgements.candidates.tolist()


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("{", "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("3", "not a JSON object"),
        ({"caption": "x"}, "no 'image'"),
        ({"image": "photos/a.jpg"}, "no 'caption'"),
        ({"image": "photos/a.jpg", "caption": "  "}, "'caption' is not a text"),
        ({"image": 7, "caption": "x"}, "'image' is not a text"),
        ({"image": "photos/a.jpg", "caption": "x", "references": "y"}, "'references' is not a list of texts"),
        ({"image": "photos/a.jpg", "caption": "x", "references": ["y", ""]}, "'references' is not a list of texts"),
        ({"image": "photos/a.jpg", "caption": "x", "references": 0}, "'references' is not a list of texts"),
        ({"image": "photos/a.jpg", "caption": "x", "rating": "3"}, "the rating '3' is not a number"),
        ({"image": "photos/a.jpg", "caption": "x", "rating": True}, "the rating 'True' is not a number"),
        ({"image": "photos/a.jpg", "caption": "x", "rating": 10**400}, "is not a number"),
        ('{"image": "photos/a.jpg", "caption": "x", "rating": -Infinity}', "the rating '-inf' is not a number"),
        ({"image": "photos/a.jpg", "caption": "x", "ratings": 3}, "'ratings' is not a list"),
        ({"image": "photos/a.jpg", "caption": "x", "rating": 1, "ratings": [1]}, "both 'rating' and 'ratings'"),
        ({"image": "photos/none.jpg", "caption": "x"}, "no image none.jpg in "),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_its_line(data, row, why):
    with pytest.raises(ValueError, match=r"^candidates.jsonl: 1 of 3 rows cannot be used: line 3: ") as error:
        data([ROWS[0], "", row, ROWS[1]]).describe("test")
    assert why in str(error.value)
    assert "\n" not in str(error.value)


def test_the_first_five_are_named_in_their_order_whatever_is_wrong_with_them(data):
    rows = [ROWS[0]] * 4 + [{"image": "photos/x.jpg", "caption": "x"}, "nonsense"] * 6 + [ROWS[1]]
    with pytest.raises(
        ValueError, match=r"^candidates.jsonl: 12 of 17 rows cannot be used: line 5: no image x.jpg in"
    ) as error:
        data(rows).describe("test")
    lines = [part.split(":")[0] for part in str(error.value).split("used: ")[1].split("; ")]
    assert lines[:5] == ["line 5", "line 6", "line 7", "line 8", "line 9"]
    assert str(error.value).count("line ") == 5
    assert "; … (data.only_present=true" in str(error.value)


def test_malformed_rows_stop_it_even_where_missing_images_are_left_out(data):
    missing = {"image": "photos/x.jpg", "caption": "x"}
    with pytest.raises(ValueError, match=r"1 of 3 rows cannot be used: line 3: not a JSON object"):
        data([ROWS[0], missing, "nonsense"], only_present=True).describe("test")
    info = data([missing, ROWS[0], missing, ROWS[1]], only_present=True).describe("test")
    assert info.judgements.source == (2, 4)
    (warning,) = info.provenance["warnings"]
    assert "2 of 4 judged captions are left out" in warning
    assert info.provenance["judged_captions_without_image"] == 2


def test_where_no_image_is_there_it_stops(data):
    with pytest.raises(ValueError, match=r"2 of 2 rows cannot be used: line 1: no image x.jpg"):
        data([{"image": "photos/x.jpg", "caption": "x"}] * 2, only_present=True).describe("test")


@pytest.mark.parametrize("rows", [[], ["", "  "]])
def test_a_file_without_rows_is_an_error(data, rows):
    with pytest.raises(ValueError, match=r"candidates.jsonl has no rows"):
        data(rows).describe("test")


def test_a_file_that_is_not_there_or_no_text(tmp_path, options):
    with pytest.raises(ValueError, match=r"data.path=.*nowhere.jsonl is not a file"):
        CaptionsDataModule(path=str(tmp_path / "nowhere.jsonl"), **options).describe("test")
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"cannot read .*x.jsonl"):
        CaptionsDataModule(path=str(tmp_path / "x.jsonl"), **options).describe("test")


def test_absolute_and_relative_paths_of_images_mix(data, tmp_path):
    module = data([{"image": str(tmp_path / "photos" / "a.jpg"), "caption": "x"}, ROWS[1]])
    assert module.files("test") == [tmp_path / n for n in ("candidates.jsonl", "photos/a.jpg", "photos/b.jpg")]


def test_a_relative_path_of_the_file_means_the_working_folder(write, options, monkeypatch, tmp_path):
    write(ROWS)
    monkeypatch.chdir(tmp_path)
    module = CaptionsDataModule(path="candidates.jsonl", **options)
    assert module.files("test") == [tmp_path / n for n in ("candidates.jsonl", "photos/a.jpg", "photos/b.jpg")]
