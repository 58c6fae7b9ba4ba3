"""Flickr8k-Expert: a stand-in read by a plain loop, what is malformed, and the counts of the real files."""

import csv

import pytest
import torch

from i0t.data.flickr8k_expert import Flickr8kExpertDataModule

NAMES = ["10_a.jpg", "20_b.jpg", "30_c.jpg", "40_d.jpg"]


@pytest.fixture
def root(tmp_path, images):
    """Four images, each judged with captions of itself and of all others; caption numbers in falling order."""
    images(tmp_path / "Flicker8k_Dataset", NAMES)
    tokens = [f"{name}#{i}\tcaption  {i} of {name} ." for name in NAMES for i in reversed(range(5))]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(tokens) + "\n")
    rows = []
    for i, name in enumerate(NAMES):
        for j, other in enumerate(NAMES):
            ratings = [1 + (i * j + k * i) % 4 for k in range(3)]
            rows.append("\t".join([name, f"{other}#{(i + j) % 5}", *map(str, ratings)]))
    (tmp_path / "ExpertAnnotations.txt").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.fixture
def data(root, options):
    def build(**changed):
        return Flickr8kExpertDataModule(root=str(root), **{"self_pairs": False} | options | changed)

    return build


def naive(folder, self_pairs, file="ExpertAnnotations.txt"):
    """(image, caption, own captions, cells) of every line, by a plain loop."""
    captions = {}
    for line in (folder / "Flickr8k.token.txt").read_text().splitlines():
        caption_id, caption = line.split("\t")
        captions[caption_id] = " ".join(caption.split())
    rows = []
    with (folder / file).open(newline="") as lines:
        for cells in csv.reader(lines, delimiter="\t"):
            image, caption_id = cells[:2]
            if self_pairs or caption_id[:-2] != image:
                own = {captions[f"{image}#{i}"] for i in range(5)}
                rows.append((image.split(".")[0], captions[caption_id], own, cells[2:]))
    judged = {}
    for image, caption, _, _ in rows:
        judged.setdefault(image, set()).add(caption)
    return [(image, caption, own - judged[image], cells) for image, caption, own, cells in rows]


@pytest.mark.parametrize("self_pairs", [False, True])
def test_it_equals_a_plain_loop(data, root, rows_of, pairs_of, self_pairs):
    module = data(self_pairs=self_pairs)
    expected = [(i, c, own, [float(x) for x in cells]) for i, c, own, cells in naive(root, self_pairs)]
    assert [(i, c, set(refs), ratings) for i, c, refs, ratings in rows_of(module)] == expected
    assert len(expected) == (16 if self_pairs else 12)
    assert pairs_of(module) == {(image, text) for image, _, own, _ in expected for text in own}
    judged = module.describe("test").judgements
    assert judged.headline == "c"
    assert judged.ratings.dtype == torch.float64
    assert f"4 captions judged with their own image {'kept' if self_pairs else 'left out'}" in judged.description
    lines = [line for line in range(1, 17) if self_pairs or line not in (1, 6, 11, 16)]
    assert judged.source == tuple(lines)


def test_other_counts_than_the_published_ones_are_said(data):
    warnings = data().describe("test").provenance["warnings"]
    assert any("16 rows, where the official file has 5,822" in w for w in warnings)
    assert any("12 judged captions, where the published set has 5,664" in w for w in warnings)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("10_a.jpg\t20_b.jpg#1\t1\t2", "4 cells where there should be 5"),
        ("10_a.jpg 20_b.jpg#1 1 2 3", "1 cells where there should be 5"),
        ("zz.jpg\t20_b.jpg#1\t1\t2\t3", "Flickr8k.token.txt has no image zz.jpg"),
        ("10_a.jpg\t20_b.jpg#7\t1\t2\t3", "Flickr8k.token.txt has no caption 20_b.jpg#7"),
        ("10_a.jpg\t20_b.jpg\t1\t2\t3", "Flickr8k.token.txt has no caption 20_b.jpg"),
        ("10_a.jpg\t20_b.jpg#1\t1\tx\t3", "the rating 'x' is not a number"),
        ("10_a.jpg\t20_b.jpg#1\t1\t5\t3", "the rating '5' is not within 1 to 4"),
        ("10_a.jpg\t20_b.jpg#1\t1\tnan\t3", "the rating 'nan' is not within 1 to 4"),
        ("10_a.jpg\t20_b.jpg#1\t1\t2.5\t3", "ratings must be whole numbers from 1 to 4"),
        ("10_a.jpg\t20_b.jpg#1\t1\t\t3", "ratings must be whole numbers from 1 to 4"),
    ],
)
def test_a_malformed_line_is_named(data, root, line, why):
    file = root / "ExpertAnnotations.txt"
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(ValueError, match=r"^ExpertAnnotations.txt: 1 of 17 rows cannot be used: line 17: ") as error:
        data().describe("test")
    assert why in str(error.value)


def test_missing_images_are_an_error_or_left_out(data, root, rows_of):
    (root / "Flicker8k_Dataset" / NAMES[1]).unlink()
    with pytest.raises(ValueError, match=r"3 of 16 rows cannot be used: line 5: no image 20_b.jpg in .*only_present"):
        data().describe("test")
    assert {row[0] for row in rows_of(data(only_present=True))} == {"10_a", "30_c", "40_d"}
    assert len(rows_of(data(only_present=True))) == 9


def test_nothing_but_self_pairs_is_nothing(data, root):
    file = root / "ExpertAnnotations.txt"
    file.write_text(file.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="there are no judged captions"):
        data().describe("test")


def test_files_that_are_not_there(data, root):
    (root / "Flickr8k.token.txt").rename(root / "other.txt")
    with pytest.raises(ValueError, match=r"has no Flickr8k.token.txt"):
        data().describe("test")
    (root / "Flickr8k_text").mkdir()
    (root / "other.txt").rename(root / "Flickr8k_text" / "Flickr8k.token.txt")
    assert len(data().describe("test").judgements.candidates) == 12
    (root / "ExpertAnnotations.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"ExpertAnnotations.txt has no rows"):
        data().describe("test")


def test_the_error_of_another_split_names_flickr8k(data):
    with pytest.raises(ValueError, match=r"flickr8k_expert has only a test split.*gap_reducer.fit_data=flickr8k"):
        data().describe("train")


@pytest.mark.data
def test_the_real_file_has_the_published_counts(shared_data, options):
    folder = shared_data / "flickr8k"
    module = Flickr8kExpertDataModule(root=str(folder), self_pairs=False, **options)
    table = module.read_table(module._finder)
    expected = naive(folder, self_pairs=False)
    assert len(table.captions) == len(expected) == 5664
    assert sum(len(judged.ratings) for judged in table.captions) == 16_992
    assert not table.problems
    assert not table.warnings
    for judged, (image, caption, own, cells) in zip(table.captions, expected, strict=True):
        assert (judged.image_id, " ".join(judged.caption.split())) == (image, caption)
        assert judged.ratings == tuple(map(float, cells))
        assert {" ".join(text.split()) for text in judged.references} == own
    assert len({judged.image_id for judged in table.captions}) == 1000
    used = Flickr8kExpertDataModule(root=str(folder), self_pairs=False, **options | {"only_present": True})
    here = [row for row in expected if (folder / "images" / f"{row[0]}.jpg").is_file()]
    assert used.describe("test").judgements.ratings.tolist() == [[float(x) for x in row[3]] for row in here]
    assert len(here) > 0
