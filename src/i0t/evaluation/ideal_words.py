"""Ideal words: attributes and objects classified by means of texts, as they are and moved across the modality gap."""

# N images, M texts, A attributes, O objects, P compositions, D width.
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from i0t.analysis.ideal_words import (
    IdealWords,
    Words,
    agreement,
    class_means,
    compositions_of_texts,
    ideal_words,
    nearest_compositions,
    nearest_words,
    num_values,
)
from i0t.analysis.ideal_words_result import KINDS, IdealWordsResult, WordsResult
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.resampling import Numbers, describe_units, redraws_of
from i0t.evaluation.results import Context, Scores
from i0t.metrics import functional as metrics

DETAIL = "ideal_words"
_TITLES = {
    "real": "real words",
    "ideal": "ideal words",
    "ideal_minus_u0": "ideal words - u0",
    "ideal_plus_gap": "ideal words + gap",
    "ideal_minus_u0_plus_gap": "ideal words - u0 + gap",
}


class _Labels(NamedTuple):
    """Names of the two labels and how many values each has."""

    attribute: str
    object: str
    num_attributes: int
    num_objects: int


class _Study(NamedTuple):
    """All kinds of words, and the ideal images that each is compared with."""

    words: dict[str, Words]
    images: dict[str, Words]


class IdealWordsStudy:
    """Accuracy of attribute, object and composition from real words and from ideal ones (Two Effects, Table 5).

    Every kind of words gives ``<kind>/attribute``, ``<kind>/object`` and ``<kind>/pair`` (accuracy), ``<kind>/cosine``
    (mean cosine of a class's word with its ideal image; of real words: of the words with the measured images) and
    ``<kind>/distance`` (of the mean word from the mean ideal image). The variant ``by_cosine`` has the accuracies when
    words are compared by cosine. Kinds:

    - ``real``: the prompts of attributes and objects, and the texts of compositions;
    - ``ideal``: u_a, u_o and u_a + u_o - u_0, means of the texts of compositions;
    - ``ideal_minus_u0``: less the mean of all texts, on both sides;
    - ``ideal_plus_gap``: plus (mean image of the reference split - mean real word), which closes the gap;
    - ``ideal_minus_u0_plus_gap``: both.

    Ideal images are the mean images of the classes in the reference split. By dot product the last four accuracies are
    one: what is added to all words alike adds the same to all products of an image. The published code prints them all,
    has no compositions, and takes the cosine of an image and its real object with the row of an attribute; here it is
    that with the object.

    Args:
        attribute_label: ``None``: the one label that is not the object.
        object_label: ``None``: the data set's own (``provenance["main_object"]``).
        reference_split: The split of the ideal images; ``None``: only accuracies without them.
        num_resamples: Of the bootstrap over images (or over groups of images, where the set names them).
    """

    def __init__(
        self,
        *,
        attribute_label: str | None,
        object_label: str | None,
        reference_split: str | None,
        num_resamples: int,
    ) -> None:
        self.attribute_label = attribute_label
        self.object_label = object_label
        self.reference_split = reference_split
        self.num_resamples = num_resamples

    def __call__(self, embeddings: EmbeddingSet, context: Context) -> Scores:
        """Measures unit features; no number for a set without two labels or without pairs.

        Raises:
            ValueError: If a named label does not exist, none is named of several, or a text has two compositions.
        """
        labels = self._labels(embeddings)
        if labels is None or len(embeddings.pairs) == 0:
            return Scores()
        code = compositions_of_texts(embeddings, labels.attribute, labels.object, labels.num_objects)
        known = code >= 0
        ideal = ideal_words(
            embeddings.text_features[known],
            code[known] // labels.num_objects,
            code[known] % labels.num_objects,
            num_attributes=labels.num_attributes,
            num_objects=labels.num_objects,
        )
        notes = []
        share = len(ideal.compositions) / (labels.num_attributes * labels.num_objects)
        if share < 1:
            notes.append(
                f"ideal words are means over the {share:.0%} of all compositions that have texts here; the published "
                "study has texts of all (data.compositions=all)"
            )
        if context.reference is None and self.reference_split is not None:
            notes.append(
                f"ideal words: these data have no split {self.reference_split!r} for ideal images, so that there is no "
                "cosine with them and nothing is moved across the gap"
            )
        study = _study(embeddings, context.reference, ideal, labels)
        return self._scores(embeddings, ideal, study, labels, tuple(notes))

    def _labels(self, embeddings: EmbeddingSet) -> _Labels | None:
        """The two labels; ``None`` where the set has none to choose."""
        object_ = self.object_label or embeddings.provenance.get("main_object")
        others = [name for name in embeddings.labels if name != object_]
        if object_ is None or not others:
            return None
        attribute = self.attribute_label or others[0]
        for option, name in (("object_label", object_), ("attribute_label", attribute)):
            if name not in embeddings.labels:
                raise ValueError(
                    f"evaluation.ideal_words.{option}={name} is not a label of this set; "
                    f"it has {', '.join(embeddings.labels)}"
                )
        if attribute == object_:
            raise ValueError(f"evaluation.ideal_words: {object_!r} cannot be attribute and object both")
        if self.attribute_label is None and len(others) > 1:
            raise ValueError(
                f"this set has several labels that could be the attribute of {object_!r}: choose one of "
                f"{', '.join(others)} with evaluation.ideal_words.attribute_label=…"
            )
        return _Labels(attribute, object_, num_values(embeddings, attribute), num_values(embeddings, object_))

    def _scores(
        self, embeddings: EmbeddingSet, ideal: IdealWords, study: _Study, labels: _Labels, notes: tuple[str, ...]
    ) -> Scores:
        redraws = redraws_of(embeddings, self.num_resamples)
        by_dot, by_cosine = Numbers(), Numbers()
        of_ideal = _hits(embeddings, study.words["ideal"], ideal, labels, normalized=False)
        for name, words in study.words.items():
            is_real = name == "real"
            # By dot product, words that are all moved alike are chosen as where they were.
            hits = _real_hits(embeddings, ideal, labels) if is_real else of_ideal
            cosine_hits = hits if is_real else _hits(embeddings, words, ideal, labels, normalized=True)
            for numbers, right in ((by_dot, hits), (by_cosine, cosine_hits)):
                for kind, values in right.items():
                    numbers.add_mean(f"{name}/{kind}", values, redraws.image_units, redraws.image_counts)
            if is_real and {"attribute", "object"} <= set(hits):
                own = _cosines_with_own(embeddings, words, labels)
                by_dot.add_mean("real/cosine", own, redraws.image_units, redraws.image_counts)
            if name in study.images:
                cosine, distance = agreement(study.images[name], words)
                by_dot.add(f"{name}/distance", distance)
                if not is_real:
                    by_dot.add(f"{name}/cosine", cosine)
        result = IdealWordsResult(
            rows={name: _result(name, by_dot.values, by_cosine.values) for name in study.words},
            word_norms=_norms(ideal.words),
            image_norms=_norms(study.images.get("ideal")),
        )
        protocol = self._protocol(embeddings, ideal, labels)
        variant = Scores(
            values=by_cosine.values,
            replicates=by_cosine.replicates,
            protocol=f"{protocol}; words compared by cosine",
        )
        return Scores(
            values=by_dot.values,
            replicates=by_dot.replicates,
            protocol=f"{protocol}; words of any length, compared by dot product",
            notes=notes,
            variants={"by_cosine": variant},
            details={DETAIL: result},
        )

    def _protocol(self, embeddings: EmbeddingSet, ideal: IdealWords, labels: _Labels) -> str:
        reference = f"ideal images of the {self.reference_split} split, without intervals; "
        return (
            f"attribute: {labels.attribute} ({labels.num_attributes}), object: {labels.object} "
            f"({labels.num_objects}), {len(ideal.compositions):,} compositions with texts; "
            f"{reference if self.reference_split is not None else ''}{describe_units(embeddings)}"
        )


def _study(embeddings: EmbeddingSet, reference: EmbeddingSet | None, ideal: IdealWords, labels: _Labels) -> _Study:
    """All kinds of words that can be made, in the order of the published study."""
    real = Words(
        _prompt_words(embeddings, labels.attribute, labels.num_attributes),
        _prompt_words(embeddings, labels.object, labels.num_objects),
        ideal.words.origin,
    )
    centered = ideal.words.moved(-ideal.words.origin)
    words = {"real": real, "ideal": ideal.words, "ideal_minus_u0": centered}
    if reference is None:
        return _Study(words, {})
    images = reference.image_features
    mean_image = images.double().mean(dim=0)
    of = _labels_of_reference(reference, labels)
    ideal_images = Words(
        class_means(images, of[labels.attribute], labels.num_attributes),
        class_means(images, of[labels.object], labels.num_objects),
        mean_image,
    )
    prompts = real.classes()
    prompts = prompts[~prompts.isnan().any(dim=1)]
    gap = mean_image - (prompts if len(prompts) > 0 else embeddings.text_features.double()).mean(dim=0)
    words |= {"ideal_plus_gap": ideal.words.moved(gap), "ideal_minus_u0_plus_gap": centered.moved(gap)}
    moved_images = ideal_images.moved(-mean_image)
    compared = {name: moved_images if "minus_u0" in name else ideal_images for name in words}
    if len(prompts) == 0:
        del compared["real"]
    return _Study(words, compared)


def _labels_of_reference(reference: EmbeddingSet, labels: _Labels) -> dict[str, Tensor]:
    """Attribute and object of every image of the reference split.

    Raises:
        ValueError: If it lacks a label, or has values that the measured split does not know.
    """
    found = {}
    for name, size in ((labels.attribute, labels.num_attributes), (labels.object, labels.num_objects)):
        if name not in reference.labels:
            raise ValueError(f"evaluation.ideal_words: the reference split has no label {name!r}")
        if int(reference.labels[name].max()) >= size:
            raise ValueError(
                f"evaluation.ideal_words: {name!r} has {int(reference.labels[name].max()) + 1} values in the reference "
                f"split and {size} in the measured one; name all of them in class_names"
            )
        found[name] = reference.labels[name]
    return found


def _prompt_words(embeddings: EmbeddingSet, label: str, size: int) -> Tensor:
    """``(V, D)`` float64 unit rows: the mean of the unit prompts of every value; NaN without prompts."""
    table = embeddings.prompts.get(label)
    if table is None:
        return torch.full((size, embeddings.dim), torch.nan, dtype=torch.float64)
    prompts = F.normalize(table.features.double(), dim=2).masked_fill(~table.mask[..., None], 0)
    return F.normalize(prompts.sum(dim=1), dim=1)


def _real_hits(embeddings: EmbeddingSet, ideal: IdealWords, labels: _Labels) -> dict[str, Tensor]:
    """Whether each image is classified right by prompts, as in zero-shot classification, and by compositions' texts."""
    hits = {}
    for kind, label in (("attribute", labels.attribute), ("object", labels.object)):
        table = embeddings.prompts.get(label)
        if table is not None:
            ranks = metrics.zero_shot_ranks(
                embeddings.image_features,
                table.features,
                embeddings.labels[label],
                table.mask,
                aggregate=table.aggregate,
            )
            hits[kind] = (ranks == 1).double()
    chosen = ideal.compositions[nearest_words(embeddings.image_features, ideal.texts, normalized=True)]
    return {**hits, "pair": (chosen == _truth(embeddings, labels)).all(dim=1).double()}


def _hits(
    embeddings: EmbeddingSet, words: Words, ideal: IdealWords, labels: _Labels, *, normalized: bool
) -> dict[str, Tensor]:
    """Whether each image is classified right; an image whose composition has no text cannot be, as a pair."""
    truth, image = _truth(embeddings, labels), embeddings.image_features
    pair = ideal.compositions[nearest_compositions(image, words, ideal.compositions, normalized=normalized)]
    right = (
        nearest_words(image, words.attribute, normalized=normalized) == truth[:, 0],
        nearest_words(image, words.object, normalized=normalized) == truth[:, 1],
        (pair == truth).all(dim=1),
    )
    return {kind: hits.double() for kind, hits in zip(KINDS, right, strict=True)}


def _truth(embeddings: EmbeddingSet, labels: _Labels) -> Tensor:
    """``(N, 2)``: attribute and object of every image."""
    return torch.stack([embeddings.labels[labels.attribute], embeddings.labels[labels.object]], dim=1)


def _cosines_with_own(embeddings: EmbeddingSet, words: Words, labels: _Labels) -> Tensor:
    """``(N,)``: mean cosine of every image with the real words of its attribute and of its object."""
    attribute, object_ = _truth(embeddings, labels).unbind(dim=1)
    own = (words.attribute.float()[attribute] + words.object.float()[object_]) / 2
    return (embeddings.image_features * own.to(embeddings.image_features)).sum(dim=1)


def _norms(words: Words | None) -> dict[str, list[float]]:
    if words is None:
        return {}
    return {kind: getattr(words, kind).norm(dim=1).tolist() for kind in KINDS[:2]}


def _result(name: str, by_dot: dict[str, float], by_cosine: dict[str, float]) -> WordsResult:
    return WordsResult(
        title=_TITLES[name],
        accuracies={kind: by_dot[f"{name}/{kind}"] for kind in KINDS if f"{name}/{kind}" in by_dot},
        cosine_accuracies={kind: by_cosine[f"{name}/{kind}"] for kind in KINDS if f"{name}/{kind}" in by_cosine},
        cosine=by_dot.get(f"{name}/cosine"),
        distance=by_dot.get(f"{name}/distance"),
    )
