"""Figures over the jobs of a multirun, drawn when it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class CalibrationCurve(Callback):
    """Draws the gap against the number of calibration images, with the theory's curve (I0T Table 3)."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Reads the jobs and draws."""
        from i0t.report.calibration_curve import write_calibration_curve  # matplotlib, once the jobs are done

        _draw(config, write_calibration_curve)


class Tradeoff(Callback):
    """Draws numbers of the jobs against another number or a varied key.

    Args:
        x: A number, such as ``gap/centroid_distance``.
        y: Numbers, a picture each.
        colour: What the lines are: ``row``, a setting of the reducer, or a key that the jobs vary.
        order: The key along which the points of a line are joined and named (``row``: before, after); ``None``: by x.
        row: The only row that is drawn; ``None``: all that are fitted.
    """

    def __init__(self, x: str, y: Sequence[str], colour: str, order: str | None = None, row: str | None = None) -> None:
        self.x = x
        self.y = list(y)
        self.colour = colour
        self.order = order
        self.row = row

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Reads the jobs and draws."""
        from i0t.report.tradeoff import write_tradeoff

        def write(jobs: Sequence[Any], folder: Path) -> list[Path]:
            return write_tradeoff(jobs, folder, x=self.x, y=self.y, colour=self.colour, order=self.order, row=self.row)

        _draw(config, write)


def _draw(config: DictConfig, write: Callable[[Sequence[Any], Path], list[Path]]) -> None:
    """Draws what can be drawn; a sweep whose jobs failed keeps its tables."""
    from i0t.report.jobs import read_jobs

    folder = Path(config.hydra.sweep.dir)
    try:
        files = write(read_jobs(folder), folder)
    except ValueError as error:
        print(f"no figure over the jobs: {error}")  # noqa: T201
        return
    for file in files:
        print(f"over the jobs: {file}")  # noqa: T201
