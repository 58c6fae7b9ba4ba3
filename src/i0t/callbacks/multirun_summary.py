"""What is written over the jobs of a multirun when it ends: tables and one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig


class MultirunSummary(Callback):
    """Writes ``summary.csv``, ``seeds.csv`` and ``report.html`` over all jobs in the multirun's folder.

    A job without numbers (failed, interrupted) keeps its row, with empty cells. What :func:`write_sweep
    <i0t.report.sweep_files.write_sweep>` does with a sweep that has a page of its own stands there.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Reads the jobs and writes; Hydra calls this after the study that a sweep may have, whose page then stands."""
        from i0t.report.sweep_files import told, write_sweep  # Bokeh, once the jobs are done
        from i0t.report.sweep_jobs import find_runs, read_run

        folder = Path(config.hydra.sweep.dir)
        jobs = [read_run(run, run.relative_to(folder).as_posix()) for run in find_runs(folder)]
        if not jobs:
            return
        title = str(config.get("name") or folder.name)
        print(told(write_sweep(jobs, folder, title=title)))  # noqa: T201
