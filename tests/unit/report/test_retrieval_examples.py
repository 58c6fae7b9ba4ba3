import torch
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import RowResult
from i0t.report.retrieval_examples import example_pairs, image_queries, text_queries


def make_set(captions: tuple[str, ...] | None = None, relevant: torch.Tensor | None = None) -> EmbeddingSet:
    generator = torch.Generator().manual_seed(0)
    return EmbeddingSet.from_index(
        torch.randn(10, 6, generator=generator),
        torch.randn(20, 6, generator=generator),
        torch.arange(20) // 2,
        captions=captions,
        relevant_pairs=relevant,
    )


def make_row(embeddings: EmbeddingSet, name: str) -> RowResult:
    return RowResult(
        name=name,
        reducer="x.Y",
        fit_split=None,
        fit_samples=0,
        protocol="none",
        metrics={},
        intervals={},
        image_features=F.normalize(embeddings.image_features, dim=1),
        text_features=F.normalize(embeddings.text_features, dim=1),
    )


def test_answers_are_the_nearest_and_marked_by_the_pairs() -> None:
    embeddings = make_set()
    row = make_row(embeddings, "none")
    cosines = (row.image_features.double() @ row.text_features.double().T).tolist()
    for example in image_queries(embeddings, [row], count=10, k=5):
        ((name, answers),) = example.answers
        order = sorted(range(20), key=lambda text: -cosines[example.query][text])
        assert name == "none"
        assert [item.row for item in answers] == order[:5]
        assert [item.correct for item in answers] == [text // 2 == example.query for text in order[:5]]
    for example in text_queries(embeddings, [row], count=20, k=3):
        ((_, answers),) = example.answers
        order = sorted(range(10), key=lambda image: -cosines[image][example.query])
        assert [item.row for item in answers] == order[:3]
        assert [item.correct for item in answers] == [image == example.query // 2 for image in order[:3]]


def test_any_relevant_text_is_right_and_equal_captions_are_listed_once() -> None:
    captions = tuple(f"caption {text % 4}" for text in range(20))
    relevant = torch.tensor([[image, text] for image in range(10) for text in range(20) if text % 4 == image % 4])
    embeddings = make_set(captions, relevant)
    row = make_row(embeddings, "none")
    for example in image_queries(embeddings, [row], count=10, k=5):
        ((_, answers),) = example.answers
        assert sorted(captions[item.row] for item in answers) == [f"caption {number}" for number in range(4)]
        true_captions = {f"caption {example.query % 4}"} | {
            captions[2 * example.query],
            captions[2 * example.query + 1],
        }
        assert {captions[item.row] for item in answers if item.correct} == true_captions


def test_queries_are_seeded_and_every_row_answers_the_same_ones() -> None:
    embeddings = make_set()
    rows = [make_row(embeddings, "none"), make_row(embeddings, "posthoc")]
    examples = image_queries(embeddings, rows, count=4)
    assert len(examples) == 4
    assert [[name for name, _ in example.answers] for example in examples] == [["none", "posthoc"]] * 4
    assert examples == image_queries(embeddings, rows, count=4)
    assert {e.query for e in examples} != {e.query for e in image_queries(embeddings, rows, count=4, seed=1)}


def test_examples_pair_each_image_with_its_first_text() -> None:
    embeddings = make_set()
    shown = example_pairs(embeddings, count=6)
    assert len({image for image, _ in shown}) == 6
    assert all(text == 2 * image for image, text in shown)
    unpaired = EmbeddingSet(
        image_features=torch.eye(3), text_features=torch.eye(3), pairs=torch.empty(0, 2, dtype=torch.int64)
    )
    assert example_pairs(unpaired, count=2) == [(image, None) for image, _ in example_pairs(unpaired, count=2)]


def first_true_rank(cosines: list[float], names: list[str], true_names: set[str]) -> int:
    """By going through the gallery, nearest first; an equally near wrong answer comes before a right one."""
    order = sorted(range(len(names)), key=lambda item: (-cosines[item], names[item] in true_names))
    passed: set[str] = set()
    for item in order:
        if names[item] in true_names:
            return len(passed) + 1
        passed.add(names[item])
    raise AssertionError("no true answer")


def test_the_first_true_match_is_at_the_rank_that_is_named() -> None:
    captions = tuple(f"caption {text % 7}" for text in range(20))
    embeddings = make_set(captions)
    row = make_row(embeddings, "none")
    cosines = row.image_features.float() @ row.text_features.float().T
    found = set()
    for example in image_queries(embeddings, [row], count=10):
        truths = {captions[2 * example.query], captions[2 * example.query + 1]}
        assert example.ranks == (first_true_rank(cosines[example.query].tolist(), list(captions), truths),)
        found.add(example.ranks[0])
    assert len(found) > 2
    images = [f"image {row}" for row in range(10)]
    for example in text_queries(embeddings, [row], count=20):
        expected = first_true_rank(cosines[:, example.query].tolist(), images, {images[example.query // 2]})
        assert example.ranks == (expected,)


def test_a_tie_counts_against_the_true_match() -> None:
    image = torch.eye(4)[[0, 1]]
    embeddings = EmbeddingSet.from_index(image, torch.eye(4)[[0, 0, 1]], torch.tensor([0, 1, 1]))
    example = next(e for e in image_queries(embeddings, [make_row(embeddings, "none")], count=2) if e.query == 0)
    assert example.ranks == (2,)


def test_half_of_the_queries_are_misses_of_the_first_row_where_there_are_enough() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(60, 8, generator=generator)
    texts = hidden.clone()
    texts[:30] = texts[:30].flip(0)  # the first thirty are paired with each other's texts
    embeddings = EmbeddingSet.from_index(hidden, texts, torch.arange(60))
    examples = image_queries(embeddings, [make_row(embeddings, "none")], count=6)
    assert [example.ranks[0] == 1 for example in examples] == [True, True, True, False, False, False]
    assert all(example.query < 30 for example in examples[3:])
    assert all(
        (answers[0].correct) == (example.ranks[0] == 1) for example in examples for _, answers in example.answers
    )
    all_right = EmbeddingSet.from_index(hidden, hidden, torch.arange(60))
    assert [e.ranks for e in text_queries(all_right, [make_row(all_right, "none")], count=6)] == [(1,)] * 6
