"""From batches of features to an EmbeddingSet: gathering ranks, ordering rows, encoding prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from i0t.data.base import Batch, PromptSpec, SplitInfo
from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.features import Features
from i0t.models.base import ClipModel

_TEXT_BATCH = 1024


def encode_batch(model: ClipModel, batch: Batch) -> Features:
    """Encodes one batch; the result is on the CPU in float32. Without texts the text tower does not run."""
    image_features = model.encode_image(batch.images).float().cpu()
    text_features = image_features[:0]
    if len(batch.tokens):
        text_features = model.encode_text(batch.tokens).float().cpu()
    return Features(
        image_features,
        text_features,
        batch.sample_id.cpu(),
        batch.text_id.cpu(),
    )


@torch.no_grad()
def encode_loader(model: ClipModel, loader: DataLoader[Batch], device: torch.device) -> Features:
    """Encodes this rank's share of a loader in eval mode and puts the mode back."""
    training = model.training
    model.eval()
    parts = [encode_batch(model, _moved(batch, device)) for batch in loader]
    model.train(training)
    return Features.cat(parts)


def _moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device, without labels, which the towers do not see."""
    parts = batch._replace(labels=None)._asdict()
    return Batch(**{name: part.to(device) for name, part in parts.items() if part is not None})


@torch.no_grad()
def encode_texts(model: ClipModel, texts: Sequence[str], device: torch.device) -> Tensor:
    """Encodes texts that belong to no single image, each distinct one once.

    Returns:
        ``(T, D)`` float32 on the CPU.
    """
    distinct = sorted(set(texts))
    row_of = {text: row for row, text in enumerate(distinct)}
    chunks = [distinct[i : i + _TEXT_BATCH] for i in range(0, len(distinct), _TEXT_BATCH)]
    features = torch.cat([model.encode_text(model.tokenizer(chunk).to(device)).float().cpu() for chunk in chunks])
    return features[torch.tensor([row_of[text] for text in texts])]


def encode_prompts(model: ClipModel, specs: Mapping[str, PromptSpec], device: torch.device) -> dict[str, PromptTable]:
    """Encodes prompt tables, each distinct text once."""
    texts = sorted({text for spec in specs.values() for prompts in spec.texts for text in prompts})
    if not texts:
        return {}
    features = encode_texts(model, texts, device)
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
    texts: Tensor | None = None,
    with_relevant_pairs: bool = False,
) -> EmbeddingSet:
    """Orders encoded rows as the split does and joins them with what is known of the split.

    Args:
        features: All rows of the split, or one rank's share of the images with their texts.
        info: The split.
        logits: Scale and bias of the model's logits.
        prompts: Encoded prompt tables.
        texts: ``(M, D)``, for a split whose texts belong to no single image (``info.pairs``).
        with_relevant_pairs: Compute the pairs that retrieval counts as hits; needs the whole split.
    """
    image_order = features.sample_id.argsort()
    image_rows = features.sample_id[image_order]
    whole = len(image_rows) == info.num_images
    assert whole or not with_relevant_pairs, "relevant pairs are those of a whole split"
    relevant = info.relevant_pairs() if with_relevant_pairs and info.relevant_pairs is not None else None
    if info.text_image_index is None:
        assert whole, "class prompts come with the whole split"
        assert texts is not None, "class prompts are encoded apart from the images"
        assert info.pairs is not None, "without text_image_index a split has pairs"
        text_features, pairs, captions = texts, info.pairs, tuple(info.captions)
    else:
        text_order = features.text_id.argsort()
        text_rows = features.text_id[text_order]
        local_image = torch.full((info.num_images,), -1, dtype=torch.int64)
        local_image[image_rows] = torch.arange(len(image_rows))
        text_features, captions = features.text_features[text_order], _take(info.captions, text_rows)
        pairs = torch.stack([local_image[info.text_image_index[text_rows]], torch.arange(len(text_rows))], dim=1)
    return EmbeddingSet(
        image_features=features.image_features[image_order],
        text_features=text_features,
        pairs=pairs,
        relevant_pairs=relevant,
        logit_scale=logits[0],
        logit_bias=logits[1],
        labels={name: label[image_rows] for name, label in info.labels.items()},
        class_names={name: tuple(names) for name, names in info.class_names.items()},
        groups=None if info.groups is None else info.groups[image_rows],
        image_ids=None if info.image_ids is None else _take(info.image_ids, image_rows),
        captions=captions,
        prompts=prompts or {},
        judgements=info.judgements if whole else None,
        provenance=dict(info.provenance),
    )


def _take(values: Sequence[str], rows: Iterable[Tensor]) -> tuple[str, ...]:
    return tuple(values[int(row)] for row in rows)
