"""The entropy of the logits: how sharply a model decides between the texts of a set, and between its images."""

# N images, M texts, R resamples.
from __future__ import annotations

import math

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.resampling import Numbers, describe_units, redraws_of
from i0t.evaluation.results import Context, Scores
from i0t.metrics import functional as metrics

_ASSUMED = (
    "entropy: these embeddings came without a logit scale, {scale:g} (CLIP's) is assumed: put an array logit_scale "
    "into the file, or set evaluation.entropy.scale"
)


class Entropy:
    """Mean entropy of the matching distribution of every image over all texts, and of every text over all images.

    In nats, over the whole set, as *Two Effects* measures it from image to text; beside it the largest entropy there
    can be, the logarithm of the number of items. No pairs are needed.

    Args:
        scale: Factor of the logits, not its logarithm; ``None``: that of the set, which is the model's own.
        num_resamples: Of the bootstrap over images (or over groups of images, where the set names them).

    Raises:
        ValueError: If the scale is not a positive finite number.
    """

    def __init__(self, *, scale: float | None, num_resamples: int) -> None:
        if scale is not None and not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"evaluation.entropy.scale must be a positive finite factor, or null, got {scale}")
        self.scale = scale
        self.num_resamples = num_resamples

    def __call__(self, embeddings: EmbeddingSet, context: Context) -> Scores:
        """Measures unit features."""
        redraws = redraws_of(embeddings, self.num_resamples)
        scale = embeddings.logit_scale if self.scale is None else self.scale
        image, text = embeddings.image_features, embeddings.text_features
        text_counts = redraws.text_counts if redraws.texts_are_drawn else redraws.text_counts[:0]
        numbers = Numbers()
        numbers.add("logit_scale", scale)
        for direction, queries, items, units, counts in (
            ("image_to_text", image, text, redraws.image_units, redraws.image_counts),
            ("text_to_image", text, image, redraws.text_units, text_counts),
        ):
            numbers.add_mean(direction, metrics.logit_entropies(queries, items, scale), units, counts)
            numbers.add(f"{direction}_maximum", math.log(len(items)))
        assumed = self.scale is None and not embeddings.provenance.get("logit_scale_known", True)
        whose = "as given" if self.scale is not None else "assumed" if assumed else "the set's own"
        notes = (_ASSUMED.format(scale=scale),) if assumed else ()
        protocol = (
            f"nats, logit scale {scale:.4g} ({whose}), {embeddings.num_images:,} images and {embeddings.num_texts:,} "
            f"texts; {describe_units(embeddings)}, what they choose from as it is"
        )
        return Scores(values=numbers.values, replicates=numbers.replicates, protocol=protocol, notes=notes)
