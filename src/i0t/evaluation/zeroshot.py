"""Zero-shot classification of every label that has prompts."""

# N images, C classes, R resamples.
from __future__ import annotations

from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.resampling import Numbers, describe_units, redraws_of
from i0t.evaluation.results import Context, Scores
from i0t.metrics import functional as metrics

TOP_K = 5
_POOLINGS = {
    "mean": "each prompt through the reducer, then the normalised mean of the unit prompts of a class",
    "max": "each prompt through the reducer, the best prompt of a class stands for it",
}
_POOLED_FIRST = "the mean of the un-normalised prompts of a class, then the reducer (I0T's CIFAR-100 script)"


class ZeroShot:
    """Accuracy, balanced accuracy and, for more than 5 classes, top-5 accuracy per label.

    Where the prompts of a class are averaged, the variant ``pooled_first`` has the same numbers with the average taken
    before normalisation and before the reducer. The form of the prompts stands in ``EmbeddingSet.prompts``.

    Args:
        num_resamples: Of the bootstrap over images (or over groups of images, where the set names them).
    """

    def __init__(self, *, num_resamples: int) -> None:
        self.num_resamples = num_resamples

    def __call__(self, embeddings: EmbeddingSet, context: Context) -> Scores:
        """Measures unit features against unit prompts; no number for a set without prompts."""
        if not embeddings.prompts:
            return Scores()
        redraws = redraws_of(embeddings, self.num_resamples)
        numbers, pooled = Numbers(), Numbers()
        image = embeddings.image_features
        for name, table in embeddings.prompts.items():
            labels = embeddings.labels[name]
            ranks = metrics.zero_shot_ranks(image, table.features, labels, table.mask, aggregate=table.aggregate)
            _add(numbers, name, ranks, labels, len(table.class_names), redraws)
            if name in context.pooled_prompts:
                ranks = metrics.zero_shot_ranks(image, context.pooled_prompts[name][:, None], labels)
                _add(pooled, name, ranks, labels, len(table.class_names), redraws)
        aggregates = dict.fromkeys(table.aggregate for table in embeddings.prompts.values())
        variant = Scores(
            values=pooled.values,
            replicates=pooled.replicates,
            protocol=f"{_POOLED_FIRST}; {describe_units(embeddings)}",
        )
        return Scores(
            values=numbers.values,
            replicates=numbers.replicates,
            protocol="; ".join([*(_POOLINGS[aggregate] for aggregate in aggregates), describe_units(embeddings)]),
            variants={"pooled_first": variant} if pooled.values else {},
        )


def _add(
    numbers: Numbers, name: str, ranks: Tensor, labels: Tensor, num_classes: int, redraws: metrics.Redraws
) -> None:
    """Adds the accuracies of one label from the rank of the true class of every image."""
    units, counts = redraws.image_units, redraws.image_counts
    hits = (ranks == 1).double().cpu()
    numbers.add_mean(name, hits, units, counts)
    labels = labels.cpu()
    balanced = metrics.balanced_mean(hits, labels)
    replicates = metrics.resampled_balanced_means(hits, labels, units, counts) if len(counts) > 0 else None
    numbers.add(f"balanced/{name}", balanced, replicates)
    if num_classes > TOP_K:
        numbers.add_mean(f"top{TOP_K}/{name}", (ranks <= TOP_K), units, counts)
