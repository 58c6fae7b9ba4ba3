"""TensorBoard with histograms, pictures, the embedding projector and a line in its table of hyperparameters.

Shapes: P points, D embedding width, S side of a thumbnail.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger

from i0t.loggers.dashboard import BIN_EDGES, Dashboard, Embedding, Examples, Histograms, Projection, Table, flat

# The numbers that stand in the table of hyperparameters; all others are among the scalars.
_IN_HPARAMS = ("gap/centroid_distance", "gap/rmg", "gap/linear_separability", "retrieval/i2t_r1", "retrieval/t2i_r1")
_DECIMALS = 5  # of projector vectors: their files are text


class TensorBoardDashboard(TensorBoardLogger, Dashboard):
    """Event files for ``tensorboard --logdir``; a resumed run goes on in the same folder.

    Args:
        save_dir: Of the run.
        name: Folder below it.
        version: Folder below that; empty for none.
    """

    def __init__(self, *, save_dir: str, name: str, version: str) -> None:
        # Without the placeholder hp_metric: log_result says what the run got.
        super().__init__(save_dir, name, version, default_hp_metric=False)

    def log_texts(self, texts: Mapping[str, str]) -> None:
        """A text each."""
        for name, text in texts.items():
            self.experiment.add_text(name, f"```yaml\n{text.rstrip()}\n```", 0)

    def log_histograms(self, name: str, histograms: Histograms, step: int) -> None:
        """A histogram over time for each kind."""
        for kind in histograms.counts():
            values = histograms.samples[kind].clip(-1, 1)
            self.experiment.add_histogram(f"{name}/{kind}", values, step, bins=BIN_EDGES.tolist())

    def log_projection(self, name: str, projection: Projection, step: int) -> None:
        """A picture."""
        self._add_picture(name, projection.draw, step)

    def log_examples(self, name: str, examples: Examples, step: int) -> None:
        """A picture with the captions in it."""
        self._add_picture(name, examples.draw, step)

    def log_embedding(self, name: str, embedding: Embedding, step: int) -> None:
        """The projector's files, with metadata and a sprite."""
        tiles = torch.from_numpy(embedding.thumbnails()).permute(0, 3, 1, 2).float() / 255
        self.experiment.add_embedding(
            np.round(embedding.vectors.astype(np.float64), _DECIMALS),
            # The metadata are lines of tab-separated values.
            metadata=[[" ".join(str(cell).split()) for cell in line] for line in embedding.table.lines],
            metadata_header=list(embedding.table.columns),
            label_img=tiles,
            global_step=step,
            tag=name,
        )

    def log_table(self, name: str, table: Table, step: int) -> None:
        """A text with the table."""
        self.experiment.add_text(name, table.to_markdown(), step)

    def log_result(self, numbers: Mapping[str, float], step: int) -> None:
        """The numbers as scalars, and the main ones beside the hyperparameters."""
        from torch.utils.tensorboard.summary import hparams

        self.log_metrics(dict(numbers), step)
        assert isinstance(self.hparams, dict), "the engine gives plain containers"
        main = {name: 0.0 for name in numbers if name.endswith(_IN_HPARAMS)}  # the values are the scalars'
        writer = self.experiment._get_file_writer()
        for summary in hparams(self._sanitize_params(flat(self.hparams)), main):
            writer.add_summary(summary, step)

    def log_checkpoint(self, path: Path) -> None:
        """Nothing: TensorBoard keeps no files."""

    def close(self, *, finished: bool) -> None:
        """Writes what is not yet written."""
        self.finalize("success" if finished else "failed")

    def where(self) -> str | None:
        """The command that shows it."""
        return f"tensorboard --logdir {self.log_dir.rstrip('/')}"

    def _add_picture(self, name: str, draw: Callable[[], bytes], step: int) -> None:
        picture = np.asarray(Image.open(io.BytesIO(draw())).convert("RGB"))
        self.experiment.add_image(name, picture, step, dataformats="HWC")
