"""The user's own captions of images, to be scored: a JSON object per line.

    {"image": "photos/1.jpg", "caption": "A dog runs.", "references": ["A brown dog runs.", …], "rating": 3}

``image`` is a path relative to the file. ``references`` may be left out; ``rating``, or ``ratings`` with several
people's numbers, may be left out or null on any line. Other keys are ignored.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from i0t.data.judged_captions import JudgedCaptionsDataModule
from i0t.data.judged_rows import JudgedCaption, JudgedTable, Place, UnusableRow, numbered_lines, read_rows
from i0t.data.photo_split import ImageFinder


class CaptionsDataModule(JudgedCaptionsDataModule):
    """Captions of a file, each with its line number; repeated lines count, an image that comes up again is read once.

    Args:
        path: The file, one JSON object per line.
        prompt_prefix: See :class:`~i0t.data.judged_captions.JudgedCaptionsDataModule`, as for what follows.
        max_caption_chars: Cut captions.
        only_present: Leave out lines whose images are missing.
        limit: Images.
        eval_batch_size: Per device.
        num_workers: Of the data loader.

    Raises:
        ValueError: If lines cannot be used.
    """

    name = "captions"

    def __init__(
        self,
        *,
        path: str,
        prompt_prefix: str,
        max_caption_chars: int | None,
        only_present: bool,
        limit: int | None,
        eval_batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__(
            prompt_prefix=prompt_prefix,
            max_caption_chars=max_caption_chars,
            only_present=only_present,
            limit=limit,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
        )
        self.path = Path(path).expanduser().absolute()  # its images may be named by absolute paths

    def read_table(self, finder: ImageFinder) -> JudgedTable:
        """Every line of the file."""
        if not self.path.is_file():
            raise ValueError(f"data.path={self.path} is not a file")

        def parse(place: Place, line: str) -> JudgedCaption:
            return _parse(self.path.parent, place, line)

        read = read_rows(self.path.name, numbered_lines(self.path), parse)
        return JudgedTable(
            captions=read.values,
            problems=read.problems,
            num_rows=read.num_rows,
            judgement_files=[self.path],
            description=f"ratings of {self.path.name}",
            provenance={"num_rows": read.num_rows},
        )


def _parse(folder: Path, place: Place, line: str) -> JudgedCaption:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        raise UnusableRow("not a JSON object") from None
    if not isinstance(row, dict):
        raise UnusableRow("not a JSON object")
    image, caption = _text(row, "image"), _text(row, "caption")
    references = [] if row.get("references") is None else row["references"]
    if not isinstance(references, list) or not all(isinstance(text, str) and text.strip() for text in references):
        raise UnusableRow("'references' is not a list of texts")
    # Two ways to write a path are one image.
    file = Path(os.path.normpath(folder / image))
    return JudgedCaption(place, file, image, caption, tuple(references), _ratings(row))


def _text(row: dict[str, Any], key: str) -> str:
    if key not in row:
        raise UnusableRow(f"no {key!r}")
    text = row[key]
    if not isinstance(text, str) or not text.strip():
        raise UnusableRow(f"{key!r} is not a text")
    return text


def _ratings(row: dict[str, Any]) -> tuple[float, ...]:
    """Numbers; NaN for null."""
    if "rating" in row and "ratings" in row:
        raise UnusableRow("both 'rating' and 'ratings'")
    values = [row["rating"]] if "rating" in row else row.get("ratings")
    if values is None:
        return ()
    if not isinstance(values, list):
        raise UnusableRow("'ratings' is not a list")
    return tuple(_rating(value) for value in values)


def _rating(value: Any) -> float:
    if value is None:
        return math.nan
    # A bool is an int to Python, and JSON's whole numbers have no largest one.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > sys.float_info.max:
        raise UnusableRow(f"the rating {str(value)[:40]!r} is not a number")
    return float(value)
