"""The models of a multirun: what each is, and its numbers on every data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i0t.report.jobs import JobRow, rows_of
from i0t.report.model_facts import ModelShape, TrainingData, shape_of, training_data_of

MIN_RECALL = 0.05
_RECALL = "retrieval/i2t_r1"
_BASELINE = "none"


@dataclass(frozen=True)
class StudiedModel:
    """A model and what was measured of it.

    Attributes:
        name: ``ViT-B-32/openai``.
        architecture: Its name, without folder and ending.
        tag: Of its weights, or the name of their file; ``None``: random.
        training: What it was trained on.
        shape: How large it is.
        numbers: Data set to number by name (``gap/rmg``), of embeddings as they are.
        left_out: Why it does not count in correlations; ``None``: it counts.
    """

    name: str
    architecture: str
    tag: str | None
    training: TrainingData
    shape: ModelShape
    numbers: Mapping[str, Mapping[str, float]]
    left_out: str | None

    def number(self, data: str, key: str) -> float | None:
        """A number on a data set; ``None`` where it was not measured."""
        return self.numbers.get(data, {}).get(key)


def studied_models(jobs: Sequence[Mapping[str, Any]], *, min_recall: float = MIN_RECALL) -> list[StudiedModel]:
    """One entry per model, in order of names.

    Args:
        jobs: As :func:`i0t.report.jobs.read_jobs` reads them.
        min_recall: A model whose image-to-text R@1 is lower on a data set of captions does not count in correlations,
            as in the Two Effects paper's code (COCO, .05); 0: all count.

    Raises:
        ValueError: If no job measured a model of open_clip.
    """
    found: dict[tuple[str, str | None], dict[str, Mapping[str, float]]] = {}
    for row in rows_of(jobs):
        about = row.job["metrics"].get("model", {})
        if about.get("architecture") is None or row.about.get("protocol") != _BASELINE:
            continue
        found.setdefault((about["architecture"], about.get("pretrained")), {})[_data_of(row)] = row.numbers
    if not found:
        raise ValueError("no finished job measured a model that has an architecture, with a row that fits nothing")
    models = [_model(architecture, tag, numbers, min_recall) for (architecture, tag), numbers in found.items()]
    return sorted(models, key=lambda model: model.name)


def data_sets(models: Sequence[StudiedModel]) -> list[str]:
    """The data sets on which any was measured, in order of names."""
    return sorted({data for model in models for data in model.numbers})


def _data_of(row: JobRow) -> str:
    """The data set's name, which is that of its module."""
    target = str(row.value_of("data._target_") or "")
    return target.split(".")[-2] if "." in target else "data"


def _model(
    architecture: str, tag: str | None, numbers: Mapping[str, Mapping[str, float]], min_recall: float
) -> StudiedModel:
    bare = Path(architecture).stem if architecture.endswith(".json") else architecture
    weights = None if tag is None else Path(tag).name
    training = training_data_of(bare, tag)
    # Where images have classes, R@1 is that of a class text, and small for many classes.
    of_captions = (values for values in numbers.values() if not any(key.startswith("zeroshot/") for key in values))
    recalls = [values[_RECALL] for values in of_captions if _RECALL in values]
    left_out = training.left_out
    if left_out is None and any(recall < min_recall for recall in recalls):
        left_out = f"image-to-text R@1 below {min_recall:g}"
    return StudiedModel(f"{bare}/{weights or 'random'}", bare, tag, training, shape_of(architecture), numbers, left_out)
