"""Which runs of the dashboards a run folder belongs to, so that a resumed run goes on in the same ones."""

from __future__ import annotations

import json
from pathlib import Path

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from i0t.runs import write_json

FILE = "dashboards.json"


def read_run_id(folder: Path, dashboard: str) -> str | None:
    """The dashboard's id of the run in a folder; ``None`` where it has none yet.

    Args:
        folder: Of the run.
        dashboard: ``wandb``, ``mlflow``.

    Raises:
        ValueError: If the file that says it is damaged.
    """
    found = _read(folder).get(dashboard)
    return None if found is None else str(found)


def keep_run_id(folder: Path, dashboard: str, run_id: str) -> None:
    """Writes the dashboard's id of the run into its folder."""
    write_json(folder / FILE, {**_read(folder), dashboard: run_id})


@rank_zero_only
def forget_run_ids(folder: Path) -> None:
    """For a run that begins anew in a folder: what was there before keeps its curves."""
    (folder / FILE).unlink(missing_ok=True)


def _read(folder: Path) -> dict[str, str]:
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: delete it, and the dashboards begin a new run") from error
    return found
