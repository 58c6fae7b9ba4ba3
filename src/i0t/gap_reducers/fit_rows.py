"""Which rows a reducer is fitted on, and their exact statistics over all ranks.

Shapes: N image rows and M text rows of this rank, P pairs, D embedding width, W ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from i0t.distributed import all_reduce_sum, rank, rows_per_rank

CHUNK_ROWS = 8192  # float64 rows held at once: 32 MiB at D = 512


class Rows(Protocol):
    """Un-normalised rows (N, D) of a modality: a tensor, or rows of a file that are read chunk by chunk."""

    @property
    def shape(self) -> Sequence[int]:
        """``(N, D)``."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor) -> Tensor:
        """The given rows, int64."""

    def split(self, split_size: int) -> Iterable[Tensor]:
        """Chunks of at most so many rows, one after the other; a chunk may be overwritten by the next."""


class Embeddings(Protocol):
    """What a reducer reads of an embedding set: un-normalised features of any floating dtype, and their pairs."""

    @property
    def image_features(self) -> Tensor:
        """``(N, D)``."""

    @property
    def text_features(self) -> Tensor:
        """``(M, D)``."""

    @property
    def pairs(self) -> Tensor:
        """``(P, 2)`` int64 (image row, text row); may be empty."""

    @property
    def logit_scale(self) -> float:
        """As it multiplies cosines."""

    @property
    def logit_bias(self) -> float | None:
        """SigLIP's bias, or ``None``."""


@dataclass(frozen=True, kw_only=True)
class FitRows:
    """The chosen rows of this rank; satisfies :class:`Embeddings`."""

    image_features: Tensor
    text_features: Tensor
    pairs: Tensor
    logit_scale: float
    logit_bias: float | None


class Moments(NamedTuple):
    """Statistics of unit rows over all ranks, float64.

    Attributes:
        mean: ``(D,)``.
        variance: ``(D,)``, unbiased.
        num_rows: Of all ranks.
    """

    mean: Tensor
    variance: Tensor
    num_rows: int


def select_fit_rows(embeddings: Embeddings, num_samples: int | None, *, seed: int, device: torch.device) -> FitRows:
    """The first ``num_samples`` images of a seeded permutation over all ranks, and their texts (I0T Table 3).

    Ranks hold disjoint shards; the permutation runs over their rows in rank order, so that the choice is that of one
    process that holds the shards one after the other. Without pairs, as many texts are drawn for themselves.

    Args:
        embeddings: This rank's shard.
        num_samples: Images to use; ``None`` for all rows.
        seed: Of the permutation.
        device: Where the backend communicates.

    Returns:
        This rank's chosen rows, with pairs renumbered.

    Raises:
        ValueError: If there are fewer than ``num_samples`` images (or, without pairs, texts).
    """
    image, text, pairs = embeddings.image_features.detach(), embeddings.text_features.detach(), embeddings.pairs
    if num_samples is not None:
        num_images, num_texts = len(image), len(text)
        image_rows = _draw_rows(num_images, num_samples, "images", seed=seed, device=device)
        if sum(rows_per_rank(len(pairs), device)) == 0:
            text_rows = _draw_rows(num_texts, num_samples, "texts", seed=seed + 1, device=device)
        else:
            pairs = pairs.cpu()
            pairs = pairs[torch.isin(pairs[:, 0], image_rows)]
            text_rows = pairs[:, 1].unique()
            pairs = torch.stack([_renumber(pairs[:, 0], image_rows), _renumber(pairs[:, 1], text_rows)], dim=1)
        image, text = image[image_rows.to(image.device)], text[text_rows.to(text.device)]
    return FitRows(
        image_features=image,
        text_features=text,
        pairs=pairs,
        logit_scale=embeddings.logit_scale,
        logit_bias=embeddings.logit_bias,
    )


def draw_unpaired(features: Rows, num_samples: int | None, what: str, *, seed: int, device: torch.device) -> Rows:
    """``num_samples`` rows over all ranks, drawn for themselves; all for ``None``. See :func:`select_fit_rows`."""
    if num_samples is None:
        return features
    return features[_draw_rows(len(features), num_samples, what, seed=seed, device=device)]


def _draw_rows(num_rows: int, num_samples: int, what: str, *, seed: int, device: torch.device) -> Tensor:
    """This rank's share of the first ``num_samples`` rows of a permutation over all ranks' rows, ascending."""
    per_rank = rows_per_rank(num_rows, device)
    if num_samples > sum(per_rank):
        raise ValueError(f"fit_samples is {num_samples}, but the fit split has only {sum(per_rank)} {what}")
    start = sum(per_rank[: rank()])
    chosen = torch.randperm(sum(per_rank), generator=torch.Generator().manual_seed(seed))[:num_samples]
    own = chosen[(chosen >= start) & (chosen < start + num_rows)] - start
    return own.sort().values


def _renumber(values: Tensor, sorted_rows: Tensor) -> Tensor:
    """Position of each value among the sorted rows."""
    return torch.searchsorted(sorted_rows, values.contiguous())


def unit_mean(features: Rows, modality: str, *, device: torch.device) -> Tensor:
    """``(D,)`` float64 mean of the L2-normalised rows over all ranks: one pass, in float64, by chunks.

    Args and Raises: as :func:`unit_moments`.
    """
    return _unit_mean(features, modality, _float64_device(device))[0]


def unit_moments(features: Rows, modality: str, *, device: torch.device) -> Moments:
    """Mean and variance of the L2-normalised rows over all ranks, exactly: two passes, in float64, by chunks.

    Args:
        features: ``(N, D)`` un-normalised rows of this rank, any floating dtype (memory maps too); N may differ.
        modality: For the error message.
        device: Where to compute.

    Raises:
        ValueError: On every rank, if any rank has a row that is zero or not finite, or there are no rows at all.
    """
    device = _float64_device(device)
    mean, count = _unit_mean(features, modality, device)
    squares = torch.zeros_like(mean)
    for unit, _ in _unit_chunks(features, device):
        squares += (unit - mean).square().sum(0)
    all_reduce_sum(squares, in_place=True)
    return Moments(mean, squares / max(count - 1, 1), count)


def _float64_device(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device  # which has no float64


def _unit_mean(features: Rows, modality: str, device: torch.device) -> tuple[Tensor, int]:
    width = features.shape[1]
    totals = torch.zeros(width + 2, dtype=torch.float64, device=device)  # sum of rows, number of rows, of bad rows
    for unit, usable in _unit_chunks(features, device):
        totals[:width] += unit.sum(0)
        totals[width] += len(unit)
        totals[width + 1] += (~usable).sum()
    all_reduce_sum(totals, in_place=True)
    count, num_bad = int(totals[width]), int(totals[width + 1])
    if num_bad:
        raise ValueError(f"{num_bad} of {count} {modality} features are zero, NaN or infinite: nothing was fitted")
    if count == 0:
        raise ValueError(f"there are no {modality} features to fit on")
    return totals[:width] / count, count


def _unit_chunks(features: Rows, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Chunks of ``(rows, D)`` float64 unit rows, and ``(rows,)`` whether a row has a direction."""
    for chunk in features.split(CHUNK_ROWS):
        rows = chunk.to(device=device, dtype=torch.float64)
        norm = torch.linalg.vector_norm(rows, dim=1)
        yield F.normalize(rows, dim=1), torch.isfinite(norm) & (norm > 0)
