import pytest
import torch

from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.judgements import Judgements


def small_set(**changes):
    fields = {
        "image_features": torch.arange(1.0, 13).view(4, 3),
        "text_features": torch.arange(1.0, 19).view(6, 3),
        "pairs": torch.tensor([[0, 0], [0, 1], [1, 2], [2, 3], [2, 4], [3, 5]]),
        "labels": {"digit": torch.tensor([3, 1, 4, 1])},
        "groups": torch.tensor([0, 0, 1, 1]),
        "image_ids": ("a", "b", "c", "d"),
        "captions": tuple("uvwxyz"),
    }
    return EmbeddingSet(**{**fields, **changes})


def test_text_image_index_and_its_constructor_are_inverse():
    embeddings = small_set()
    index = embeddings.text_image_index
    assert index.tolist() == [0, 0, 1, 2, 2, 3]
    again = EmbeddingSet.from_index(embeddings.image_features, embeddings.text_features, index)
    assert torch.equal(again.pairs, embeddings.pairs)


def test_there_is_no_index_when_a_text_has_several_images_or_none():
    several = small_set(pairs=torch.tensor([[0, 0], [1, 0]]))
    with pytest.raises(ValueError, match="5 texts have none and 1 have several"):
        several.text_image_index  # noqa: B018


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_features": torch.ones(6, 2)}, "3 wide and text features 2"),
        ({"image_features": torch.ones(4)}, "must be"),
        ({"image_features": torch.empty(0, 3)}, "no image features"),
        ({"image_features": torch.tensor([[1.0, 2, 3]] * 3 + [[1, float("nan"), 3]])}, "1 of 4 image .* row 3"),
        ({"text_features": torch.tensor([[1.0, 2, 3]] * 5 + [[0.0, 0, 0]])}, "1 of 6 text .* zero .* row 5"),
        ({"pairs": torch.tensor([[4, 0]])}, "image 4 and text 0, but there are 4 images"),
        ({"pairs": torch.tensor([[0, -1]])}, "points at"),
        ({"pairs": torch.tensor([0, 1])}, "must be .P, 2. int64"),
        ({"relevant_pairs": torch.tensor([[0, 9]])}, "relevant_pairs points at"),
        ({"labels": {"digit": torch.tensor([1])}}, r"labels\[digit\] has 1 entries for 4 images"),
        ({"labels": {"digit": torch.tensor([0, 1, -1, 0])}}, r"labels\[digit\] holds classes -1 to 1, but .* from 0"),
        (
            {"labels": {"digit": torch.tensor([0, 1, 2, 0])}, "class_names": {"digit": ("a", "b")}},
            r"labels\[digit\] holds classes 0 to 2, but 2 classes have names or prompts",
        ),
        ({"groups": torch.tensor([1])}, "groups has 1"),
        ({"captions": ("a",)}, "captions has 1 entries for 6 texts"),
        ({"image_ids": ("a",)}, "image_ids has 1"),
    ],
)
def test_a_set_that_disagrees_with_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_set(**changes)


def test_selected_images_keep_their_own_texts_and_numbers():
    chosen = small_set(relevant_pairs=torch.tensor([[2, 3], [2, 0], [0, 1], [3, 5]])).select_images(
        torch.tensor([2, 0])
    )
    assert chosen.image_ids == ("c", "a")
    assert chosen.captions == ("u", "v", "x", "y")
    assert torch.equal(chosen.image_features, torch.tensor([[7.0, 8, 9], [1, 2, 3]]))
    assert sorted(chosen.pairs.tolist()) == [[0, 2], [0, 3], [1, 0], [1, 1]]
    assert sorted(chosen.relevant_pairs.tolist()) == [[0, 0], [0, 2], [1, 1]]
    assert chosen.labels["digit"].tolist() == [4, 3]
    assert chosen.groups.tolist() == [1, 0]


def test_selected_images_lose_the_judgements_and_keep_the_prompts():
    judgements = Judgements.of(torch.tensor([[0, 0], [3, 5]]), ratings=torch.tensor([[1.0], [2.0]]))
    prompts = PromptTable(
        features=torch.ones(5, 1, 3), mask=torch.ones(5, 1, dtype=torch.bool), class_names=tuple("pqrst"),
        aggregate="mean", description="none",
    )  # fmt: skip
    whole = small_set(judgements=judgements, prompts={"digit": prompts})
    chosen = whole.select_images(torch.tensor([0, 3]))
    assert chosen.judgements is None
    assert torch.equal(chosen.prompts["digit"].features, prompts.features)
    assert whole.judgements is judgements, "the whole set keeps its own"


def test_judgements_of_what_the_set_does_not_have_are_refused():
    with pytest.raises(ValueError, match=r"judgements.candidates points at image 4 and text 0, but there are 4 images"):
        small_set(judgements=Judgements.of(torch.tensor([[4, 0]])))
    with pytest.raises(ValueError, match=r"judgements.references points at texts 6 to 6, but there are 6 texts"):
        small_set(judgements=Judgements.of(torch.tensor([[3, 0]]), references=torch.tensor([[0, 6]])))
