"""The whole way from a file of embeddings to a table, for notebooks: no config, no run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from i0t.data.embeddings import EmbeddingsFile
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.compare import evaluate_row, reduced
from i0t.evaluation.gap import Gap
from i0t.evaluation.results import Evaluation
from i0t.evaluation.retrieval import Retrieval
from i0t.gap_reducers.base import GapReducer
from i0t.report.table import ResultTable

__all__ = ["load", "measure", "reduced"]


def load(
    path: str | Path,
    split: str = "test",
    *,
    text_path: str | Path | None = None,
    index_path: str | Path | None = None,
    holdout: float | None = None,
    seed: int = 0,
) -> EmbeddingSet:
    """Reads embeddings of any two towers from a file.

    Args:
        path: A ``.npz``, a parquet file, a folder that i0t wrote, or, with ``text_path``, the images' ``.npy``.
        split: Which part; a file without splits is all ``"test"``.
        text_path: The texts' ``.npy``.
        index_path: The ``.npy`` of ``text_image_index`` or ``pairs`` beside two ``.npy``; ``None``: unpaired.
        holdout: Share of the images that becomes ``"train"`` in a file without splits, to fit on.
        seed: Of the draw of ``holdout``.

    Raises:
        ValueError: If the file cannot be read, or has no such split.

    Example:
        >>> import tempfile, numpy as np
        >>> generator = np.random.default_rng(0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savez(f"{folder}/mine.npz", image=generator.normal(size=(4, 8)), text=generator.normal(size=(4, 8)),
        ...         text_image_index=np.arange(4))
        ...     pairs = load(f"{folder}/mine.npz")
        >>> pairs.num_images, pairs.num_texts, pairs.dim
        (4, 4, 8)
    """
    source = EmbeddingsFile(
        path=str(path),
        text_path=None if text_path is None else str(text_path),
        index_path=None if index_path is None else str(index_path),
        holdout=holdout,
        seed=seed,
    )
    return source.load(split)


def measure(
    embeddings: EmbeddingSet,
    reducers: Mapping[str, GapReducer],
    *,
    split: str = "test",
    evaluations: Mapping[str, Evaluation] | None = None,
    num_resamples: int = 1000,
) -> ResultTable:
    """Applies every reducer and measures what it makes of the set; the table says what each was fitted on.

    Args:
        embeddings: Raw features of the split that is measured.
        reducers: Fitted, by the name of their row.
        split: Which split the set is: a reducer fitted on the same one gives *transductive* numbers.
        evaluations: By the prefix of their numbers; ``None``: the gap and, for a set with pairs, retrieval.
        num_resamples: Of the bootstrap over images behind the intervals of ``evaluations=None``.

    Returns:
        A table that a notebook shows, with ``to_markdown``, ``to_latex``, ``to_csv``; ``rows`` have all numbers.

    Raises:
        NotFittedError: If a reducer is not fitted.
        ValueError: If a reducer is for another width.

    Example:
        >>> import torch
        >>> from i0t.gap_reducers import NoReducer, Posthoc
        >>> generator = torch.Generator().manual_seed(0)
        >>> meaning = torch.randn(50, 16, generator=generator)
        >>> noise = 0.1 * torch.randn(50, 16, generator=generator)
        >>> pairs = EmbeddingSet.from_index(meaning + 2, meaning + noise - 2, torch.arange(50))
        >>> posthoc = Posthoc(16, fit_split="test")
        >>> posthoc.fit(pairs)
        >>> table = measure(pairs, {"none": NoReducer(16), "posthoc": posthoc}, num_resamples=10)
        >>> [round(row.metrics["gap/centroid_distance"], 1) for row in table.rows]
        [1.8, 0.0]
        >>> [row.protocol for row in table.rows]
        ['none', 'transductive']
    """
    chosen = _default_evaluations(num_resamples) if evaluations is None else evaluations
    rows = [evaluate_row(name, reducer, embeddings, chosen, split=split) for name, reducer in reducers.items()]
    return ResultTable(rows, with_intervals=False)


def _default_evaluations(num_resamples: int) -> dict[str, Evaluation]:
    """As conf/evaluation has them."""
    return {
        "gap": Gap(separability_seed=0, num_resamples=num_resamples),
        "retrieval": Retrieval(k=(1, 5, 10), num_neighbors=10, num_within_queries=2000, num_resamples=num_resamples),
    }
