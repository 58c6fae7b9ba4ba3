"""Weights & Biases that never asks and never stops a run."""

from __future__ import annotations

import io
import netrc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import wandb
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from i0t.loggers.dashboard import BIN_EDGES, Dashboard, Embedding, Examples, Histograms, Projection, Table
from i0t.loggers.run_ids import keep_run_id, read_run_id

_NAME = "wandb"
_MODE = "WANDB_MODE"
_DECIMALS = 5  # of embeddings: tables are text


class WandbDashboard(WandbLogger, Dashboard):
    """A run that is online if a login is at hand, else offline; a resumed run goes on under the same id.

    Args:
        project: Project of the runs.
        name: Name of this run.
        save_dir: Folder of the local files; an offline run lies in ``<save_dir>/wandb`` for ``wandb sync``.
        entity: User or team.
        group: Group of runs, e.g. one sweep.
        tags: Tags.
        offline: ``True`` or ``False`` to decide, ``None`` to look for a login (``WANDB_MODE`` rules).
        save_checkpoints: Keep the run's checkpoints as artifacts, at its end.
    """

    def __init__(
        self,
        *,
        project: str,
        name: str,
        save_dir: str,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        offline: bool | None = None,
        save_checkpoints: bool = False,
    ) -> None:
        self.folder = Path(save_dir)
        self.save_checkpoints = save_checkpoints
        super().__init__(
            project=project,
            name=name,
            save_dir=save_dir,
            id=read_run_id(self.folder, _NAME),
            entity=entity,
            group=group,
            tags=list(tags),
            mode=run_mode(offline),  # not Lightning's `offline`, which changes the environment of all later runs
        )
        # Lightning always passes it, and wandb warns of it.
        self._wandb_init.pop("anonymous", None)

    def log_texts(self, texts: Mapping[str, str]) -> None:
        """Nothing of its own: they are hyperparameters too. Begins the run, and keeps its id in the run folder."""
        keep_run_id(self.folder, _NAME, self.experiment.id)

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        """Media go the way of scalars; Lightning's annotation knows scalars alone."""
        self.log_metrics(values, step)

    def log_histograms(self, name: str, histograms: Histograms, step: int) -> None:
        """A histogram of each kind."""
        found = {f"{name}/{kind}": _histogram(counts) for kind, counts in histograms.counts().items()}
        self._log(found, step)

    def log_projection(self, name: str, projection: Projection, step: int) -> None:
        """A picture, and the coordinates as a table."""
        picture = Image.open(io.BytesIO(projection.draw()))
        self._log({name: wandb.Image(picture), f"{name}_points": _table(projection.table)}, step)

    def log_examples(self, name: str, examples: Examples, step: int) -> None:
        """The images with their captions."""
        pictures = [wandb.Image(i, caption=c) for i, c in zip(examples.images, examples.captions, strict=True)]
        self._log({name: pictures}, step)

    def log_embedding(self, name: str, embedding: Embedding, step: int) -> None:
        """A table of the points with a thumbnail and a column for each dimension, as its 2D Projection takes them."""
        vectors = embedding.vectors.astype(float).round(_DECIMALS).tolist()
        columns: list[str | int] = [
            *embedding.table.columns,
            "thumbnail",
            *(f"D{d}" for d in range(1, len(vectors[0]) + 1)),
        ]
        described = zip(embedding.table.lines, embedding.thumbnails(), vectors, strict=True)
        lines = [[*line, wandb.Image(tile), *vector] for line, tile, vector in described]
        self._log({name: wandb.Table(columns=columns, data=lines)}, step)

    def log_table(self, name: str, table: Table, step: int) -> None:  # type: ignore[override]
        """A table."""
        self._log({name: _table(table)}, step)

    def log_result(self, numbers: Mapping[str, float], step: int) -> None:
        """Scalars, which are the run's summary too."""
        self.log_metrics(numbers, step)

    def log_checkpoint(self, path: Path) -> None:
        """An artifact ``checkpoint-<run id>-<file>`` of type ``model``."""
        if not self.save_checkpoints:
            return
        artifact = wandb.Artifact(f"checkpoint-{self.experiment.id}-{path.stem}", type="model")
        artifact.add_file(str(path))
        self.experiment.log_artifact(artifact)

    def close(self, *, finished: bool) -> None:
        """Ends the run, so that the next job of a multirun starts its own."""
        if self._experiment is not None:
            self.experiment.finish(exit_code=0 if finished else 1)

    def where(self) -> str | None:
        """The address of the run, or how to sync it."""
        if self._experiment is None or self.experiment.disabled:
            return None
        if self.experiment.offline:
            return f"wandb sync {Path(self.experiment.dir).parent}"
        return self.experiment.url


def run_mode(offline: bool | None) -> str | None:
    """W&B's mode of a run; ``None`` where ``WANDB_MODE`` says it.

    Args:
        offline: What the user asked for; ``None``: offline where no login is at hand.
    """
    if offline is not None:
        return "offline" if offline else "online"
    if os.environ.get(_MODE):
        return None
    return "online" if _logged_in() else "offline"


def _histogram(counts: np.ndarray) -> wandb.Histogram:
    return wandb.Histogram(np_histogram=(counts, BIN_EDGES))


def _table(table: Table) -> wandb.Table:
    return wandb.Table(columns=list(table.columns), data=[list(line) for line in table.lines])


def _logged_in() -> bool:
    """Whether a key stands in the environment or in the netrc file that ``wandb login`` writes; asks nobody."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
