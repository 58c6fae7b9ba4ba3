"""From batches of features to an EmbeddingSet: gathering ranks, ordering rows, encoding prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader

from i0t.data.base import Batch, PromptSpec, SplitInfo
from i0t.distributed import is_distributed, world_size
from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.models.base import ClipModel

_PROMPT_BATCH = 1024


class Features(NamedTuple):
    """Encoded rows of a split, in any order.

    Attributes:
        image_features: ``(B, D)``.
        text_features: ``(T, D)``.
        sample_id: ``(B,)`` row of each image in the split.
        text_id: ``(T,)`` row of each text in the split.
    """

    image_features: Tensor
    text_features: Tensor
    sample_id: Tensor
    text_id: Tensor

    @classmethod
    def cat(cls, parts: Sequence[Features]) -> Features:
        """Joins batches, or the shards of several ranks.

        Raises:
            ValueError: If there is nothing to join.
        """
        if not parts:
            raise ValueError("this rank has no sample to encode: the split has fewer images than there are processes")
        return cls(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def gathered(self) -> Features:
        """The rows of all ranks, on every rank."""
        if not is_distributed():
            return self
        parts: list[Any] = [None] * world_size()
        dist.all_gather_object(parts, self)  # shards are uneven, which tensor collectives do not take
        return Features.cat(parts)


def encode_batch(model: ClipModel, batch: Batch) -> Features:
    """Encodes one batch; the result is on the CPU in float32."""
    output = model(batch.images, batch.tokens)
    return Features(
        output.image_features.float().cpu(),
        output.text_features.float().cpu(),
        batch.sample_id.cpu(),
        batch.text_id.cpu(),
    )


@torch.no_grad()
def encode_loader(model: ClipModel, loader: DataLoader[Batch], device: torch.device) -> Features:
    """Encodes this rank's share of a loader in eval mode and puts the mode back."""
    training = model.training
    model.eval()
    parts = [encode_batch(model, Batch(*(tensor.to(device) for tensor in batch))) for batch in loader]
    model.train(training)
    return Features.cat(parts)


@torch.no_grad()
def encode_prompts(model: ClipModel, specs: Mapping[str, PromptSpec], device: torch.device) -> dict[str, PromptTable]:
    """Encodes prompt tables, each distinct text once."""
    texts = sorted({text for spec in specs.values() for prompts in spec.texts for text in prompts})
    if not texts:
        return {}
    chunks = [texts[i : i + _PROMPT_BATCH] for i in range(0, len(texts), _PROMPT_BATCH)]
    features = torch.cat([model.encode_text(model.tokenizer(chunk).to(device)).float().cpu() for chunk in chunks])
    row_of = {text: row for row, text in enumerate(texts)}
    return {name: _prompt_table(spec, features, row_of) for name, spec in specs.items()}


def _prompt_table(spec: PromptSpec, features: Tensor, row_of: Mapping[str, int]) -> PromptTable:
    width = max(len(prompts) for prompts in spec.texts)
    rows = torch.tensor(
        [[row_of[p] for p in [*prompts, *[prompts[0]] * (width - len(prompts))]] for prompts in spec.texts]
    )
    mask = torch.tensor([[i < len(prompts) for i in range(width)] for prompts in spec.texts])
    return PromptTable(
        features=features[rows],
        mask=mask,
        class_names=tuple(spec.class_names),
        aggregate=spec.aggregate,
        description=spec.description,
    )


def assemble(
    features: Features,
    info: SplitInfo,
    *,
    logits: tuple[float, float | None],
    prompts: Mapping[str, PromptTable] | None = None,
    with_relevant_pairs: bool = False,
) -> EmbeddingSet:
    """Orders encoded rows as the split does and joins them with what is known of the split.

    Args:
        features: All rows of the split, or one rank's share of the images with their texts.
        info: The split.
        logits: Scale and bias of the model's logits.
        prompts: Encoded prompt tables.
        with_relevant_pairs: Compute the pairs that retrieval counts as hits; needs the whole split.
    """
    image_order, text_order = features.sample_id.argsort(), features.text_id.argsort()
    image_rows, text_rows = features.sample_id[image_order], features.text_id[text_order]
    local_image = torch.full((info.num_images,), -1, dtype=torch.int64)
    local_image[image_rows] = torch.arange(len(image_rows))
    whole = len(image_rows) == info.num_images
    assert whole or not with_relevant_pairs, "relevant pairs are those of a whole split"
    relevant = info.relevant_pairs() if with_relevant_pairs and info.relevant_pairs is not None else None
    return EmbeddingSet.from_index(
        features.image_features[image_order],
        features.text_features[text_order],
        local_image[info.text_image_index[text_rows]],
        relevant_pairs=relevant,
        logit_scale=logits[0],
        logit_bias=logits[1],
        labels={name: label[image_rows] for name, label in info.labels.items()},
        class_names={name: tuple(names) for name, names in info.class_names.items()},
        groups=None if info.groups is None else info.groups[image_rows],
        image_ids=None if info.image_ids is None else _take(info.image_ids, image_rows),
        captions=_take(info.captions, text_rows),
        prompts=prompts or {},
        provenance=dict(info.provenance),
    )


def _take(values: Sequence[str], rows: Iterable[Tensor]) -> tuple[str, ...]:
    return tuple(values[int(row)] for row in rows)
