"""Evaluates several gap reducers on one EmbeddingSet, each a row of the final table, and tests their differences."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.evaluation.results import Calibration, Context, Difference, Evaluation, RowResult, Scores
from i0t.gap_reducers.base import GapReducer
from i0t.metrics import functional as metrics


@torch.no_grad()
def reduced(embeddings: EmbeddingSet, reducer: GapReducer) -> EmbeddingSet:
    """The set as the reducer makes it: unit features, and prompt tables reduced as the texts they are.

    Raises:
        NotFittedError: If the reducer was not fitted.

    Example:
        >>> from i0t.gap_reducers import NoReducer
        >>> x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
        >>> reduced(EmbeddingSet.from_index(x, x, torch.tensor([0, 1])), NoReducer(2)).image_features
        tensor([[0.6000, 0.8000],
                [0.0000, 1.0000]])
    """
    reducer.eval()
    image, text = reducer(embeddings.image_features, embeddings.text_features)
    prompts = {
        name: dataclasses.replace(
            table, features=reducer.reduce_text(table.features.flatten(0, 1)).view(table.features.shape)
        )
        for name, table in embeddings.prompts.items()
    }
    return _unit_set(embeddings, image, text, prompts)


def _unit_set(
    embeddings: EmbeddingSet, image: Tensor, text: Tensor, prompts: Mapping[str, PromptTable]
) -> EmbeddingSet:
    return dataclasses.replace(
        embeddings,
        image_features=F.normalize(image.float(), dim=-1),
        text_features=F.normalize(text.float(), dim=-1),
        prompts=prompts,
    )


def evaluate_row(
    name: str,
    reducer: GapReducer,
    embeddings: EmbeddingSet,
    evaluations: Mapping[str, Evaluation],
    *,
    split: str,
    fit_data: str | None = None,
    shares_images: bool = False,
    references: Mapping[str, EmbeddingSet] = MappingProxyType({}),
) -> RowResult:
    """Reduces the set and measures it.

    Args:
        name: The row's name.
        reducer: Fitted.
        embeddings: Raw features of the split that is measured.
        evaluations: By the prefix of their numbers.
        split: Which split it is; a reducer fitted on the same one gives transductive numbers.
        fit_data: Name of the other data set that the reducer was fitted on, which makes them inductive; ``None``: the
            one that is measured.
        shares_images: Whether images that are measured are among those it was fitted on, whatever the splits are
            called (where test captions are secret, test is val): the numbers are transductive.
        references: Raw features of the further splits that evaluations ask for, by name.
    """
    measured = reduced(embeddings, reducer)
    elsewhere = fit_data is not None and reducer.needs_fit
    protocol = "inductive" if elsewhere else reducer.protocol(split)
    if shares_images and reducer.needs_fit:
        protocol = "transductive"
    context = Context(
        before=_unit_set(embeddings, embeddings.image_features, embeddings.text_features, {}),
        protocol=protocol,
        calibration=_calibration(reducer),
        pooled_prompts=_pooled_prompts(embeddings.prompts, reducer),
    )
    further = {name: reduced(reference, reducer) for name, reference in references.items()}
    found: dict[str, Scores] = {}
    for prefix, evaluation in evaluations.items():
        reference = further.get(getattr(evaluation, "reference_split", None) or "")
        scores = evaluation(measured, dataclasses.replace(context, reference=reference))
        found[prefix] = scores
        found |= {f"{prefix}_{suffix}": variant for suffix, variant in scores.variants.items()}
    return RowResult(
        name=name,
        reducer=f"{type(reducer).__module__}.{type(reducer).__qualname__}",
        fit_split=reducer.fit_split,
        fit_samples=int(reducer.num_fit_images),
        fit_data=fit_data if elsewhere else None,
        protocol=protocol,
        metrics={f"{prefix}/{key}": value for prefix, s in found.items() for key, value in s.values.items()},
        intervals={f"{prefix}/{key}": value for prefix, s in found.items() for key, value in s.intervals.items()},
        replicates={f"{prefix}/{key}": value for prefix, s in found.items() for key, value in s.replicates.items()},
        protocols={prefix: s.protocol for prefix, s in found.items() if s.protocol},
        notes=tuple(note for s in found.values() for note in s.notes),
        settings=plain_settings(reducer),
        details={name: detail for s in found.values() for name, detail in s.details.items()},
        image_features=measured.image_features,
        text_features=measured.text_features,
    )


def plain_settings(reducer: GapReducer) -> dict[str, Any]:
    """The numbers and words among the arguments a reducer was made with."""
    names = inspect.signature(type(reducer)).parameters
    values = {name: getattr(reducer, name, None) for name in names}
    return {name: value for name, value in values.items() if isinstance(value, (str, int, float, bool))}


def _calibration(reducer: GapReducer) -> Calibration | None:
    """What the reducer was fitted on; ``None`` too for one that was trained inside the model, on unknown counts."""
    means = reducer.calibration_means
    num_images, num_texts = int(reducer.num_fit_images), int(reducer.num_fit_texts)
    if means is None or num_images == 0 or num_texts == 0:
        return None
    image_mean, text_mean = (mean.detach().cpu() for mean in means)
    return Calibration(num_images=num_images, num_texts=num_texts, image_mean=image_mean, text_mean=text_mean)


@torch.no_grad()
def _pooled_prompts(prompts: Mapping[str, PromptTable], reducer: GapReducer) -> dict[str, Tensor]:
    """Classes as I0T's CIFAR-100 script makes them: the mean of un-normalised prompts, then the reducer."""
    pooled = {}
    for name, table in prompts.items():
        if table.aggregate == "mean" and table.features.shape[1] > 1:
            total = table.features.float().masked_fill(~table.mask[..., None], 0).sum(dim=1)
            pooled[name] = reducer.reduce_text(total / table.mask.sum(dim=1, keepdim=True)).float()
    return pooled


def compare_rows(rows: Sequence[RowResult]) -> list[Difference]:
    """Paired bootstrap tests of every row against the baseline, for every number that both have replicates of.

    The baseline is the first row that fits nothing, or the first row where all are fitted.

    Args:
        rows: Rows measured on one set.

    Returns:
        One entry per row and number, in the order of the rows.
    """
    if len(rows) < 2:
        return []
    baseline = next((row for row in rows if row.protocol == "none"), rows[0])
    differences = []
    for row in rows:
        for metric in row.replicates if row is not baseline else ():
            if metric not in baseline.replicates:
                continue
            test = metrics.paired_bootstrap_test(baseline.replicates[metric], row.replicates[metric])
            if test is not None:
                value = row.metrics[metric] - baseline.metrics[metric]
                differences.append(Difference(metric, row.name, baseline.name, value, *test))
    return differences


def protocols_of(rows: Sequence[RowResult]) -> dict[str, str]:
    """What was measured against what: one sentence by evaluation, and one by row where rows differ."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        for prefix, sentence in row.protocols.items():
            found.setdefault(prefix, {})[row.name] = sentence
    return {
        prefix: next(iter(of_row.values()))
        if len(set(of_row.values())) == 1
        else " | ".join(f"{name}: {sentence}" for name, sentence in of_row.items())
        for prefix, of_row in found.items()
    }
