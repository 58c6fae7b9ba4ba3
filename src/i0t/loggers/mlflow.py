"""MLflow in a database of one's own, a shared one, or on a server.

Shapes: P points, S side of a thumbnail.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from i0t.loggers.dashboard import Dashboard, Embedding, Examples, Histograms, Projection, Table, flat
from i0t.loggers.run_ids import keep_run_id, read_run_id

_NAME = "mlflow"
_SQLITE = "sqlite:///"
_QUIET = ("mlflow", "alembic")  # they report every step of making a database


def mlflow_dashboard(
    *,
    experiment: str,
    name: str,
    save_dir: str,
    tracking_uri: str | None = None,
    artifact_location: str | None = None,
    tags: Mapping[str, str] | None = None,
    save_checkpoints: bool = False,
) -> Logger:
    """MLflow on the first rank, and nothing on the others: a client makes the database as it is built.

    Sets ``MLFLOW_DISABLE_TELEMETRY`` where you have not.

    Args:
        experiment: What MLflow groups runs by.
        name: Name of this run.
        save_dir: Of the run; keeps the id of MLflow's run, so that a resumed run goes on in it.
        tracking_uri: ``sqlite:///path/to/file.db``, or the address of a server; ``None``: what the environment variable
            ``MLFLOW_TRACKING_URI`` says, else ``<save_dir>/mlflow.db``.
        artifact_location: Where a new experiment keeps its files; ``None``: beside a database file, in the folder
            ``<its name>_files``, or where a server says.
        tags: Of the run.
        save_checkpoints: Keep the run's checkpoints as artifacts, at its end.

    Raises:
        ValueError: If MLflow is not installed, or does not know the run that is to go on.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]
        return SilentLogger()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow  # noqa: F401
    except ImportError as error:
        raise ValueError("logger=mlflow needs MLflow: pip install 'i0t[dashboards]'") from error
    for logger in _QUIET:
        logging.getLogger(logger).setLevel(logging.WARNING)
    given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    uri = given or f"{_SQLITE}{Path(save_dir) / 'mlflow.db'}"
    if uri.startswith(_SQLITE):
        database = Path(uri.removeprefix(_SQLITE)).absolute()
        uri = f"{_SQLITE}{database}"
        artifact_location = artifact_location or database.with_name(f"{database.stem}_files").as_uri()
        database.parent.mkdir(parents=True, exist_ok=True)
        # Jobs that share a database and start together would all make its tables.
        with FileLock(f"{database}.lock") if given else contextlib.nullcontext():
            _create_experiment(uri, experiment, artifact_location)
    else:
        _create_experiment(uri, experiment, artifact_location)
    return MlflowDashboard(experiment, name, Path(save_dir), uri, tags=tags, save_checkpoints=save_checkpoints)


class SilentLogger(Logger):
    """Takes nothing, for the other ranks; Lightning's own has every attribute, so that OmegaConf misreads it."""

    @property
    def name(self) -> str | None:
        """None."""
        return None

    @property
    def version(self) -> int | str | None:
        """None."""
        return None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Drops them."""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Drops them."""


class MlflowDashboard(MLFlowLogger, Dashboard):
    """A run of MLflow; see :func:`mlflow_dashboard`.

    Args:
        experiment: What MLflow groups runs by; it exists.
        name: Name of this run.
        folder: Of the run.
        uri: Of the database or server.
        tags: Of the run.
        save_checkpoints: Keep the run's checkpoints as artifacts, at its end.
    """

    def __init__(
        self,
        experiment: str,
        name: str,
        folder: Path,
        uri: str,
        *,
        tags: Mapping[str, str] | None,
        save_checkpoints: bool,
    ) -> None:
        self.folder = folder
        self.uri = uri
        self.save_checkpoints = save_checkpoints
        run_id = read_run_id(folder, _NAME)
        super().__init__(experiment, run_name=name, tracking_uri=uri, tags=dict(tags or {}), run_id=run_id)
        if run_id is not None:
            self._go_on(run_id)

    def _go_on(self, run_id: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._mlflow_client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            raise ValueError(
                f"{self.uri} does not know the run {run_id} that {self.folder} belongs to: name the database that "
                f"does, or delete {self.folder / 'dashboards.json'} and a new one begins"
            ) from error

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Only what is new: MLflow refuses another value, and a resumed run has another command and other devices."""
        known = self.experiment.get_run(self.run_id).data.params
        given = vars(params) if isinstance(params, Namespace) else params
        super().log_hyperparams({k: v for k, v in flat(given).items() if k not in known})

    def log_texts(self, texts: Mapping[str, str]) -> None:
        """Files ``<name>.yaml``. Begins the run, and keeps its id in the run folder."""
        assert self.run_id is not None
        keep_run_id(self.folder, _NAME, self.run_id)
        for name, text in texts.items():
            self.experiment.log_text(self.run_id, text, f"{name}.yaml")

    def log_histograms(self, name: str, histograms: Histograms, step: int) -> None:
        """A picture, and the counts as a file."""
        self._log_picture(name, histograms.draw, step)
        self.log_table(name, histograms.table(), step)

    def log_projection(self, name: str, projection: Projection, step: int) -> None:
        """A picture, and the coordinates as a file."""
        self._log_picture(name, projection.draw, step)
        self.log_table(name, projection.table, step)

    def log_examples(self, name: str, examples: Examples, step: int) -> None:
        """A picture with the captions in it, and what is said of the images as a file."""
        self._log_picture(name, examples.draw, step)
        self.log_table(name, examples.table, step)

    def log_embedding(self, name: str, embedding: Embedding, step: int) -> None:
        """The files that an embedding projector loads: vectors, metadata and a sprite of the thumbnails."""
        folder = f"{name}_{step:07d}"
        vectors = io.StringIO()
        np.savetxt(vectors, embedding.vectors, fmt="%.5f", delimiter="\t")
        described = [embedding.table.columns, *embedding.table.lines]
        metadata = "".join("\t".join(" ".join(str(c).split()) for c in line) + "\n" for line in described)
        self.experiment.log_text(self.run_id, vectors.getvalue(), f"{folder}/tensors.tsv")
        self.experiment.log_text(self.run_id, metadata, f"{folder}/metadata.tsv")
        self.experiment.log_image(self.run_id, Image.fromarray(_sprite(embedding.thumbnails())), f"{folder}/sprite.png")

    def log_table(self, name: str, table: Table, step: int) -> None:
        """A file ``<name>_<step>.csv``."""
        self.experiment.log_text(self.run_id, table.to_csv(), f"{name}_{step:07d}.csv")

    def log_result(self, numbers: Mapping[str, float], step: int) -> None:
        """Scalars."""
        self.log_metrics(numbers, step)

    def log_checkpoint(self, path: Path) -> None:
        """A file in ``checkpoints``."""
        if self.save_checkpoints:
            self.experiment.log_artifact(self.run_id, str(path), "checkpoints")

    def finalize(self, status: str = "success") -> None:
        """What ends well here is a call of the trainer, not yet the run."""
        if status != "success":
            super().finalize(status)

    def close(self, *, finished: bool) -> None:
        """Ends the run."""
        super().finalize("success" if finished else "failed")

    def where(self) -> str | None:
        """The command that shows it, or the server."""
        local = self.uri.startswith(_SQLITE)
        return f"mlflow ui --backend-store-uri {self.uri}" if local else f"{self.uri}, run {self.run_id}"

    def _log_picture(self, name: str, draw: Callable[[], bytes], step: int) -> None:
        self.experiment.log_image(self.run_id, Image.open(io.BytesIO(draw())), key=name, step=step)


def _create_experiment(uri: str, name: str, artifact_location: str | None) -> None:
    """Makes database and experiment where they are not there."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    if client.get_experiment_by_name(name) is None:
        client.create_experiment(name, artifact_location)


def _sprite(tiles: np.ndarray) -> np.ndarray:
    """``(P, S, S, 3)`` tiles in a square, row by row, black where there are no more.

    Example:
        >>> _sprite(np.ones((3, 2, 2, 3), np.uint8)).shape
        (4, 4, 3)
    """
    side, size = math.ceil(math.sqrt(len(tiles))), tiles.shape[1]
    grid = np.zeros((side * side, *tiles.shape[1:]), tiles.dtype)
    grid[: len(tiles)] = tiles
    return grid.reshape(side, side, size, size, 3).swapaxes(1, 2).reshape(side * size, side * size, 3)
