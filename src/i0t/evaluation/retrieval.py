"""Image-to-text and text-to-image retrieval of a set, and what stays near what inside a modality."""

# N images, M texts, Q queries of one direction, R resamples.
from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.resampling import Numbers, describe_units, redraws_of
from i0t.evaluation.results import Context, Scores
from i0t.evaluation.within_modality import add_within_modality
from i0t.metrics import functional as metrics


class Retrieval:
    """Recall at k and median rank, both ways, ties counted against the query.

    A hit is any item of ``relevant_pairs`` (on MAD: any caption that is true of the image), or of ``pairs``. Where
    images have several captions, the variant ``1_caption`` has the same numbers with the first caption of every image
    alone: the I0T paper's protocol. Beside them, inside a modality: whether captions of one image find each other,
    whether images of one label do, and how many nearest neighbours the reducer leaves as they were.

    Args:
        k: Cut-offs of the recall.
        num_neighbors: Neighbours of a row that the reducer may keep or lose.
        num_within_queries: Rows of a modality, drawn at random, whose neighbours inside it are looked at.
        num_resamples: Of the bootstrap over images (or over groups of images, where the set names them).
    """

    uses_relevant_pairs: ClassVar[bool] = True

    def __init__(self, *, k: Sequence[int], num_neighbors: int, num_within_queries: int, num_resamples: int) -> None:
        self.k = tuple(k)
        self.num_neighbors = num_neighbors
        self.num_within_queries = num_within_queries
        self.num_resamples = num_resamples

    def __call__(self, embeddings: EmbeddingSet, context: Context) -> Scores:
        """Measures unit features; no number for a set without pairs."""
        redraws = redraws_of(embeddings, self.num_resamples)
        numbers = Numbers()
        pairs = embeddings.pairs if embeddings.relevant_pairs is None else embeddings.relevant_pairs
        protocol = "no pairs, so nothing between the modalities"
        if len(pairs) > 0:
            self._between(numbers, embeddings.image_features, embeddings.text_features, pairs, redraws)
            protocol = _protocol(embeddings, self._texts_per_image(embeddings), embeddings.num_texts)
        within = add_within_modality(
            numbers,
            embeddings,
            context.before,
            redraws,
            num_neighbors=self.num_neighbors,
            num_queries=self.num_within_queries,
        )
        return Scores(
            values=numbers.values,
            replicates=numbers.replicates,
            protocol=f"{protocol}; {within}",
            variants=self._one_caption(embeddings, redraws),
        )

    def _one_caption(self, embeddings: EmbeddingSet, redraws: metrics.Redraws) -> dict[str, Scores]:
        """The first caption of every image, where images have several."""
        if embeddings.relevant_pairs is not None or not embeddings.has_one_image_per_text:
            return {}
        index = embeddings.text_image_index
        first = torch.full((embeddings.num_images,), embeddings.num_texts)
        first.scatter_reduce_(0, index, torch.arange(embeddings.num_texts), reduce="amin")
        image_rows = (first < embeddings.num_texts).nonzero().squeeze(1)
        text_rows = first[image_rows]
        if len(text_rows) == embeddings.num_texts:
            return {}
        numbers = Numbers()
        pairs = torch.stack([image_rows, torch.arange(len(text_rows))], dim=1)
        fewer = redraws._replace(text_units=redraws.text_units[text_rows])
        self._between(numbers, embeddings.image_features, embeddings.text_features[text_rows], pairs, fewer)
        protocol = _protocol(embeddings, "the first caption of each image", len(text_rows))
        return {"1_caption": Scores(values=numbers.values, replicates=numbers.replicates, protocol=protocol)}

    def _between(self, numbers: Numbers, image: Tensor, text: Tensor, pairs: Tensor, redraws: metrics.Redraws) -> None:
        """Adds recall and median rank of both directions."""
        directions = metrics.retrieval_ranks(image, text, pairs=pairs)
        for name, value in metrics.recall_of_ranks(*directions, k=self.k).items():
            numbers.add(name, value)
        # Texts that many images share stay fixed elsewhere; as queries they are what is sampled.
        text_units, text_counts = redraws.text_units, redraws.text_counts
        if not redraws.texts_are_drawn:
            own = metrics.redraw_set(
                len(text), 0, image_of_text=None, has_pairs=True, num_resamples=self.num_resamples, seed=1
            )
            text_units, text_counts = own.image_units, own.image_counts
        units = (redraws.image_units, redraws.image_counts), (text_units, text_counts)
        for direction, (rank, _), (unit, counts) in zip(("i2t", "t2i"), directions, units, strict=True):
            paired = (rank > 0).cpu()
            if len(counts) > 0 and len(unit[paired].unique()) > 1:
                self._resample(numbers, direction, rank.cpu()[paired], unit[paired], counts)

    def _resample(self, numbers: Numbers, direction: str, ranks: Tensor, units: Tensor, counts: Tensor) -> None:
        """Adds the replicates of one direction."""
        hits = torch.stack([ranks <= k for k in self.k], dim=1).double()
        for k, replicates in zip(self.k, metrics.resampled_means(hits, units, counts).unbind(dim=1), strict=True):
            numbers.add(f"{direction}_r{k}", numbers.values[f"{direction}_r{k}"], replicates)
        median = f"{direction}_medr"
        numbers.add(median, numbers.values[median], metrics.resampled_medians(ranks, units, counts))

    def _texts_per_image(self, embeddings: EmbeddingSet) -> str:
        if embeddings.relevant_pairs is not None:
            return "every text that is true of an image counts as a hit"
        if not embeddings.has_one_image_per_text:
            return "texts shared by images"
        sizes = torch.bincount(embeddings.text_image_index, minlength=embeddings.num_images)
        low, high = int(sizes.min()), int(sizes.max())
        if high == 1:
            return "1 caption per image"
        return f"{high} captions per image" if low == high else f"{low} to {high} captions per image"


def _protocol(embeddings: EmbeddingSet, texts: str, num_texts: int) -> str:
    return (
        f"{texts}: {embeddings.num_images:,} images x {num_texts:,} texts, ties count against the query; "
        f"{describe_units(embeddings)}"
    )
