"""Embeddings from a file, from any two towers: nothing is encoded.

Shapes: N images, M texts, P pairs.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from i0t.data.base import MissingSplitError
from i0t.data.embedding_formats import StoredEmbeddings, read_embeddings
from i0t.embeddings import EmbeddingSet

ONLY_SPLIT = "test"  # what a file without splits is


class EmbeddingsFile:
    """Embeddings in a file: our own set (a folder), ``.npz``, a pair of ``.npy``, or parquet.

    ``.npz``: ``image`` (N, D) and ``text`` (M, D) of any numeric type; ``text_image_index`` (M,) or ``pairs`` (P, 2),
    without which the set is unpaired; ``split`` (N,) names, ``text_split`` (M,) for texts without image, ``image_id``
    (N,), ``caption`` (M,). ``.npy``: one file per modality, memory-mapped, and an index file. Parquet: columns of the
    same names, see ``docs/embeddings.md``. Half precision stays half precision.

    A file without splits is all ``test``, unless ``holdout`` takes some of it away to fit on.

    Args:
        path: The file or folder; with ``text_path`` the ``.npy`` of the images.
        text_path: The ``.npy`` of the texts.
        index_path: The ``.npy`` of ``text_image_index`` or ``pairs`` beside two ``.npy``; ``None``: unpaired.
        holdout: Share of the images that becomes ``train`` in a file without splits, the rest ``test``. Texts go with
            their images; images of one group or with a text in common stay together. ``None``: all is ``test``.
        seed: Of the draw of ``holdout``.

    Raises:
        ValueError: If ``holdout`` is not between 0 and 1.
    """

    def __init__(
        self,
        *,
        path: str,
        text_path: str | None = None,
        index_path: str | None = None,
        holdout: float | None = None,
        seed: int = 0,
    ) -> None:
        if holdout is not None and not 0 < holdout < 1:
            raise ValueError(f"holdout is the share of the images to fit on, between 0 and 1, got {holdout}")
        self.path = path
        self.text_path = text_path
        self.index_path = index_path
        self.holdout = holdout
        self.seed = seed

    def load(self, split: str) -> EmbeddingSet:
        """Reads a split.

        Raises:
            ValueError: If the file cannot be read, has no such split, or the split has images or texts only.
        """
        stored = self._stored
        embeddings = stored.embeddings
        if stored.split is None and self.holdout is None:
            self._check_only_split(split)
            return _named(embeddings, split)
        image_parts, text_parts = self._parts
        names = np.unique(image_parts)
        if split not in names:
            counts = ", ".join(f"{name} ({int((image_parts == name).sum())} images)" for name in names)
            hint = "" if len(names) > 1 else "; fit_split=test gives the transductive numbers" * (names[0] == "test")
            raise MissingSplitError(f"{self.path} has no split {split!r}; it has {counts}{hint}")
        images = np.flatnonzero(image_parts == split)
        texts = np.flatnonzero(_texts_of(embeddings.pairs, image_parts == split, text_parts == split))
        if len(texts) == 0:
            raise ValueError(f"the split {split!r} of {self.path} has {len(images)} images and no texts")
        return _named(_select(embeddings, images, texts), split)

    @property
    def has_splits(self) -> bool:
        """Whether the file says, or ``holdout`` draws, which rows are to be fitted on."""
        return self._stored.split is not None or self.holdout is not None

    def _check_only_split(self, split: str) -> None:
        if split != ONLY_SPLIT:
            raise MissingSplitError(
                f"{self.path} has one split, test, so nothing can be fitted on {split!r}; "
                "fit_split=test gives the transductive numbers, data.holdout=.5 keeps half of the images to fit on"
            )

    @functools.cached_property
    def _stored(self) -> StoredEmbeddings:
        return read_embeddings(
            Path(self.path),
            text_path=None if self.text_path is None else Path(self.text_path),
            index_path=None if self.index_path is None else Path(self.index_path),
        )

    @functools.cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Split name of each image, and of each text that has no image ("" for the others)."""
        stored, pairs = self._stored, self._stored.embeddings.pairs.numpy()
        has_image = np.zeros(stored.embeddings.num_texts, dtype=bool)
        has_image[pairs[:, 1]] = True
        if self.holdout is not None:
            if stored.split is not None and len(np.unique(stored.split)) > 1:
                raise ValueError(f"{self.path} has splits of its own; leave out data.holdout")
            return self._draw(stored.embeddings, has_image)
        assert stored.split is not None
        if stored.text_split is None:
            if not has_image.all() and len(np.unique(stored.split)) > 1:
                raise ValueError(
                    f"{int((~has_image).sum())} texts of {self.path} belong to no image: "
                    "beside `split`, a `text_split` must say which split they are in"
                )
            return stored.split, np.where(has_image, "", stored.split[0])
        disagree = stored.split[pairs[:, 0]] != stored.text_split[pairs[:, 1]]
        if disagree.any():
            image, text = pairs[disagree.argmax()]
            raise ValueError(
                f"{self.path}: text {text} is in split '{stored.text_split[text]}', "
                f"but its image {image} in '{stored.split[image]}'"
            )
        return stored.split, np.where(has_image, "", stored.text_split)

    def _draw(self, embeddings: EmbeddingSet, has_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Holds out whole clusters of images, and of the texts without image as large a share."""
        assert self.holdout is not None
        clusters = _clusters(embeddings)
        images = _draw_clusters(clusters, self.holdout, seed=self.seed)
        if not images.any() or images.all():
            raise ValueError(
                f"{self.path}: holdout={self.holdout} of {embeddings.num_images} images in "
                f"{len(np.unique(clusters))} sets that belong together leaves nothing to fit on or nothing to test"
            )
        texts = np.zeros(len(has_image), dtype=bool)
        texts[~has_image] = _draw_clusters(np.arange((~has_image).sum()), self.holdout, seed=self.seed + 1)
        names = np.array(["test", "train"])
        return names[images.astype(int)], np.where(has_image, "", names[texts.astype(int)])


def _draw_clusters(clusters: np.ndarray, share: float, *, seed: int) -> np.ndarray:
    """``(N,)`` whether a row is drawn: clusters in random order for as long as that comes nearer to ``share`` of N."""
    sizes = np.bincount(clusters)
    order = np.random.default_rng(seed).permutation(len(sizes))
    reached = sizes[order].cumsum()
    target = share * len(clusters)
    num_drawn = int((reached - sizes[order] / 2 < target).sum())
    drawn = np.zeros(len(sizes), dtype=bool)
    drawn[order[:num_drawn]] = True
    return drawn[clusters]


def _clusters(embeddings: EmbeddingSet) -> np.ndarray:
    """``(N,)`` number of the cluster of each image: those with a text or a group in common, directly or by others."""
    num_images, num_texts = embeddings.num_images, embeddings.num_texts
    ends = [embeddings.pairs.numpy() + np.array([0, num_images])]
    size = num_images + num_texts
    if embeddings.groups is not None:
        _, group = np.unique(embeddings.groups.numpy(), return_inverse=True)
        ends.append(np.stack([np.arange(num_images), group + size], axis=1))
        size += int(group.max()) + 1
    edges = np.concatenate(ends)
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (edges[:, 0], edges[:, 1])), shape=(size, size))
    _, label = connected_components(graph, directed=False)
    return np.asarray(np.unique(label[:num_images], return_inverse=True)[1])


def _texts_of(pairs: Tensor, images: np.ndarray, loose_texts: np.ndarray) -> np.ndarray:
    """``(M,)`` whether a text belongs to one of the images, or is one of the texts without image."""
    texts = loose_texts.copy()
    texts[pairs[:, 1].numpy()[images[pairs[:, 0].numpy()]]] = True
    return texts


def _select(embeddings: EmbeddingSet, images: np.ndarray, texts: np.ndarray) -> EmbeddingSet:
    """The set of these rows, ascending; a whole run of rows stays memory-mapped."""
    image_rows, text_rows = torch.from_numpy(images), torch.from_numpy(texts)

    def moved(pairs: Tensor) -> Tensor:
        kept = pairs[torch.isin(pairs[:, 0], image_rows) & torch.isin(pairs[:, 1], text_rows)]
        columns = (torch.searchsorted(rows, kept[:, i].contiguous()) for i, rows in enumerate((image_rows, text_rows)))
        return torch.stack(list(columns), dim=1)

    ids, captions = embeddings.image_ids, embeddings.captions
    return dataclasses.replace(
        embeddings,
        image_features=_take(embeddings.image_features, image_rows),
        text_features=_take(embeddings.text_features, text_rows),
        pairs=moved(embeddings.pairs),
        relevant_pairs=None if embeddings.relevant_pairs is None else moved(embeddings.relevant_pairs),
        labels={name: label[image_rows] for name, label in embeddings.labels.items()},
        groups=None if embeddings.groups is None else embeddings.groups[image_rows],
        image_ids=None if ids is None else tuple(ids[i] for i in images.tolist()),
        captions=None if captions is None else tuple(captions[i] for i in texts.tolist()),
    )


def _take(features: Tensor, rows: Tensor) -> Tensor:
    first, last = int(rows[0]), int(rows[-1])
    return features[first : last + 1] if last - first + 1 == len(rows) else features[rows]


def _named(embeddings: EmbeddingSet, split: str) -> EmbeddingSet:
    return dataclasses.replace(embeddings, provenance={**embeddings.provenance, "split": split})
