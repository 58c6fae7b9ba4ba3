"""Curves, table and verdicts of an entropy study, written when its multirun ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from i0t.progress import working


class EntropyStudy(Callback):
    """Writes ``entropy_study.json``, ``.csv``, ``.md`` and ``.png`` into the multirun's folder, and says the verdicts.

    See :func:`i0t.report.entropy_study.write_entropy_study`.
    """

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Reads the jobs; a study that cannot be made leaves the jobs' tables."""
        from i0t.report.entropy_claims import entropy_claims  # SciPy and matplotlib, once the jobs are done
        from i0t.report.entropy_curves import entropy_curves
        from i0t.report.entropy_study import claims_text, write_entropy_study
        from i0t.report.jobs import read_jobs, unfinished_jobs

        folder = Path(config.hydra.sweep.dir)
        try:
            with working("writing the study"):
                jobs = read_jobs(folder)
                files = write_entropy_study(jobs, folder, unfinished=unfinished_jobs(folder))
        except ValueError as error:
            print(f"no entropy study over the jobs: {error}")  # noqa: T201
            return
        print(claims_text(entropy_claims(entropy_curves(jobs))))  # noqa: T201
        for file in files:
            print(f"over the jobs: {file}")  # noqa: T201
