"""Weights & Biases that never asks and never stops a run."""

from __future__ import annotations

import netrc
import os
from collections.abc import Sequence
from urllib.parse import urlsplit

from pytorch_lightning.loggers import WandbLogger


def wandb_logger(
    *,
    project: str,
    name: str,
    save_dir: str,
    entity: str | None = None,
    group: str | None = None,
    tags: Sequence[str] = (),
    offline: bool | None = None,
) -> WandbLogger:
    """A logger that is online if a login is at hand, else offline.

    Args:
        project: Project of the runs.
        name: Name of this run.
        save_dir: Folder of the local files; an offline run lies in ``<save_dir>/wandb`` for ``wandb sync``.
        entity: User or team.
        group: Group of runs, e.g. one sweep.
        tags: Tags.
        offline: ``True`` or ``False`` to decide, ``None`` to look for a login (``WANDB_MODE`` rules).
    """
    if offline is None:
        mode = os.environ.get("WANDB_MODE", "")
        offline = mode in ("offline", "disabled", "dryrun") or (mode != "online" and not _logged_in())
    return WandbLogger(
        project=project, name=name, save_dir=save_dir, entity=entity, group=group, tags=list(tags), offline=offline
    )


def _logged_in() -> bool:
    """Whether a key stands in the environment or in the netrc file that ``wandb login`` writes; asks nobody."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
