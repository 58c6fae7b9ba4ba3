"""Judged captions as they are encoded: every image and every distinct text once, and who belongs to whom.

Shapes: N images, M texts; J judged captions, R ratings each, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from i0t.data.judged_rows import JudgedTable
from i0t.judgements import Judgements


@dataclass(frozen=True, kw_only=True)
class JudgedSplit:
    """Judged captions as they are encoded: every image and every text once.

    Attributes:
        image_files: N files.
        image_ids: N identifiers.
        texts: M texts, candidates and references.
        pairs: ``(P, 2)`` int64 (image row, text row): the references, which are known to be true.
        judgements: Rows are those of ``image_files`` and ``texts``.
        annotation_files: What this was read from.
        provenance: What should stand beside the numbers.
    """

    image_files: Sequence[Path]
    image_ids: Sequence[str]
    texts: Sequence[str]
    pairs: Tensor
    judgements: Judgements
    annotation_files: Sequence[Path]
    provenance: Mapping[str, Any]


def index_table(table: JudgedTable, worded: Callable[[str], str], provenance: Mapping[str, Any]) -> JudgedSplit:
    """Numbers the images and the distinct texts, in the order in which they come up.

    Args:
        table: All its images are there.
        worded: Makes of a caption the text that is encoded.
        provenance: What should stand beside the numbers.
    """
    images: dict[Path, int] = {}
    texts: dict[str, int] = {}
    ids: list[str] = []
    candidates, references = [], []
    pairs: dict[tuple[int, int], None] = {}
    for number, judged in enumerate(table.captions):
        if judged.image not in images:
            ids.append(judged.image_id)
        image = images.setdefault(judged.image, len(images))
        candidates.append((image, texts.setdefault(worded(judged.caption), len(texts))))
        # Two captions may be the same text once they are cut.
        rows = dict.fromkeys(texts.setdefault(worded(text), len(texts)) for text in judged.references)
        references += [(number, row) for row in rows]
        pairs |= {(image, row): None for row in rows}
    judgements = Judgements.of(
        _rows(candidates),
        references=_rows(references),
        ratings=_ratings(table),
        preferences=torch.from_numpy(table.preferences[:, :2].copy()),
        preference_category=torch.from_numpy(table.preferences[:, 2].copy()),
        category_names=table.category_names,
        source=_lines(table),
        headline=table.headline,
        description=table.description,
    )
    return JudgedSplit(
        image_files=list(images),
        image_ids=ids,
        texts=list(texts),
        pairs=_rows(list(pairs)),
        judgements=judgements,
        annotation_files=table.files,
        provenance={**provenance, "num_images": len(images), "num_texts": len(texts)},
    )


def _rows(pairs: Sequence[tuple[int, int]]) -> Tensor:
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def _ratings(table: JudgedTable) -> Tensor:
    """``(J, R)`` float64, NaN where a caption has fewer ratings than another."""
    width = max(len(judged.ratings) for judged in table.captions)
    ratings = np.full((len(table.captions), width), np.nan)
    for row, judged in zip(ratings, table.captions, strict=True):
        row[: len(judged.ratings)] = judged.ratings
    return torch.from_numpy(ratings)


def _lines(table: JudgedTable) -> tuple[int, ...]:
    """The line of each judgement, where all stand in one text file."""
    if table.row_noun != "line" or len(table.judgement_files) != 1:
        return ()
    return tuple(judged.place.row for judged in table.captions)
