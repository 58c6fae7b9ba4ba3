"""The modality gap of a set, by every measure of the two papers."""

# N images, M texts, D width, R resamples.
from __future__ import annotations

import math

import torch
from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.evaluation.resampling import Numbers, describe_units, redraws_of
from i0t.evaluation.results import Calibration, Context, Scores
from i0t.metrics import functional as metrics

# Above this ratio of the measured to the chance distance of two means, calibration and measured data differ.
SHIFT_WARNING = 1.5


class Gap:
    """Centroid distance, RMG, linear separability, alignment and uniformity.

    RMG comes in both conventions of *Two Effects* (arXiv 2404.07983): ``rmg`` leaves out the cosine of a row with
    itself, as the paper's analysis of pretrained models does, ``rmg_with_diagonal`` has it, as its CC12M training code.

    Without pairs only what needs none is measured: centroid distance and uniformity. For a reducer that was fitted on
    other data, also what centring would leave behind by chance, and by how much those data differ from the measured.

    Args:
        separability_seed: Of the split into training and held-out images of linear separability.
        num_resamples: Of the bootstrap over images (or over groups of images, where the set names them).
    """

    def __init__(self, *, separability_seed: int, num_resamples: int) -> None:
        self.separability_seed = separability_seed
        self.num_resamples = num_resamples

    def __call__(self, embeddings: EmbeddingSet, context: Context) -> Scores:
        """Measures unit features; names are those of ``metrics.functional`` or the papers' short ones."""
        redraws = redraws_of(embeddings, self.num_resamples)
        numbers = Numbers()
        image, text = embeddings.image_features, embeddings.text_features
        distances = metrics.centroid_distances(image, text, redraws.with_original())
        numbers.add("centroid_distance", distances[0], _around(distances[1:], float(distances[0])))
        self._uniformity(numbers, embeddings, redraws)
        if len(embeddings.pairs) > 0:
            self._paired(numbers, embeddings, redraws)
        notes: list[str] = []
        if context.calibration is not None and context.protocol == "inductive":
            if len(embeddings.pairs) > 0:
                _expected(numbers, context.calibration, embeddings, redraws)
            notes = _shifts(numbers, context.calibration, context.before, redraws)
        return Scores(
            values=numbers.values,
            replicates=numbers.replicates,
            protocol=self._protocol(embeddings),
            notes=tuple(notes),
        )

    def _uniformity(self, numbers: Numbers, embeddings: EmbeddingSet, redraws: metrics.Redraws) -> None:
        if embeddings.num_images > 1:
            rows = metrics.uniformity_contributions(embeddings.image_features)
            numbers.add_mean("image_uniformity", rows, redraws.image_units, redraws.image_counts)
        if embeddings.num_texts > 1:
            rows = metrics.uniformity_contributions(embeddings.text_features)
            counts = redraws.text_counts if redraws.texts_are_drawn else redraws.text_counts[:0]
            numbers.add_mean("text_uniformity", rows, redraws.text_units, counts)

    def _paired(self, numbers: Numbers, embeddings: EmbeddingSet, redraws: metrics.Redraws) -> None:
        """Adds what needs pairs."""
        image, text, pairs = embeddings.image_features, embeddings.text_features, embeddings.pairs
        pairing = metrics.make_pairing(image, text, pairs=pairs)
        found = metrics.gap_measures(image, text, pairing, redraws.with_original())
        squared = found.pop("unbiased_centroid_distance")
        _add(numbers, "centroid_distance_unbiased_squared", squared)
        _add(numbers, "centroid_distance_unbiased", squared.sign() * squared.abs().sqrt())
        for name, values in found.items():
            _add(numbers, name, values)
        if len(metrics.one_to_one(pairing, len(image), len(text))[0]) > 1:
            for name, method in (("linear_separability", "logreg"), ("linear_separability_ols", "ols")):
                rows, scores = metrics.separability_scores(
                    image, text, pairs=pairs, method=method, seed=self.separability_seed
                )
                numbers.add_mean(name, scores, redraws.image_units[rows], redraws.image_counts)

    def _protocol(self, embeddings: EmbeddingSet) -> str:
        measured = f"{embeddings.num_images:,} images, {embeddings.num_texts:,} texts"
        if len(embeddings.pairs) == 0:
            return f"{measured}, unpaired: no number that needs pairs; {describe_units(embeddings)}"
        return (
            f"{measured}; linear separability on held-out images with one text each, split by image with seed "
            f"{self.separability_seed} (20 % held out for logistic regression, 30 % for least squares); "
            f"{describe_units(embeddings)}"
        )


def _add(numbers: Numbers, name: str, values: Tensor) -> None:
    """A number of the set (first entry) and of its resamples; nothing where the set is too small for it."""
    if not math.isnan(float(values[0])):
        numbers.add(name, values[0], values[1:])


def _around(replicates: Tensor, value: float) -> Tensor:
    return metrics.without_resampling_bias(replicates, value) if len(replicates) > 0 else replicates


def _expected(numbers: Numbers, calibration: Calibration, embeddings: EmbeddingSet, redraws: metrics.Redraws) -> None:
    """What centring leaves by chance: of the centroid distance, and of the gap itself (its unbiased form)."""
    units, counts = redraws.image_units, redraws.with_original().image_counts
    if counts.shape[1] < 2:
        return
    text_units = redraws.text_units if redraws.texts_follow else None
    noise = metrics.centroid_noise(embeddings.image_features, embeddings.text_features, units, text_units)
    variance = metrics.weighted_sums(counts, noise.cpu())
    of_fit = variance * embeddings.num_images / calibration.num_images
    _add(numbers, "centroid_distance_expected", (variance + of_fit).sqrt())
    _add(numbers, "centroid_distance_unbiased_expected", of_fit.sqrt())


def _shifts(numbers: Numbers, calibration: Calibration, before: EmbeddingSet, redraws: metrics.Redraws) -> list[str]:
    """Adds the shift of either modality's mean, in units of its chance value; returns warnings."""
    warnings = []
    modalities = (
        ("image", before.image_features, calibration.image_mean, calibration.num_images),
        ("text", before.text_features, calibration.text_mean, calibration.num_texts),
    )
    for name, features, mean, num_fit in modalities:
        drawn = name == "image" or redraws.texts_are_drawn
        counts = redraws.image_counts if name == "image" else redraws.text_counts
        units = redraws.image_units if name == "image" else redraws.text_units
        units = units if drawn else torch.arange(len(features))
        if len(units.unique()) < 2:
            continue
        distance, chance = metrics.calibration_shift(features, mean, num_fit=num_fit, units=units)
        replicates = None
        if drawn and len(counts) > 0:
            offsets = metrics.resampled_mean_distances(features, mean, units, counts)
            replicates = _around(offsets, float(distance)) / chance
        ratio = float(distance / chance)
        numbers.add(f"{name}_shift", ratio, replicates)
        if ratio > SHIFT_WARNING:
            warnings.append(
                f"the {name}s it was fitted on differ from those measured: their means are {ratio:.1f} times as far "
                f"apart as chance allows (above {SHIFT_WARNING} is a shift), so part of the remaining gap is not chance"
            )
    return warnings
