"""Plain files that need no program: scalars as CSV, and everything else as far as a table can hold it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger

from i0t.loggers.dashboard import Dashboard, Embedding, Examples, Histograms, Projection, Table
from i0t.runs import write_atomically


class CsvDashboard(CSVLogger, Dashboard):
    """``metrics.csv`` with the scalars, ``hparams.yaml``, and a CSV file for each table, projection and histogram.

    Args:
        save_dir: Of the run.
        name: Folder below it.
        version: Folder below that; ``None``: a new ``version_N`` whenever the run is resumed: the old files stay.
    """

    def __init__(self, *, save_dir: str, name: str, version: str | int | None) -> None:
        super().__init__(save_dir, name, version)

    def log_texts(self, texts: Mapping[str, str]) -> None:
        """Nothing: the run folder has them, and ``hparams.yaml`` too."""

    def log_histograms(self, name: str, histograms: Histograms, step: int) -> None:
        """The counts."""
        self.log_table(name, histograms.table(), step)

    def log_projection(self, name: str, projection: Projection, step: int) -> None:
        """The coordinates."""
        self.log_table(name, projection.table, step)

    def log_examples(self, name: str, examples: Examples, step: int) -> None:
        """What is said of the images."""
        self.log_table(name, examples.table, step)

    def log_embedding(self, name: str, embedding: Embedding, step: int) -> None:
        """Nothing: vectors are no table; ``log_projection`` has the points in two dimensions."""

    def log_table(self, name: str, table: Table, step: int) -> None:
        """A file ``<name>_<step>.csv``."""
        write_atomically(Path(self.log_dir) / f"{name}_{step:07d}.csv", table.to_csv())

    def log_result(self, numbers: Mapping[str, float], step: int) -> None:
        """The last line of ``metrics.csv``."""
        self.log_metrics(dict(numbers), step)

    def log_checkpoint(self, path: Path) -> None:
        """Nothing: they are in the run folder."""

    def close(self, *, finished: bool) -> None:
        """Writes what is not yet written."""
        self.finalize("success" if finished else "failed")

    def where(self) -> str | None:
        """Nothing more than the run folder says."""
        return None
