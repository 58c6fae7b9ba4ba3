"""The report on a sweep over what captions say, written when the multirun ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from i0t.progress import working


class InformationImbalance(Callback):
    """Draws gap, object bias and accuracy against k, and tests the claims of Two Effects, One Trigger on them."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Reads the jobs and writes; jobs without numbers are named, and a sweep without any keeps its tables."""
        from i0t.report.imbalance_page import write_information_imbalance  # matplotlib, once the jobs are done
        from i0t.report.jobs import read_jobs, unfinished_jobs

        folder = Path(config.hydra.sweep.dir)
        try:
            with working("writing the study"):
                files = write_information_imbalance(read_jobs(folder), folder, unfinished=unfinished_jobs(folder))
        except ValueError as error:
            print(f"no figure over the jobs: {error}")  # noqa: T201
            return
        for file in files:
            print(f"over the jobs: {file}")  # noqa: T201
