"""Where an evaluation gets embeddings from: a file of them, the cache, or the encoders.

Nothing here builds a model or a data module before it must.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from omegaconf import DictConfig

from i0t import runs
from i0t.config import instantiate, to_container
from i0t.config_errors import ConfigError
from i0t.embedding_cache import EmbeddingCache, stamp
from i0t.embeddings import EmbeddingSet

if TYPE_CHECKING:
    from i0t.data.base import ImageTextDataModule
    from i0t.engine.encoder import Encoder


class EmbeddingSource(Protocol):
    """Embeddings that lie in files: what a ``data`` node builds where nothing is encoded."""

    def load(self, split: str) -> EmbeddingSet:
        """Reads a split."""
        ...


class LazyEncoder:
    """The encoder of an evaluation, built when a split is asked for that no cache holds.

    Args:
        cfg: Composed from ``eval.yaml``.
        checkpoint: What ``ckpt_path`` holds.
    """

    def __init__(self, cfg: DictConfig, checkpoint: Mapping[str, Any] | None) -> None:
        self.cfg = cfg
        self.checkpoint = checkpoint

    def check(self) -> None:
        """Asks for a model before the data are prepared, which may take a minute.

        Raises:
            ConfigError: If none is named.
        """
        if self.cfg.model is None:
            raise ConfigError("these data must be encoded: name a model (model=…) or a checkpoint (ckpt_path=…)")

    @functools.cached_property
    def encoder(self) -> Encoder:
        """Model and trainer."""
        self.check()
        from i0t.engine.loading import build_encoder

        return build_encoder(self.cfg, self.checkpoint)

    @property
    def is_alone(self) -> bool:
        """Whether one process does it all; several must decide together what is in the cache."""
        trainer = self.cfg.trainer
        return trainer.get("devices") == 1 and trainer.get("num_nodes") == 1

    @property
    def device(self) -> torch.device:
        """Where collectives work."""
        return torch.device("cpu") if self.is_alone else self.encoder.trainer.strategy.root_device

    def request(self) -> dict[str, Any]:
        """What decides about the model, without building it."""
        path = self.cfg.ckpt_path
        return {
            "model": to_container(self.cfg.model) if self.cfg.model is not None else None,
            "checkpoint": None if path is None else [str(Path(path).absolute()), stamp(path)],
            "precision": str(self.cfg.trainer.get("precision")),
            "seed": self.cfg.seed,  # of a model without weights
            "folder": str(Path.cwd()),  # where relative paths begin
        }


class Source:
    """One data set of an evaluation.

    Args:
        node: Its config node, as plain containers.
        lazy_encoder: Shared by all sources of a run.
        cache: Of embeddings.
    """

    def __init__(self, node: Any, lazy_encoder: LazyEncoder, cache: EmbeddingCache) -> None:
        self.node = node
        self.lazy_encoder = lazy_encoder
        self.cache = cache
        self._recalled = False

    @functools.cached_property
    def _built(self) -> Any:
        return instantiate(self.node)

    def load(self, split: str, *, with_relevant_pairs: bool = False) -> EmbeddingSet:
        """The whole split, from the cheapest place that has it.

        Args:
            split: ``"train"``, ``"val"`` or ``"test"``.
            with_relevant_pairs: For a split that is measured.
        """
        request = {**self.lazy_encoder.request(), "data": self.node, "split": split}
        found = self.cache.recall(request) if self.lazy_encoder.is_alone else None
        if found is not None:
            self._recalled = True
            return found
        if not self._is_datamodule:
            source: EmbeddingSource = self._built
            return source.load(split)
        self.lazy_encoder.check()
        datamodule = self._bound()
        encoder = self.lazy_encoder.encoder
        if datamodule.files(split) is None:
            return encoder.whole(datamodule, split, with_relevant_pairs=with_relevant_pairs)
        return encoder.into_cache(self.cache, datamodule, split, request)

    def images(self) -> Callable[[str, int], np.ndarray] | None:
        """Looks up one image of a split; ``None`` for embeddings without images."""
        if not self.is_encoded:
            return None
        return lambda split, row: self._built.images(split, [row])[0]

    @property
    def is_encoded(self) -> bool:
        """Whether a model made these embeddings here, now or into the cache."""
        return self._recalled or self._is_datamodule

    @property
    def _is_datamodule(self) -> bool:
        return hasattr(self._built, "eval_dataloader")

    def _bound(self) -> ImageTextDataModule:
        datamodule: ImageTextDataModule = self._built
        datamodule.prepare_data()
        return self.lazy_encoder.encoder.bind(datamodule)


def open_cache(cfg: DictConfig) -> EmbeddingCache:
    """The cache of ``paths.cache_dir``."""
    return EmbeddingCache(cfg.paths.cache_dir)


def read_checkpoint(cfg: DictConfig) -> dict[str, Any] | None:
    """What ``ckpt_path`` holds."""
    return None if cfg.ckpt_path is None else runs.read_checkpoint(Path(cfg.ckpt_path))
