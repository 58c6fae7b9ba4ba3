"""The study over the models of a multirun, written when it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from i0t.progress import working


class GapVsPerformance(Callback):
    """Writes tables, figures and ``report.html`` over all jobs in the multirun's folder, earlier commands' as well.

    Args:
        min_recall: Models whose image-to-text R@1 is lower do not count in correlations; 0: all count.
        seed: Of permutations and resamples.
    """

    def __init__(self, min_recall: float, seed: int) -> None:
        self.min_recall = min_recall
        self.seed = seed

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Reads the jobs and writes; where no job has numbers, says so."""
        from i0t.report.jobs import read_jobs
        from i0t.report.model_study import write_model_study

        folder = Path(config.hydra.sweep.dir)
        try:
            with working("writing the study"):
                files = write_model_study(read_jobs(folder), folder, min_recall=self.min_recall, seed=self.seed)
        except ValueError as error:
            print(f"nothing over the models: {error}")  # noqa: T201
            return
        for file in files:
            print(f"over the models: {file}")  # noqa: T201
