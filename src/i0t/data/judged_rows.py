"""Judged captions as a file lists them, and the one error that says what is wrong with its rows.

Shapes: J judged captions, Q preferences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

_NAMED = 5  # rows named in an error
T = TypeVar("T")


class UnusableRow(ValueError):  # noqa: N818 - named for what it says of the row
    """A row that cannot be used; the message is why, in a few words."""


class Place(NamedTuple):
    """Where a row stands.

    Attributes:
        file: Name of the file.
        row: Its line, counting from 1 (in a .mat file its entry).
    """

    file: str
    row: int


class JudgedCaption(NamedTuple):
    """A caption of an image.

    Attributes:
        place: Its row.
        image: The file, there or not.
        image_id: The image's identifier.
        caption: What is scored.
        references: What others wrote about the image.
        ratings: What people gave it; empty or NaN where nobody has judged.
    """

    place: Place
    image: Path
    image_id: str
    caption: str
    references: tuple[str, ...]
    ratings: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class JudgedTable:
    """All that a data set of judgements says.

    Attributes:
        captions: J judged captions, in the order of the file, repeated ones included.
        problems: Why a row cannot be used; captions of such rows need not be in ``captions``.
        num_rows: Rows of the files, usable or not.
        judgement_files: The files that have these rows.
        other_files: What they refer to: files of captions.
        preferences: ``(Q, 3)`` int64: preferred caption, other caption, category.
        category_names: Names of the categories.
        row_noun: What a row of these files is called.
        headline: Kendall's tau that is usual for these data, ``"b"`` or ``"c"``.
        description: Whose judgements on what scale.
        known_count: J as published, or ``None``.
        warnings: What a reader of the numbers must know.
        provenance: What else should stand beside the numbers.
    """

    captions: Sequence[JudgedCaption]
    problems: Mapping[Place, str]
    num_rows: int
    judgement_files: Sequence[Path]
    other_files: Sequence[Path] = ()
    preferences: np.ndarray = field(default_factory=lambda: np.empty((0, 3), dtype=np.int64))
    category_names: tuple[str, ...] = ()
    row_noun: str = "line"
    headline: str = "c"
    description: str = ""
    known_count: int | None = None
    warnings: Sequence[str] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [*self.judgement_files, *self.other_files]

    @property
    def file_names(self) -> str:
        """Of the files of judgements."""
        return " and ".join(path.name for path in self.judgement_files)

    def select(self, keep: np.ndarray) -> JudgedTable:
        """The table of some captions, and of the preferences between them.

        Args:
            keep: ``(J,)`` bool.
        """
        new = np.cumsum(keep) - 1
        kept = self.preferences[keep[self.preferences[:, :2]].all(axis=1)]
        kept = np.column_stack([new[kept[:, :2]], kept[:, 2]])
        captions = [caption for caption, is_kept in zip(self.captions, keep, strict=True) if is_kept]
        return replace(self, captions=captions, preferences=kept)

    def refuse(self, problems: Mapping[Place, str], *, advice: str = "") -> None:
        """Stops if there are problems.

        Args:
            problems: Why a row cannot be used.
            advice: What to do about it.

        Raises:
            ValueError: With their number and the first five, in the order of the files.
        """
        if not problems:
            return
        order = {path.name: number for number, path in enumerate(self.judgement_files)}
        places = sorted(problems, key=lambda place: (order[place.file], place.row))
        prefix = {name: "" if len(order) == 1 else f"{name} " for name in order}
        named = [f"{prefix[p.file]}{self.row_noun} {p.row}: {problems[p]}" for p in places[:_NAMED]]
        more = "; …" if len(places) > _NAMED else ""
        raise ValueError(
            f"{self.file_names}: {len(places):,} of {self.num_rows:,} rows cannot be used: "
            f"{'; '.join(named)}{more}{advice and f' ({advice})'}"
        )


class ReadRows(NamedTuple):
    """What :func:`read_rows` returns: what was made of the rows, and why others are unusable."""

    values: list[Any]
    problems: dict[Place, str]

    @property
    def num_rows(self) -> int:
        """Of the file."""
        return len(self.values) + len(self.problems)


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, numbered from 1 as an editor numbers them.

    Raises:
        ValueError: If it cannot be read or has none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without the mark that some editors put in front
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    # Not splitlines: it also splits at characters that may stand inside a caption.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise ValueError(f"{path} has no rows")
    return lines


def read_rows(name: str, rows: Iterable[tuple[int, T]], parse: Callable[[Place, T], Any]) -> ReadRows:
    """Parses every row, and collects those that cannot be used.

    Args:
        name: Of the file.
        rows: Numbered rows.
        parse: Makes something of a row, or raises :class:`UnusableRow`.
    """
    read = ReadRows([], {})
    for number, row in rows:
        place = Place(name, number)
        try:
            read.values.append(parse(place, row))
        except UnusableRow as problem:
            read.problems[place] = str(problem)
    return read


def read_rating(text: str, *, low: float, high: float) -> float:
    """A rating on a scale.

    Args:
        text: The number; empty for none.
        low: Lowest rating.
        high: Highest.

    Returns:
        The rating; NaN where the text is empty.

    Raises:
        UnusableRow: If it is no number, or not on the scale.
    """
    if not text.strip():
        return math.nan
    try:
        rating = float(text)
    except ValueError:
        raise UnusableRow(f"the rating {text!r} is not a number") from None
    if not low <= rating <= high:
        raise UnusableRow(f"the rating {text!r} is not within {low:g} to {high:g}")
    return rating


def without_candidates(references: Iterable[str], candidates: Iterable[str]) -> tuple[str, ...]:
    """The references of an image that are not among its judged captions, whatever the case, spaces and punctuation.

    A caption compared with itself would be perfect (CLIP-S: Hessel et al. 2021, appendix A).
    """
    judged = {_letters(caption) for caption in candidates}
    return tuple(reference for reference in references if _letters(reference) not in judged)


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text.casefold()))
