"""The rows of a comparison: which gap reducers, under which names, fitted on what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from i0t.config import instantiate
from i0t.embeddings import EmbeddingSet
from i0t.gap_reducers.base import GapReducer
from i0t.runs import CHECKPOINT_KEY

_FIT_DATA = "fit_data"
_REDUCER_PREFIX = "gap_reducer."


class Row(NamedTuple):
    """A gap reducer to be measured.

    Attributes:
        reducer: Fitted already, or to be fitted on its split.
        fit_data: The node of another data set to fit it on; ``None``: the one that is measured.
        ready: Whether it comes fitted (a checkpoint's own).
        shares_images: Whether some of the measured images are among those it was fitted on.
    """

    reducer: GapReducer
    fit_data: Any = None
    ready: bool = False
    shares_images: bool = False

    def fitted_on(self, fit_set: EmbeddingSet, measured: EmbeddingSet) -> Row:
        """The row after its reducer was fitted on a set."""
        fit_ids, measured_ids = fit_set.image_ids or (), measured.image_ids or ()
        return self._replace(shares_images=not set(fit_ids).isdisjoint(measured_ids))


def build_row(node: Any, *, dim: int) -> Row:
    """Builds a reducer from its node, and keeps apart the data set that the engine is to fit it on."""
    container = OmegaConf.to_container(OmegaConf.create(node) if not OmegaConf.is_config(node) else node, resolve=True)
    assert isinstance(container, dict)
    fit_data = container.pop(_FIT_DATA, None)
    return Row(instantiate(container, dim=dim), fit_data)


def checkpoint_row(checkpoint: Mapping[str, Any], *, dim: int) -> Row | None:
    """The reducer a checkpoint was trained with, as it was saved; ``None`` where the run had none."""
    row = build_row(checkpoint[CHECKPOINT_KEY]["config"]["gap_reducer"], dim=dim)
    if not (row.reducer.trainable or row.reducer.needs_fit):
        return None
    state = checkpoint["state_dict"]
    own = {k.removeprefix(_REDUCER_PREFIX): v for k, v in state.items() if k.startswith(_REDUCER_PREFIX)}
    row.reducer.load_state_dict(own)
    return row._replace(ready=True)


def compared_rows(cfg: DictConfig, *, dim: int) -> dict[str, Row]:
    """The rows of ``compare`` and, in an evaluation, the reducer named on the command line."""
    rows = {str(name): build_row(node, dim=dim) for name, node in (cfg.compare or {}).items() if node is not None}
    if "optimizer" not in cfg and cfg.gap_reducer is not None:
        rows[free_name(row_name(cfg), rows)] = build_row(cfg.gap_reducer, dim=dim)
    return rows


def free_name(name: str, taken: Mapping[str, Any]) -> str:
    """The run's own reducer never hides a row of ``compare``."""
    return f"{name}_of_run" if name in taken else name


def row_name(cfg: DictConfig) -> str:
    """The choice of the group ``gap_reducer``; for a config composed elsewhere the file its class stands in."""
    if cfg.get("row"):
        return str(cfg.row)
    if HydraConfig.initialized() and HydraConfig.get().runtime.choices.get("gap_reducer"):
        return str(HydraConfig.get().runtime.choices["gap_reducer"])
    return component_name(cfg.gap_reducer)


def component_name(node: Any) -> str:
    """The file a component's class stands in, which is also the stem of its config: ``i0t.data.coco.…`` is ``coco``."""
    return str(node["_target_"]).split(".")[-2]
