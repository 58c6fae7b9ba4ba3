"""Flickr8k-CF: shares of yes read by a plain loop, what is malformed, and the counts of the real file."""

import pytest

from i0t.data.flickr8k_cf import Flickr8kCrowdFlowerDataModule

NAMES = ["10_a.jpg", "20_b.jpg"]
LINES = [
    "10_a.jpg\t10_a.jpg#2\t1\t3\t0",
    "10_a.jpg\t20_b.jpg#0\t0.333333333333333\t1\t2",
    "20_b.jpg\t10_a.jpg#1\t0.333333333333333\t2\t4",
    "20_b.jpg\t10_a.jpg#1\t0\t0\t3",
]


@pytest.fixture
def data(tmp_path, images, options):
    images(tmp_path / "Images", NAMES)
    tokens = [f"{name}#{i}\tcaption {i} of {name}" for name in NAMES for i in range(5)]
    (tmp_path / "Flickr8k.token.txt").write_text("\n".join(tokens) + "\n")

    def build(lines, **changed):
        (tmp_path / "CrowdFlowerAnnotations.txt").write_text("\n".join(lines) + "\n")
        return Flickr8kCrowdFlowerDataModule(root=str(tmp_path), **{"self_pairs": False} | options | changed)

    return build


def test_the_rating_is_the_share_of_yes_and_equal_shares_are_ties(data, rows_of):
    rows = rows_of(data(LINES))
    assert [(row[0], row[1], row[3]) for row in rows] == [
        ("10_a", "caption 0 of 20_b.jpg", [1 / 3]),
        ("20_b", "caption 1 of 10_a.jpg", [1 / 3]),
        ("20_b", "caption 1 of 10_a.jpg", [0.0]),
    ]
    judged = data(LINES).describe("test").judgements
    assert judged.ratings[0] == judged.ratings[1]
    assert judged.headline == "b"
    assert judged.source == (2, 3, 4)


def test_a_self_pair_that_is_kept_is_no_reference_of_its_image(data, rows_of):
    rows = rows_of(data(LINES, self_pairs=True))
    assert rows[0][1] == "caption 2 of 10_a.jpg"
    left = [f"caption {i} of 10_a.jpg" for i in (0, 1, 3, 4)]
    assert rows[0][2] == rows[1][2] == left
    assert len(rows[2][2]) == 5


def test_the_number_of_rows_is_said(data):
    (warning,) = data(LINES).describe("test").provenance["warnings"]
    assert "CrowdFlowerAnnotations.txt has 4 rows, where the official file has 47,830" in warning


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ("0.5\t1\t2", "the share of yes is '0.5', with 1 yes and 2 no"),
        ("0\t0\t0", "with 0 yes and 0 no"),
        ("x\t1\t2", "the rating 'x' is not a number"),
        ("1.5\t3\t0", "is not within 0 to 1"),
        ("1\t3\t-1", "the counts of yes and no must be whole numbers"),
        (" \t1\t2", "the share of yes is ' '"),
    ],
)
def test_a_malformed_line_is_named(data, cells, why):
    with pytest.raises(ValueError, match=r"^CrowdFlowerAnnotations.txt: 1 of 5 rows cannot be used: line 5: ") as error:
        data([*LINES, f"10_a.jpg\t20_b.jpg#3\t{cells}"]).describe("test")
    assert why in str(error.value)


@pytest.mark.data
def test_the_counts_of_the_real_file(shared_data, options):
    folder = shared_data / "flickr8k"
    module = Flickr8kCrowdFlowerDataModule(root=str(folder), self_pairs=False, **options)
    table = module.read_table(module._finder)
    assert len(table.captions) == 46_575
    assert not table.problems
    assert "47,288 rows, where the official file has 47,830" in table.warnings[0]
    plain = [line.split("\t") for line in (folder / "CrowdFlowerAnnotations.txt").read_text().splitlines()]
    shares = [float(cells[2]) for cells in plain if not cells[1].startswith(cells[0])]
    assert [judged.ratings[0] for judged in table.captions] == pytest.approx(shares, abs=1e-12)
