"""Stage 2 of I0T: a gap reducer trained on frozen encoders, through them or on what they made once."""

from __future__ import annotations

from typing import NamedTuple

from omegaconf import DictConfig
from rich.console import Console

from i0t.config import to_container
from i0t.config_errors import ConfigError
from i0t.data.base import ImageTextDataModule
from i0t.data.cached_pairs import CachedPairs
from i0t.embeddings import EmbeddingSet
from i0t.engine.encoder import Encoder
from i0t.engine.sources import LazyEncoder, open_cache
from i0t.models.precomputed import Precomputed
from i0t.module import ClipModule

TRAINED, FROZEN, CACHED = "trained", "frozen", "cached"
# Weights stay in float32, so that they are still those of the checkpoint.
_WHOLE_PRECISIONS = ("32-true", "32", "bf16-mixed", "16-mixed")


class Training(NamedTuple):
    """What the trainer fits.

    Attributes:
        module: Shares encoders, reducer and loss with the run's own module, or is it.
        datamodule: The run's own, or cached features of its splits.
    """

    module: ClipModule
    datamodule: ImageTextDataModule


def check_encoders(cfg: DictConfig) -> None:
    """Checks what the root keys ``encoders`` and ``views`` say together.

    Raises:
        ConfigError: In one line.
    """
    if cfg.encoders not in (TRAINED, FROZEN, CACHED):
        raise ConfigError(
            f"encoders={cfg.encoders} is unknown; choose trained, frozen (stage 2 through the encoders) or cached "
            "(stage 2 on embeddings that are encoded once)"
        )
    if cfg.encoders != TRAINED and str(cfg.trainer.precision) not in _WHOLE_PRECISIONS:
        raise ConfigError(
            f"trainer.precision={cfg.trainer.precision} converts the weights, which encoders={cfg.encoders} keeps: "
            f"choose one of {', '.join(_WHOLE_PRECISIONS)}"
        )
    if cfg.encoders == CACHED and not {"batch_size", "train_seed"} <= set(cfg.data):
        raise ConfigError("these data have no image-caption pairs to train on, so encoders=cached has nothing to cache")
    if cfg.views < 1:
        raise ConfigError(f"views={cfg.views} must be at least 1")
    if cfg.views > 1 and cfg.encoders != TRAINED:
        raise ConfigError(f"views={cfg.views} needs encoders=trained: frozen ones have no dropout, all views are equal")
    if cfg.views > 1 and cfg.model.get("dropout") == 0:
        raise ConfigError(f"views={cfg.views} without dropout are all equal: set model.dropout (I0T: 0.1)")


def check_something_is_trained(cfg: DictConfig, module: ClipModule) -> None:
    """Refuses a run in which nothing has gradients.

    Raises:
        ConfigError: In one line.
    """
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise ConfigError(
            f"encoders={cfg.encoders} and {type(module.gap_reducer).__name__} has nothing to train: "
            "choose gap_reducer=async_bn, or measure it with eval.py"
        )


def prepare(cfg: DictConfig, encoder: Encoder, datamodule: ImageTextDataModule) -> Training:
    """What is to be fitted: the run's own module and data, or, for ``encoders=cached``, their cached counterparts."""
    if cfg.encoders != CACHED:
        return Training(encoder.module, datamodule)
    module = encoder.module
    splits = {split: _encoded(cfg, encoder, datamodule, split) for split in ("train", "val")}
    for split, embeddings in splits.items():
        encoder.keep(datamodule, split, embeddings)
    if encoder.trainer.is_global_zero:
        train = splits["train"]
        Console().print(f"training on {train.num_images:,} images with {train.num_texts:,} captions from the cache")
    pairs = CachedPairs(splits, batch_size=cfg.data.batch_size, train_seed=cfg.data.train_seed)
    cached = ClipModule(
        Precomputed(module.model),
        module.gap_reducer,
        module.loss,
        optimizer=module.make_optimizer,
        scheduler=module.make_scheduler,
        config=module.config,
        decay_all=module.decay_all,
        encoder_weights=module.encoder_weights,
    )
    return Training(cached, pairs)


def _encoded(cfg: DictConfig, encoder: Encoder, datamodule: ImageTextDataModule, split: str) -> EmbeddingSet:
    """A split from the cache of embeddings, encoded into it first where it must be."""
    if datamodule.files(split) is None:  # not worth a cache
        return encoder.whole(datamodule, split, with_relevant_pairs=False)
    request = LazyEncoder(cfg, None).request() | {"data": to_container(cfg.data), "split": split}
    return encoder.into_cache(open_cache(cfg), datamodule, split, request)
