"""What dashboards show of a split, against plain loops."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from i0t.callbacks.dashboard_content import IMAGE_TILE, TEXT_TILE, Moment, Shown, ShownPairs, log_moment
from i0t.embeddings import EmbeddingSet
from i0t.loggers.dashboard import BIN_EDGES


def unit(rows, width, seed=0):
    return torch.nn.functional.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def choose(shown, pairs, captions, **more):
    return shown.choose(torch.tensor(pairs), captions, labels={}, class_names={}, **more)


def as_pairs(tensor):
    return {tuple(row) for row in tensor.tolist()}


def moment_of(captions, *, step=7, true_pairs=None):
    number = len(captions)
    pairs = choose(Shown(), [[k, k] for k in range(number)], captions, true_pairs=true_pairs)
    return Moment("val", step, pairs, unit(number, 8), unit(number, 8, seed=1))


def test_every_image_drawn_has_its_first_text():
    # Two captions an image, in no order; image 2 has none.
    pairs = [[3, 0], [0, 1], [3, 2], [0, 3], [1, 4], [1, 5]]
    found = choose(Shown(num_pairs=9), pairs, list("abcdef"))
    assert found.image_rows.tolist() == [0, 1, 3]
    assert found.text_rows.tolist() == [1, 4, 0]
    assert found.captions == ["b", "e", "a"]


def test_the_draw_is_bounded_seeded_and_without_repeats():
    pairs = [[k, k] for k in range(50)]
    captions = [f"text {k}" for k in range(50)]
    first, again, other = (choose(Shown(num_pairs=7, seed=s), pairs, captions) for s in (0, 0, 1))
    assert len(set(first.image_rows.tolist())) == 7
    assert first.image_rows.tolist() == again.image_rows.tolist() != other.image_rows.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_texts_that_are_true_of_an_image_are_told_from_the_others(seed):
    generator = np.random.default_rng(seed)
    captions = [f"text {generator.integers(6)}" for _ in range(12)]
    pairs = [[int(image), text] for text, image in enumerate(generator.integers(0, 9, size=12))]
    true_pairs = generator.integers(0, (9, 12), size=(10, 2))
    shown = Shown(num_pairs=6)
    found = choose(shown, pairs, captions, true_pairs=torch.from_numpy(true_pairs))
    wanted = set()
    for i, image in enumerate(found.image_rows.tolist()):
        for t, text in enumerate(found.text_rows.tolist()):
            listed = [image, text] in pairs or [image, text] in true_pairs.tolist()
            if listed or captions[found.text_rows[i]] == captions[text]:
                wanted.add((i, t))
    assert as_pairs(found.true_of) == wanted


def test_a_text_of_many_images_stands_beside_each_of_them():
    found = choose(Shown(), [[0, 1], [1, 0], [2, 1]], ["cat", "dog"])
    assert found.text_rows.tolist() == [1, 0, 1]
    assert as_pairs(found.true_of) == {(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)}


def test_pairs_without_captions_are_numbered_and_labels_named():
    found = Shown().choose(
        torch.tensor([[1, 0], [0, 1]]), None, labels={"digit": torch.tensor([1, 0]), "bird": torch.tensor([3, 4])},
        class_names={"digit": ["zero", "one"]},
    )  # fmt: skip
    assert found.captions == ["text 1", "text 0"]
    assert found.labels == {"digit": ["one", "zero"], "bird": ["3", "4"]}


def test_what_was_not_encoded_is_left_out():
    captions = ["a", "b", "a", "c"]
    kept = choose(Shown(), [[k, k] for k in range(4)], captions).take(torch.tensor([0, 2, 3]))
    assert kept.image_rows.tolist() == [0, 2, 3]
    assert kept.captions == ["a", "a", "c"]
    assert as_pairs(kept.true_of) == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 2)}


def test_cosines_are_counted_by_kind():
    captions = ["a", "b", "a", "c", "d"]
    moment = moment_of(captions, true_pairs=torch.tensor([[3, 4]]))
    images, texts = moment.image_features.numpy(), moment.text_features.numpy()
    cosines = {"matched": [], "unmatched": [], "image_image": [], "text_text": []}
    for i in range(5):
        for t in range(5):
            if i == t:
                cosines["matched"].append(images[i] @ texts[t])
            elif captions[i] != captions[t] and (i, t) != (3, 4):
                cosines["unmatched"].append(images[i] @ texts[t])
            if i < t:
                cosines["image_image"].append(images[i] @ images[t])
                cosines["text_text"].append(texts[i] @ texts[t])
    assert len(cosines["unmatched"]) == 20 - 3
    assert moment.mean_cosines() == pytest.approx(
        {f"val/mean_cosine/{kind}": np.mean(values) for kind, values in cosines.items()}, abs=1e-6
    )
    for kind, counts in moment.histograms().counts().items():
        wanted = [sum(low <= value < high for value in cosines[kind]) for low, high in itertools.pairwise(BIN_EDGES)]
        assert counts.tolist() == wanted


def test_kinds_that_do_not_exist_are_left_out():
    moment = moment_of(["same", "same"])
    assert set(moment.mean_cosines()) == {f"val/mean_cosine/{kind}" for kind in ("matched", "image_image", "text_text")}
    assert set(moment.histograms().counts()) == {"matched", "image_image", "text_text"}


def test_a_cosine_beyond_one_by_rounding_is_counted():
    pairs = choose(Shown(), [[0, 0], [1, 1]], ["a", "b"])
    rows = torch.eye(2) * (1 + 1e-6)
    counts = Moment("val", 0, pairs, rows, rows).histograms().counts()
    assert counts["matched"].sum() == counts["matched"][-1] == 2


def test_the_projection_is_that_of_all_points_about_their_mean():
    moment = moment_of(["a", "b", "c", "d", "e"])
    table = moment.projection().table
    assert table.columns == ("modality", "row", "caption", "x", "y")
    assert [line[:3] for line in table.lines[4:7]] == [("image", 4, "e"), ("text", 0, "a"), ("text", 1, "b")]
    points = torch.cat([moment.image_features, moment.text_features]).double().numpy()
    centred = points - points.mean(axis=0)
    axes = np.linalg.svd(centred)[2][:2]
    found = np.array([line[-2:] for line in table.lines])
    np.testing.assert_allclose(np.abs(found), np.abs(centred @ axes.T), atol=1e-6)


def pictures(rows):
    """A photo of one colour for each row."""
    return [np.full((20 + row, 40, 3), 10 * row, np.uint8) for row in rows]


def test_an_embedding_has_a_thumbnail_for_each_image_and_a_tile_for_each_text():
    moment = moment_of(["a", "b", "c"])
    embedding = moment.embedding(pictures)
    np.testing.assert_array_equal(embedding.vectors, torch.cat([moment.image_features, moment.text_features]).numpy())
    tiles = embedding.thumbnails()
    assert tiles.shape == (6, 32, 32, 3)
    assert [int(tile.mean()) for tile in tiles[:3]] == [0, 10, 20]
    assert (tiles[3:] == TEXT_TILE).all()
    assert (moment.embedding(None).thumbnails()[:3] == IMAGE_TILE).all()


def test_examples_tell_the_nearest_text():
    pairs = choose(Shown(), [[k, k] for k in range(3)], ["own", "other", "third"])
    images = torch.eye(3)
    texts = torch.eye(3)[[1, 0, 2]]  # the first two are exchanged
    examples = Moment("val", 0, pairs, images, texts).examples(pictures, 9)
    assert examples.table.lines == [(0, "own", 0.0, "other", 1.0), (1, "other", 0.0, "own", 1.0),
                                    (2, "third", 1.0, "third", 1.0)]  # fmt: skip
    assert examples.captions[0] == "own (0.00); nearest: other (1.00)"
    assert examples.captions[2] == "third (1.00); no text is nearer"
    assert [int(image[0, 0, 0]) for image in examples.images] == [0, 10, 20]


def test_examples_are_spread_over_the_pairs_and_small():
    moment = moment_of([f"text {k}" for k in range(11)])
    examples = moment.examples(lambda rows: [np.zeros((600, 1200, 3), np.uint8) for _ in rows], 3)
    assert [line[0] for line in examples.table.lines] == [0, 5, 10]
    assert {image.shape for image in examples.images} == {(128, 256, 3)}


def test_pictures_are_png_and_drawn_once():
    moment = moment_of([f"text {k}" for k in range(5)])
    for content in (moment.histograms(), moment.projection(), moment.examples(pictures, 2)):
        first = content.draw()
        assert Image.open(io.BytesIO(first)).width > 300
        assert content.draw() is first


class Recorder:
    """A logger that is no dashboard."""

    def __init__(self):
        self.seen = []

    def log_metrics(self, metrics, step):
        self.seen.append((metrics, step))


def test_a_logger_that_is_no_dashboard_gets_the_means_and_nothing_is_drawn():
    moment, logger = moment_of(["a", "b", "c"]), Recorder()
    log_moment([logger], moment, images=None, num_examples=0)
    assert logger.seen == [(moment.mean_cosines(), 7)]


def test_shown_pairs_hold_an_embedding_set_together():
    """The rows are those of the set, whatever its order."""
    images, texts = unit(6, 4), unit(6, 4, seed=1)
    order = torch.tensor([5, 3, 0, 1, 4, 2])
    whole = EmbeddingSet.from_index(images, texts, order, captions=tuple("abcdef"))
    pairs = Shown(num_pairs=4).choose(whole.pairs, whole.captions, labels={}, class_names={})
    assert isinstance(pairs, ShownPairs)
    for image, text, caption in zip(pairs.image_rows.tolist(), pairs.text_rows.tolist(), pairs.captions, strict=True):
        assert order[text] == image
        assert caption == "abcdef"[text]
