"""EmbeddingSet: what the encoders leave behind, and all that reducers, metrics and reports ever see.

Shapes: N images, M texts, D embedding width, P pairs, C classes, T prompts per class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from i0t.judgements import Judgements

_CHECKED_ROWS = 8192


@dataclass(frozen=True, kw_only=True)
class PromptTable:
    """Text features of the prompts of a zero-shot task.

    Attributes:
        features: ``(C, T, D)`` un-normalised text features; classes with fewer than T prompts are padded.
        mask: ``(C, T)`` bool, true where a prompt stands.
        class_names: The C names, in label order.
        aggregate: How a class is scored from its prompts: ``"mean"`` of the unit prompts, or ``"max"`` over them.
        description: The prompt form in words; it stands beside every number made from this table.

    Example:
        >>> table = PromptTable(features=torch.randn(2, 1, 4), mask=torch.ones(2, 1, dtype=torch.bool),
        ...     class_names=("cat", "dog"), aggregate="mean", description="a photo of a {}.")
        >>> table.class_names[1]
        'dog'
    """

    features: Tensor
    mask: Tensor
    class_names: tuple[str, ...]
    aggregate: str
    description: str


@dataclass(frozen=True, kw_only=True)
class EmbeddingSet:
    """Raw features of N images and M texts, and what is known about them.

    Attributes:
        image_features: ``(N, D)`` un-normalised.
        text_features: ``(M, D)`` un-normalised.
        pairs: ``(P, 2)`` int64 rows (image row, text row) that were made for each other; may be empty.
        relevant_pairs: ``(R, 2)`` int64, every text that is true of an image. Retrieval counts these as hits;
            ``None`` means ``pairs``. (On MAD one caption is true of many images.)
        logit_scale: The temperature's inverse as it multiplies cosines (CLIP: up to 100), not its logarithm.
        logit_bias: SigLIP's bias, or ``None``.
        labels: Label name to ``(N,)`` int64 class index of each image.
        class_names: Label name to the names of its classes.
        groups: ``(N,)`` int64; images of one group are not independent (MAD: variants of one source digit) and are
            resampled together in a bootstrap. ``None``: every image is its own group.
        image_ids: N identifiers, or ``None``.
        captions: M captions, or ``None``.
        prompts: Label name to its prompt table.
        judgements: Captions that people have judged, or ``None``.
        provenance: Where this came from (model, data set, split, library version); plain containers.

    Raises:
        ValueError: If widths or lengths disagree, a feature is not finite or zero, or a pair or a label points outside.

    Example:
        >>> image, text = torch.eye(3), torch.eye(3)[[0, 0, 1, 2]]
        >>> pairs = EmbeddingSet.from_index(image, text, torch.tensor([0, 0, 1, 2]), captions=("a", "b", "c", "d"))
        >>> pairs.num_images, pairs.num_texts, pairs.text_image_index.tolist()
        (3, 4, [0, 0, 1, 2])
    """

    image_features: Tensor
    text_features: Tensor
    pairs: Tensor
    relevant_pairs: Tensor | None = None
    logit_scale: float = 100.0
    logit_bias: float | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    groups: Tensor | None = None
    image_ids: tuple[str, ...] | None = None
    captions: tuple[str, ...] | None = None
    prompts: Mapping[str, PromptTable] = field(default_factory=dict)
    judgements: Judgements | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_features("image", self.image_features)
        _check_features("text", self.text_features)
        if self.image_features.shape[1] != self.text_features.shape[1]:
            raise ValueError(
                f"image features are {self.image_features.shape[1]} wide and text features "
                f"{self.text_features.shape[1]}; one shared space needs equal widths"
            )
        self._check_pairs("pairs", self.pairs)
        if self.relevant_pairs is not None:
            self._check_pairs("relevant_pairs", self.relevant_pairs)
        per_image = {**{f"labels[{k}]": v for k, v in self.labels.items()}, "groups": self.groups}
        for name, values in {**per_image, "image_ids": self.image_ids}.items():
            if values is not None and len(values) != self.num_images:
                raise ValueError(f"{name} has {len(values)} entries for {self.num_images} images")
        for name, label in self.labels.items():
            self._check_label(name, label)
        if self.captions is not None and len(self.captions) != self.num_texts:
            raise ValueError(f"captions has {len(self.captions)} entries for {self.num_texts} texts")
        if self.judgements is not None:
            self._check_judgements(self.judgements)

    def _check_label(self, name: str, label: Tensor) -> None:
        known = [len(self.class_names[name])] if name in self.class_names else []
        known += [len(self.prompts[name].features)] if name in self.prompts else []
        if int(label.min()) < 0 or (known and int(label.max()) >= min(known)):
            raise ValueError(
                f"labels[{name}] holds classes {int(label.min())} to {int(label.max())}, "
                f"but {min(known) if known else 'no'} classes have names or prompts; they count from 0"
            )

    def _check_judgements(self, judgements: Judgements) -> None:
        self._check_pairs("judgements.candidates", judgements.candidates)
        texts = judgements.references[:, 1]
        if len(texts) and not 0 <= int(texts.min()) <= int(texts.max()) < self.num_texts:
            raise ValueError(
                f"judgements.references points at texts {int(texts.min())} to {int(texts.max())}, "
                f"but there are {self.num_texts} texts"
            )

    def _check_pairs(self, name: str, pairs: Tensor) -> None:
        if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype != torch.int64:
            raise ValueError(f"{name} must be (P, 2) int64, got {tuple(pairs.shape)} {pairs.dtype}")
        if len(pairs) == 0:
            return
        image_max, text_max = pairs.amax(0).tolist()
        if pairs.min() < 0 or image_max >= self.num_images or text_max >= self.num_texts:
            raise ValueError(
                f"{name} points at image {image_max} and text {text_max}, "
                f"but there are {self.num_images} images and {self.num_texts} texts"
            )

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.image_features)

    @property
    def num_texts(self) -> int:
        """M."""
        return len(self.text_features)

    @property
    def dim(self) -> int:
        """D."""
        return self.image_features.shape[1]

    @property
    def has_one_image_per_text(self) -> bool:
        """Whether :attr:`text_image_index` exists."""
        return bool((torch.bincount(self.pairs[:, 1], minlength=self.num_texts) == 1).all())

    @property
    def text_image_index(self) -> Tensor:
        """``(M,)`` int64: the image row of each text.

        Raises:
            ValueError: If some text has no image or more than one, so that this view does not exist.
        """
        count = torch.bincount(self.pairs[:, 1], minlength=self.num_texts)
        if not bool((count == 1).all()):
            raise ValueError(
                "this needs exactly one image for each text, but "
                f"{int((count == 0).sum())} texts have none and {int((count > 1).sum())} have several; "
                "give `pairs` or `text_image_index`"
            )
        index = torch.empty(self.num_texts, dtype=torch.int64)
        index[self.pairs[:, 1].cpu()] = self.pairs[:, 0].cpu()
        return index.to(self.pairs.device)

    @classmethod
    def from_index(
        cls, image_features: Tensor, text_features: Tensor, text_image_index: Tensor, **fields: Any
    ) -> EmbeddingSet:
        """Builds the usual set: one image, many captions.

        Args:
            image_features: ``(N, D)``.
            text_features: ``(M, D)``.
            text_image_index: ``(M,)`` int64, the image row of each text.
            **fields: The other attributes of :class:`EmbeddingSet`.

        Example:
            >>> x = torch.eye(2)
            >>> EmbeddingSet.from_index(x, x, torch.tensor([1, 0])).pairs.tolist()
            [[1, 0], [0, 1]]
        """
        text_rows = torch.arange(len(text_image_index), device=text_image_index.device)
        pairs = torch.stack([text_image_index.to(torch.int64), text_rows], dim=1)
        return cls(image_features=image_features, text_features=text_features, pairs=pairs, **fields)

    def shard(self, rank: int, world_size: int) -> EmbeddingSet:
        """One of ``world_size`` disjoint parts that together are the set, to fit a reducer on several processes.

        Images in contiguous parts, captions with their images; texts of many images (class prompts) in parts of their
        own, without pairs.
        """
        rows = torch.arange(self.num_images * rank // world_size, self.num_images * (rank + 1) // world_size)
        if world_size == 1 or self.has_one_image_per_text:
            return self if world_size == 1 else self.select_images(rows)
        first, last = self.num_texts * rank // world_size, self.num_texts * (rank + 1) // world_size
        texts = torch.arange(first, last)
        return EmbeddingSet(
            image_features=self.image_features[rows],
            text_features=self.text_features[texts],
            pairs=torch.empty(0, 2, dtype=torch.int64),
            logit_scale=self.logit_scale,
            logit_bias=self.logit_bias,
        )

    def select_images(self, rows: Tensor) -> EmbeddingSet:
        """The set of the given images, in this order, with the texts paired with them.

        Args:
            rows: ``(K,)`` int64 image rows, without repeats.

        Returns:
            A set of K images; texts paired with none of them and judgements are left out. Prompt tables stay whole.
        """
        new_image = torch.full((self.num_images,), -1, dtype=torch.int64)
        new_image[rows] = torch.arange(len(rows))
        kept_pairs = self.pairs[new_image[self.pairs[:, 0]] >= 0]
        text_rows = kept_pairs[:, 1].unique()
        new_text = torch.full((self.num_texts,), -1, dtype=torch.int64)
        new_text[text_rows] = torch.arange(len(text_rows))

        def moved(pairs: Tensor) -> Tensor:
            renumbered = torch.stack([new_image[pairs[:, 0]], new_text[pairs[:, 1]]], dim=1)
            return renumbered[(renumbered >= 0).all(1)]

        return dataclasses.replace(
            self,
            image_features=self.image_features[rows],
            text_features=self.text_features[text_rows],
            pairs=moved(self.pairs),
            relevant_pairs=None if self.relevant_pairs is None else moved(self.relevant_pairs),
            labels={name: label[rows] for name, label in self.labels.items()},
            groups=None if self.groups is None else self.groups[rows],
            image_ids=None if self.image_ids is None else tuple(self.image_ids[i] for i in rows.tolist()),
            captions=None if self.captions is None else tuple(self.captions[i] for i in text_rows.tolist()),
            judgements=None,
        )


def _check_features(modality: str, features: Tensor) -> None:
    if features.ndim != 2:
        raise ValueError(f"{modality} features must be (rows, width), got shape {tuple(features.shape)}")
    if len(features) == 0:
        raise ValueError(f"there are no {modality} features")
    # By chunks: the masks of millions of rows would take gigabytes.
    bad = torch.cat([~torch.isfinite(rows).all(dim=1) for rows in features.split(_CHECKED_ROWS)])
    if bool(bad.any()):
        raise ValueError(
            f"{int(bad.sum())} of {len(features)} {modality} features hold NaN or infinity, "
            f"first at row {int(bad.nonzero()[0])}; look at the encoder or the file they come from"
        )
    zero = torch.cat([~rows.any(dim=1) for rows in features.split(_CHECKED_ROWS)])
    if bool(zero.any()):
        raise ValueError(
            f"{int(zero.sum())} of {len(features)} {modality} features are zero and have no direction, "
            f"first at row {int(zero.nonzero()[0])}"
        )
