"""Evaluates several gap reducers on one EmbeddingSet, each a row of the final table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import Evaluation, RowResult
from i0t.gap_reducers.base import GapReducer


@torch.no_grad()
def reduced(embeddings: EmbeddingSet, reducer: GapReducer) -> EmbeddingSet:
    """The set as the reducer makes it: unit features, and prompt tables reduced as the texts they are.

    Raises:
        NotFittedError: If the reducer was not fitted.
    """
    reducer.eval()
    image, text = reducer(embeddings.image_features, embeddings.text_features)
    prompts = {
        name: dataclasses.replace(
            table, features=reducer.reduce_text(table.features.flatten(0, 1)).view(table.features.shape)
        )
        for name, table in embeddings.prompts.items()
    }
    return dataclasses.replace(
        embeddings,
        image_features=F.normalize(image.float(), dim=-1),
        text_features=F.normalize(text.float(), dim=-1),
        prompts=prompts,
    )


def evaluate_row(
    name: str, reducer: GapReducer, embeddings: EmbeddingSet, evaluations: Mapping[str, Evaluation], *, split: str
) -> RowResult:
    """Reduces the set and measures it.

    Args:
        name: The row's name.
        reducer: Fitted.
        embeddings: Raw features of the split that is measured.
        evaluations: By the prefix of their numbers.
        split: Which split it is; a reducer fitted on the same one gives transductive numbers.
    """
    measured = reduced(embeddings, reducer)
    scores = {prefix: evaluation(measured) for prefix, evaluation in evaluations.items()}
    return RowResult(
        name=name,
        reducer=f"{type(reducer).__module__}.{type(reducer).__qualname__}",
        fit_split=reducer.fit_split,
        fit_samples=int(reducer.num_fit_images),
        protocol=reducer.protocol(split),
        metrics={f"{prefix}/{key}": value for prefix, s in scores.items() for key, value in s.values.items()},
        intervals={f"{prefix}/{key}": value for prefix, s in scores.items() for key, value in s.intervals.items()},
        image_features=measured.image_features,
        text_features=measured.text_features,
    )
