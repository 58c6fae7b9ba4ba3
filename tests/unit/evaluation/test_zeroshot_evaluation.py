"""Zero-shot accuracy in both ways of pooling prompts."""

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.evaluation.compare import evaluate_row
from i0t.evaluation.zeroshot import ZeroShot
from i0t.gap_reducers.posthoc import Posthoc

EVALUATIONS = {"zeroshot": ZeroShot(num_resamples=30)}


def make(num_classes, aggregate, mask=None):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, num_classes, (80,), generator=generator) ** 2 % num_classes
    directions = torch.randn(num_classes, 8, generator=generator)
    # Prompts of very different lengths: averaging before or after normalisation is not the same.
    prompts = directions[:, None] + torch.randn(num_classes, 4, 8, generator=generator)
    prompts = prompts * torch.tensor([0.2, 1.0, 3.0, 9.0])[:, None]
    image = directions[labels] + torch.randn(80, 8, generator=generator) + 1
    mask = torch.ones(num_classes, 4, dtype=torch.bool) if mask is None else mask
    table = PromptTable(
        features=prompts,
        mask=mask,
        class_names=tuple(map(str, range(num_classes))),
        aggregate=aggregate,
        description="made up",
    )
    text = torch.randn(50, 8, generator=generator) - 1
    return EmbeddingSet(
        image_features=image,
        text_features=text,
        pairs=torch.empty(0, 2, dtype=torch.int64),
        labels={"kind": labels},
        prompts={"kind": table},
    )


def measured(embeddings):
    reducer = Posthoc(8, fit_split="test")
    reducer.fit(embeddings)
    return evaluate_row("x", reducer, embeddings, EVALUATIONS, split="test")


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_both_poolings_against_plain_computations():
    mask = torch.ones(7, 4, dtype=torch.bool)
    mask[2, 3] = mask[5, 2] = False
    embeddings = make(7, "mean", mask)
    row = measured(embeddings)
    labels, table = embeddings.labels["kind"].numpy(), embeddings.prompts["kind"]
    text_mean = F.normalize(embeddings.text_features, dim=1).mean(0)
    image = F.normalize(embeddings.image_features, dim=1)
    image = F.normalize(image - image.mean(0), dim=1)

    def centred(x):
        return F.normalize(F.normalize(x, dim=-1) - text_mean, dim=-1)

    def pooled(rows_of_class):
        return torch.stack([F.normalize(rows.mean(0), dim=0) for rows in rows_of_class])

    kept = [table.features[c][table.mask[c]] for c in range(7)]
    forms = {
        "zeroshot": pooled([centred(rows) for rows in kept]),
        "zeroshot_pooled_first": centred(torch.stack([rows.mean(0) for rows in kept])),
    }
    for prefix, prompts in forms.items():
        scores = (image @ prompts.T).numpy()
        expected = {
            "kind": np.mean(scores.argmax(1) == labels),
            "balanced/kind": balanced_accuracy_score(labels, scores.argmax(1)),
            "top5/kind": top_k_accuracy_score(labels, scores, k=5, labels=range(7)),
        }
        assert {name: row.metrics[f"{prefix}/{name}"] for name in expected} == pytest.approx(expected)
        assert set(expected) == {
            name.removeprefix(f"{prefix}/") for name in row.intervals if name.startswith(f"{prefix}/")
        }
    assert row.metrics["zeroshot/kind"] != row.metrics["zeroshot_pooled_first/kind"]
    assert row.protocols["zeroshot"].startswith("each prompt through the reducer, then the normalised mean")
    assert row.protocols["zeroshot_pooled_first"].startswith("the mean of the un-normalised prompts")


def test_the_best_prompt_of_a_class_has_one_form_and_few_classes_no_top_five():
    row = measured(make(5, "max"))
    assert set(row.metrics) == {"zeroshot/kind", "zeroshot/balanced/kind"}
    assert row.protocols["zeroshot"].startswith("each prompt through the reducer, the best prompt")


def test_images_without_prompts_have_no_number():
    embeddings = make(5, "max")
    bare = EmbeddingSet(
        image_features=embeddings.image_features, text_features=embeddings.text_features, pairs=embeddings.pairs
    )
    row = measured(bare)
    assert row.metrics == {}
    assert row.protocols == {}
