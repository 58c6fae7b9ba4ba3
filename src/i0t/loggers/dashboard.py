"""What every dashboard is given beside scalars and hyperparameters, each thing computed once for all of them.

Shapes: P points (images and texts), K images, H x W pixels, S side of a thumbnail, D embedding width.
"""

from __future__ import annotations

import csv
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Cell = str | int | float | None
BIN_EDGES = np.round(np.linspace(-1, 1, 81), 3)  # of cosines


class Table(NamedTuple):
    """Named columns and their lines."""

    columns: tuple[str, ...]
    lines: Sequence[tuple[Cell, ...]]

    def to_csv(self) -> str:
        r"""The table for programs: full precision, an empty cell where a value is missing.

        Example:
            >>> Table(("a", "b"), [(1, None)]).to_csv()
            'a,b\n1,\n'
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(self.lines)
        return text.getvalue()

    def to_markdown(self) -> str:
        """The table in Markdown, numbers short; what would be markup in a cell is shown as text."""
        lines = [self.columns, ("---",) * len(self.columns), *self.lines]
        return "\n".join(f"| {' | '.join(_markdown(cell) for cell in line)} |" for line in lines)


@dataclass(frozen=True)
class Histograms:
    """Samples of cosines, by kind; all dashboards count them in the same bins.

    Attributes:
        samples: Kind (``matched``, ``unmatched``) to its values, a vector each, perhaps an empty one.
        draw: Draws all kinds into one PNG, for who has no histograms.
    """

    samples: Mapping[str, np.ndarray]
    draw: Callable[[], bytes]

    def counts(self) -> dict[str, np.ndarray]:
        """How many values of each kind lie between one of :data:`BIN_EDGES` and the next; without empty kinds."""
        # Cosines of float32 rows may leave [-1, 1] by a rounding error.
        kinds = {kind: values.clip(-1, 1) for kind, values in self.samples.items() if len(values)}
        return {kind: np.histogram(values, BIN_EDGES)[0] for kind, values in kinds.items()}

    def table(self) -> Table:
        """The counts, a line for each bin and kind."""
        edges = BIN_EDGES.tolist()
        lines: list[tuple[Cell, ...]] = [
            (kind, low, high, count)
            for kind, counts in self.counts().items()
            for low, high, count in zip(edges, edges[1:], counts.tolist(), strict=False)
        ]
        return Table(("kind", "low", "high", "count"), lines)


@dataclass(frozen=True)
class Projection:
    """Points in two dimensions.

    Attributes:
        table: A line for each of the P points: what it is, and its coordinates ``x`` and ``y``.
        draw: Draws them as PNG.
    """

    table: Table
    draw: Callable[[], bytes]


@dataclass(frozen=True)
class Examples:
    """Images with what is said of them.

    Attributes:
        images: K images ``(H, W, 3)`` uint8.
        captions: K texts that stand below the images.
        table: A line for each image, with the same in columns.
        draw: Draws all with their captions into one PNG, for who cannot caption an image.
    """

    images: Sequence[np.ndarray]
    captions: Sequence[str]
    table: Table
    draw: Callable[[], bytes]


@dataclass(frozen=True)
class Embedding:
    """Points in the embedding space itself.

    Attributes:
        vectors: ``(P, D)`` float.
        table: A line for each point: what it is.
        thumbnails: Gives ``(P, S, S, 3)`` uint8; a tile of one colour where a point has no picture.
    """

    vectors: np.ndarray
    table: Table
    thumbnails: Callable[[], np.ndarray]


class Dashboard(ABC):
    """A logger that takes more than Lightning gives it; to be inherited beside one of Lightning's loggers.

    Everything is called on the first rank only, and in the order of the methods here; a ``name`` is the same in all
    dashboards (``val/cosine``, ``test/posthoc/projection``), and a step the number of optimizer steps. A logger that is
    no dashboard still gets every scalar and all hyperparameters.
    """

    @abstractmethod
    def log_texts(self, texts: Mapping[str, str]) -> None:
        """Takes what the run is made of: ``config`` (YAML), ``environment`` (YAML: commit, versions, command)."""

    @abstractmethod
    def log_histograms(self, name: str, histograms: Histograms, step: int) -> None:
        """Takes samples."""

    @abstractmethod
    def log_projection(self, name: str, projection: Projection, step: int) -> None:
        """Takes points in two dimensions."""

    @abstractmethod
    def log_examples(self, name: str, examples: Examples, step: int) -> None:
        """Takes images with captions."""

    @abstractmethod
    def log_embedding(self, name: str, embedding: Embedding, step: int) -> None:
        """Takes points in the embedding space."""

    @abstractmethod
    def log_table(self, name: str, table: Table, step: int) -> None:
        """Takes a table of results."""

    @abstractmethod
    def log_result(self, numbers: Mapping[str, float], step: int) -> None:
        """Takes the run's final numbers."""

    @abstractmethod
    def log_checkpoint(self, path: Path) -> None:
        """Takes a checkpoint, if it was asked to keep them."""

    @abstractmethod
    def close(self, *, finished: bool) -> None:
        """Ends the run here.

        Args:
            finished: Whether it came to its end.
        """

    @abstractmethod
    def where(self) -> str | None:
        """How to look at the run, in a line for a terminal; ``None`` where there is nothing to look at."""


def flat(params: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested hyperparameters under the names that all dashboards give them.

    Example:
        >>> flat({"data": {"seed": 0}, "name": "mad"})
        {'data/seed': 0, 'name': 'mad'}
    """
    found: dict[str, Any] = {}
    for key, value in params.items():
        found |= flat(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _markdown(cell: Cell) -> str:
    text = "" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell)
    for character, shown in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "&#96;")):
        text = text.replace(character, shown)
    return " ".join(text.split())
