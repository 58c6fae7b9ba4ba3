"""How gap, object bias and performance go together over models (Two Effects, arXiv 2404.07983, Sections 3 and 4)."""

# L2M is the centroid distance, RMG the relative modality gap, MOAD the object bias: the paper's names.
from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from i0t.report.holm import holm
from i0t.report.model_points import StudiedModel, data_sets
from i0t.report.model_statistics import Tau, partial_tau_of, tau_of

GAP, BIAS, OBJECT, SCALE, DIMENSIONS = "gap", "object bias", "object and attribute", "scale", "dimensions"
ALL, BY_SCALE, BY_DATA = "all models", "by number of pairs", "by training data"
MEDIUM = 1.4e8  # pairs: up to this many, the paper's code calls training data medium-sized
MEDIUM_NAME, LARGE_NAME = "up to 140 M pairs", "more than 140 M pairs"

OBJECT_ACCURACY, ATTRIBUTE_ACCURACY = "zeroshot/object", "zeroshot/attribute"
CLASS_ACCURACY = "zeroshot/class"
RECALLS = ("retrieval/i2t_r1", "retrieval/t2i_r1")
GAPS = ("gap/centroid_distance", "gap/rmg")
BIASES = ("object_bias/image", "object_bias/text")
CARRYING = ("dimensions/dims_50", "dimensions/dims_90")
NAMES: Mapping[str, str] = {
    "gap/centroid_distance": "L2M",
    "gap/rmg": "RMG",
    "retrieval/i2t_r1": "R@1 image to text",
    "retrieval/t2i_r1": "R@1 text to image",
    CLASS_ACCURACY: "accuracy",
    OBJECT_ACCURACY: "object accuracy",
    ATTRIBUTE_ACCURACY: "attribute accuracy",
    "object_bias/image": "MOAD of images",
    "object_bias/text": "MOAD of texts",
    "dimensions/dims_50": "dims with 50 % of the gap",
    "dimensions/dims_90": "dims with 90 % of the gap",
}


class Quantity(NamedTuple):
    """A number of every model.

    Attributes:
        label: For people: ``coco: RMG``.
        of: Its value; ``None`` where a model has none.
    """

    label: str
    of: Callable[[StudiedModel], float | None]


class Question(NamedTuple):
    """Two quantities whose ranks are compared, and the family that they are one test of."""

    family: str
    x: Quantity
    y: Quantity


@dataclass(frozen=True)
class Correlation:
    """The answer in one group of models.

    Attributes:
        family: What the question is about.
        kind: How models are grouped: all, by number of pairs, by training data.
        group: The group's name.
        x: Label of one quantity.
        y: Label of the other.
        tau: Kendall's tau-b.
        partial: The same given log number of pairs, log number of parameters and width; ``None`` where not asked.
        adjusted: Holm's p-value over the tests of this family and kind.
        adjusted_partial: The same of the partial taus.
    """

    family: str
    kind: str
    group: str
    x: str
    y: str
    tau: Tau
    partial: Tau | None
    adjusted: float | None = None
    adjusted_partial: float | None = None


class SignShare(NamedTuple):
    """In how many groups of equal training data two quantities go against each other.

    Attributes:
        x: Label of one.
        y: Label of the other.
        num_negative: Groups with a negative tau.
        num_groups: Groups with a tau.
    """

    x: str
    y: str
    num_negative: int
    num_groups: int


PAIRS = Quantity("log10 training pairs", lambda m: _log(m.training.num_pairs))
PARAMETERS = Quantity("log10 parameters", lambda m: _log(m.shape.num_parameters))
WIDTH = Quantity("embedding width", lambda m: m.shape.width)
COVARIATES = (PAIRS, PARAMETERS, WIDTH)


def measured(data: str, key: str) -> Quantity:
    """A number on a data set."""
    return Quantity(f"{data}: {NAMES.get(key, key)}", lambda model: model.number(data, key))


def questions(models: Sequence[StudiedModel]) -> list[Question]:
    """Everything that can be asked of what was measured."""
    data = data_sets(models)
    attributes = [name for name in data if _has(models, name, ATTRIBUTE_ACCURACY)]
    performances = [(name, key) for name in data if name not in attributes for key in _performance(models, name)]
    asked = [Question(GAP, measured(n, gap), measured(n, key)) for n, key in performances for gap in GAPS]
    for name in attributes:
        attribute = measured(name, ATTRIBUTE_ACCURACY)
        objects = [measured(name, OBJECT_ACCURACY), *(measured(*performance) for performance in performances)]
        asked += [Question(OBJECT, one, attribute) for one in objects]
        asked += [Question(BIAS, measured(name, bias), attribute) for bias in BIASES]
    asked += [Question(SCALE, size, measured(n, key)) for n, key in performances for size in COVARIATES]
    asked += [Question(DIMENSIONS, size, measured(n, key)) for n in data for key in CARRYING for size in COVARIATES]
    return [question for question in asked if all(any(q.of(m) is not None for m in models) for q in question[1:])]


def correlations(models: Sequence[StudiedModel], *, seed: int = 0) -> list[Correlation]:
    """The answers, over all models that count and within groups of them.

    Args:
        models: From :func:`i0t.report.model_points.studied_models`.
        seed: Of permutations and resamples.
    """
    counting = [model for model in models if model.left_out is None]
    found = []
    for question in questions(models):
        for kind, group, members in _groups(counting):
            if kind == BY_DATA and question.family != GAP:
                continue
            found.append(_answer(question, kind, group, members, seed))
    return _adjusted(found)


def sign_shares(found: Sequence[Correlation]) -> list[SignShare]:
    """For every question about the gap, the share of groups of equal training data with a negative tau.

    The paper finds 60 % for L2M and 70 % for RMG.
    """
    shares = []
    for x, y in dict.fromkeys((c.x, c.y) for c in found if c.family == GAP):
        taus = [c.tau.value for c in found if c.kind == BY_DATA and (c.x, c.y) == (x, y)]
        known = [tau for tau in taus if tau is not None]
        shares.append(SignShare(x, y, sum(tau < 0 for tau in known), len(known)))
    return shares


def _has(models: Sequence[StudiedModel], data: str, key: str) -> bool:
    return any(model.number(data, key) is not None for model in models)


def _performance(models: Sequence[StudiedModel], data: str) -> list[str]:
    """Accuracy where there are classes, else recall: classes are texts of many images, not their captions."""
    if _has(models, data, CLASS_ACCURACY):
        return [CLASS_ACCURACY]
    return [key for key in RECALLS if _has(models, data, key)]


def _groups(models: Sequence[StudiedModel]) -> Iterator[tuple[str, str, list[StudiedModel]]]:
    yield ALL, ALL, list(models)
    sized = [(model, model.training.num_pairs) for model in models]
    yield BY_SCALE, MEDIUM_NAME, [model for model, num in sized if num is not None and num <= MEDIUM]
    yield BY_SCALE, LARGE_NAME, [model for model, num in sized if num is not None and num > MEDIUM]
    names = sorted({model.training.name for model in models if model.training.num_pairs is not None})
    for name in names:
        yield BY_DATA, name, [model for model in models if model.training.name == name]


def _answer(question: Question, kind: str, group: str, models: Sequence[StudiedModel], seed: int) -> Correlation:
    x, y = _values(models, (question.x, question.y))
    partial = None
    if kind == ALL and question.family not in (SCALE, DIMENSIONS):
        one, other, *covariates = _values(models, (question.x, question.y, *COVARIATES))
        partial = partial_tau_of(one, other, covariates, seed=seed)
    return Correlation(
        question.family, kind, group, question.x.label, question.y.label, tau_of(x, y, seed=seed), partial
    )


def _values(models: Sequence[StudiedModel], quantities: Sequence[Quantity]) -> list[list[float]]:
    """The numbers of the models that have them all, a list per quantity."""
    lines = [[quantity.of(model) for quantity in quantities] for model in models]
    whole = [[value for value in line if value is not None and math.isfinite(value)] for line in lines]
    kept = [line for line in whole if len(line) == len(quantities)]
    return [[line[at] for line in kept] for at in range(len(quantities))]


def _adjusted(found: Sequence[Correlation]) -> list[Correlation]:
    result = list(found)
    for family, kind in dict.fromkeys((c.family, c.kind) for c in found):
        places = [at for at, c in enumerate(found) if (c.family, c.kind) == (family, kind)]
        plain = holm([found[at].tau.p_value for at in places])
        partials = [found[at].partial for at in places]
        partial = holm([None if one is None else one.p_value for one in partials])
        for at, p_value, p_partial in zip(places, plain, partial, strict=True):
            result[at] = replace(result[at], adjusted=p_value, adjusted_partial=p_partial)
    return result


def _log(value: float | None) -> float | None:
    return None if value is None or value <= 0 else math.log10(value)
