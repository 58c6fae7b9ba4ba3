"""PASCAL-50S: pairs, votes and references from MATLAB files of the published layout."""

import numpy as np
import pytest
from scipy.io import savemat

from i0t.data.pascal50s import Pascal50sDataModule

NUM_VOTES = 6
PAIRS = [("x.jpg", " first 0 ", "second 0"), ("y.jpg", "first 1", "second 1"), ("x.jpg", "first 2", "second 2")]
PAIRS += [("z.jpg", "first 3", "second 3"), ("y.jpg", "first 4", "second 4")]
CATEGORIES = [1, 2, 3, 4, 3]
FOR_FIRST = [6, 1, 3, 4, 2]  # votes of 6 for the first caption of each pair; the third pair is a tie


def struct(rows):
    """A MATLAB struct array with one row of entries."""
    array = np.empty((1, len(rows)), dtype=[(f"f{i}", object) for i in range(len(rows[0]))])
    for place, row in enumerate(rows):
        array[0, place] = tuple(row)
    return array


def cell(value):
    array = np.empty((1, 1), dtype=object)
    array[0, 0] = value
    return array


def references_of(pair):
    return [f"reference {pair} {vote}" for vote in range(NUM_VOTES)]


def write(folder, *, pairs=PAIRS, categories=CATEGORIES, change=lambda triplets: triplets):
    folder.mkdir(parents=True, exist_ok=True)
    triplets = []
    for number, (_, first, second) in enumerate(PAIRS):
        for vote, reference in enumerate(references_of(number)):
            swapped = number % 2 == 1  # the file of votes has its own order of the two captions
            b, c = (second, first) if swapped else (first, second)
            for_b = (vote < FOR_FIRST[number]) != swapped
            triplets.append([cell(reference + " "), cell(b), cell(c.strip()), 1.0 if for_b else -1.0])
    savemat(folder / "pair_pascal.mat", {"new_input": struct(pairs), "category": np.array([categories])})
    savemat(folder / "consensus_pascal.mat", {"triplets": struct(change(triplets))})


@pytest.fixture
def data(tmp_path, images, options):
    images(tmp_path / "VOC2010" / "JPEGImages", ["x.jpg", "y.jpg", "z.jpg"])
    write(tmp_path / "pyCIDErConsensus")

    def build(**changed):
        return Pascal50sDataModule(root=str(tmp_path), **{"num_references": 2, "seed": 0} | options | changed)

    return build


def preferred(module):
    """(winner, loser, category) of each pair in words."""
    info = module.describe("test")
    judged = info.judgements
    texts = [text.removeprefix(module.prompt_prefix) for text in info.captions]
    names = [texts[row] for row in judged.candidates[:, 1].tolist()]
    categories = [judged.category_names[i] for i in judged.preference_category.tolist()]
    return [(names[a], names[b], c) for (a, b), c in zip(judged.preferences.tolist(), categories, strict=True)]


def test_the_majority_wins_whatever_the_order_in_the_file_of_votes(data):
    assert [entry for number, entry in enumerate(preferred(data())) if number != 2] == [
        ("first 0", "second 0", "HC"),
        ("second 1", "first 1", "HI"),
        ("first 3", "second 3", "MM"),
        ("second 4", "first 4", "HM"),
    ]
    judged = data().describe("test").judgements
    assert judged.ratings.shape == (10, 0)
    assert judged.category_names == ("HC", "HI", "HM", "MM")
    assert judged.source == ()


def test_a_tie_is_broken_by_the_seed_and_counted(data):
    winners = [preferred(data(seed=seed))[2][0] for seed in range(12)]
    assert winners == [preferred(data(seed=seed))[2][0] for seed in range(12)]
    assert set(winners) == {"first 2", "second 2"}
    assert data().describe("test").provenance["num_ties"] == 1
    others = [[p for i, p in enumerate(preferred(data(seed=seed))) if i != 2] for seed in range(3)]
    assert others[0] == others[1] == others[2]


def test_references_are_drawn_without_repeats_for_both_captions_alike(data, rows_of):
    for seed in range(4):
        drawn = [len(set(row[2])) for row in rows_of(data(seed=seed, num_references=5))]
        assert drawn == [5] * 10
    rows = rows_of(data())
    for pair in range(5):
        first, second = rows[2 * pair][2], rows[2 * pair + 1][2]
        assert first == second
        assert len(set(first)) == 2
        assert set(first) <= set(references_of(pair))
        assert rows[2 * pair][0] == PAIRS[pair][0].removesuffix(".jpg")
    draws = {tuple(rows_of(data(seed=seed))[0][2]) for seed in range(12)}
    assert len(draws) > 4
    assert rows == rows_of(data())


def test_all_references_and_too_many(data, rows_of, pairs_of):
    assert [row[2] for row in rows_of(data(num_references=None))[::2]] == [references_of(pair) for pair in range(5)]
    assert len(pairs_of(data(num_references=None))) == 5 * NUM_VOTES
    assert rows_of(data(num_references=NUM_VOTES))[0][2] != []
    with pytest.raises(ValueError, match=r"data.num_references=7, but pairs have 6 references"):
        data(num_references=7).describe("test")
    with pytest.raises(ValueError, match=r"data.num_references=0 must be null or at least 1"):
        data(num_references=0)


def test_images_are_encoded_once(data):
    info = data().describe("test")
    assert info.image_ids == ["x", "y", "z"]
    assert info.judgements.candidates[:, 0].tolist() == [0, 0, 1, 1, 0, 0, 2, 2, 1, 1]
    assert "10 judged captions, where the published set has 8,000" in info.provenance["warnings"][0]


def test_what_is_wrong_with_pairs_is_one_error(data, tmp_path):
    def strange(triplets):
        triplets[0][1] = cell("somebody else's")
        triplets[NUM_VOTES * 2][0] = cell(3.0)
        return triplets

    pairs = [*PAIRS[:3], ("none.jpg", *PAIRS[3][1:]), PAIRS[4]]
    write(tmp_path / "pyCIDErConsensus", pairs=pairs, categories=[1, 5, 3, 4, 3], change=strange)
    with pytest.raises(ValueError, match=r"^pair_pascal.mat: 4 of 5 rows cannot be used: ") as error:
        data().describe("test")
    parts = str(error.value).split("used: ")[1].split("; ")
    assert parts[0].startswith('pair 1: 1 votes are for "somebody else\'s", which is neither')
    assert parts[1] == "pair 2: category 5 is not 1 to 4"
    assert parts[2] == "pair 3: '3.0' is not a text"
    assert parts[3].startswith("pair 4: no image none.jpg in ")


def test_a_pair_whose_image_is_missing_goes_with_its_preference(data, tmp_path):
    (tmp_path / "VOC2010" / "JPEGImages" / "x.jpg").unlink()
    assert [pair[2] for pair in preferred(data(only_present=True))] == ["HI", "MM", "HM"]


def test_files_that_do_not_fit_or_cannot_be_read(data, tmp_path):
    folder = tmp_path / "pyCIDErConsensus"
    write(folder, change=lambda triplets: triplets[1:])
    with pytest.raises(ValueError, match=r"has 5 pairs with 5 categories, and consensus_pascal.mat 29 votes"):
        data().describe("test")
    whole = (folder / "consensus_pascal.mat").read_bytes()
    for size in (0, 60, 130, 500, len(whole) - 50):
        (folder / "consensus_pascal.mat").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cannot read .*consensus_pascal.mat"):
            data().describe("test")
    savemat(folder / "consensus_pascal.mat", {"other": 1})
    with pytest.raises(ValueError, match=r"consensus_pascal.mat has no triplets"):
        data().describe("test")
    (folder / "pair_pascal.mat").unlink()
    with pytest.raises(ValueError, match=r"has no pair_pascal.mat"):
        data().describe("test")
