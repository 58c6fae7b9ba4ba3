"""Fits a reducer on files and saves it."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from i0t.config import compose, instantiate, to_container
from i0t.data.embeddings import EmbeddingsFile
from i0t.gap_reducers.base import GapReducer
from i0t.gap_reducers.saved import check_path
from i0t.reduce.npy_rows import NpyRows


def fit(options: argparse.Namespace) -> str:
    """``i0t-reduce fit``.

    Returns:
        What was fitted, in words.

    Raises:
        ValueError: If the config or an input cannot be used, or the output not be written.
    """
    check_path(options.output)
    _check_sources(options)
    node = to_container(compose("reduce", options.overrides, config_dir=options.config_dir).gap_reducer)
    if node.pop("fit_data", None) is not None:
        raise ValueError("gap_reducer.fit_data is for eval.py; here the files are what is fitted on")
    if options.data is not None or options.index is not None:
        reducer, names = _fit_on_set(node, options)
    else:
        reducer, names = _fit_on_rows(node, options)
    if reducer.trainable and not reducer.needs_fit:
        raise ValueError(
            f"{type(reducer).__name__} is not fitted on embeddings: it is trained inside a model, with train.py"
        )
    reducer.save(options.output, provenance={"files": names, "config": node})
    counts = [
        f"{int(n):,} {what}" for n, what in ((reducer.num_fit_images, "images"), (reducer.num_fit_texts, "texts"))
    ]
    return f"{type(reducer).__name__} fitted on {' and '.join(counts)}"


def _check_sources(options: argparse.Namespace) -> None:
    modalities = options.image is not None or options.text is not None
    if modalities == (options.data is not None):
        raise ValueError("give --image, --text or both, or else --data")
    if options.index is not None and (options.image is None or options.text is None):
        raise ValueError("--index goes with --image and --text")
    if options.holdout is not None and options.data is None:
        raise ValueError("--holdout goes with --data; of --image and --text all rows are used")


def _fit_on_rows(node: dict[str, object], options: argparse.Namespace) -> tuple[GapReducer, dict[str, str]]:
    """Each modality for itself, streaming: memory does not grow with the files."""
    paths: dict[str, Path] = {n: p for n, p in (("image", options.image), ("text", options.text)) if p is not None}
    with contextlib.ExitStack() as stack:
        rows = {name: stack.enter_context(NpyRows(path)) for name, path in paths.items()}
        reducer: GapReducer = instantiate(node, dim=next(iter(rows.values())).shape[1])
        for name, fit_one in (("image", reducer.fit_image), ("text", reducer.fit_text)):
            if name in rows:
                fit_one(rows[name])
    return reducer, {name: path.name for name, path in paths.items()}


def _fit_on_set(node: dict[str, object], options: argparse.Namespace) -> tuple[GapReducer, dict[str, str]]:
    """Both modalities with their pairs; of a file with splits the rows of ``fit_split``, of any other all."""
    source = EmbeddingsFile(
        path=str(options.data or options.image),
        text_path=None if options.index is None else str(options.text),
        index_path=None if options.index is None else str(options.index),
        holdout=options.holdout,
        seed=options.seed,
    )
    split = str(node["fit_split"]) if source.has_splits and node.get("fit_split") is not None else "test"
    embeddings = source.load(split)
    reducer: GapReducer = instantiate(node, dim=embeddings.dim)
    reducer.fit(embeddings)
    names = {n: p.name for n, p in vars(options).items() if n in ("data", "image", "text", "index") and p is not None}
    return reducer, names
