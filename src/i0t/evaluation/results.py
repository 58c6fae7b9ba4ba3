"""What evaluations get and return, and one row of a comparison: a reducer, what it was fitted on, every number it got.

Shapes: N images, M texts, D embedding width, C classes, R bootstrap resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.metrics import functional as metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The data a reducer was fitted on, as far as evaluations ask.

    Attributes:
        num_images: Images.
        num_texts: Texts.
        image_mean: ``(D,)`` mean of its unit image rows.
        text_mean: ``(D,)`` mean of its unit text rows.
    """

    num_images: int
    num_texts: int
    image_mean: Tensor
    text_mean: Tensor


@dataclass(frozen=True, kw_only=True)
class Context:
    """What an evaluation may need beside the reduced set.

    Attributes:
        before: The set before the reducer, its features as unit rows.
        protocol: ``"inductive"``, ``"transductive"`` or ``"none"``.
        calibration: What the reducer was fitted on; ``None`` if it holds no means of both modalities.
        pooled_prompts: Label name to ``(C, D)`` unit rows: un-normalised prompts averaged *before* the reducer, where
            that is another table than ``EmbeddingSet.prompts``.
        reference: The evaluation's ``reference_split`` after the same reducer; ``None`` for an evaluation that has
            none, or data that lack it.
    """

    before: EmbeddingSet
    protocol: str
    calibration: Calibration | None = None
    pooled_prompts: Mapping[str, Tensor] = field(default_factory=dict)
    reference: EmbeddingSet | None = None


class Detail(Protocol):
    """What an evaluation found beside its numbers.

    The engine writes each detail of all rows of a comparison to ``<name>.json``, ``.csv`` and ``.md``, draws them side
    by side into ``figures/<name>.png``, and shows them in the report.
    """

    @property
    def title(self) -> str:
        """Heading in the report."""
        ...

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain containers."""
        ...

    def header(self) -> tuple[str, ...]:
        """Names of the table's columns."""
        ...

    def lines(self) -> list[tuple[str | int | float | None, ...]]:
        """The table's lines."""
        ...

    def draw(self, axes: Axes) -> None:
        """Draws it, without the name of the row."""
        ...


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Numbers of one evaluation by short name.

    Attributes:
        values: The numbers.
        replicates: ``(R,)`` of those that have an interval: the number in every bootstrap resample. Resamples are the
            same for every row of a comparison, so that differences can be tested.
        protocol: What was measured against what, in one sentence.
        notes: Sentences the reader must see, such as warnings.
        variants: The same evaluation under other protocols, by the suffix of its prefix (``1_caption``).
        details: What is more than a number, by the name of its files (``mean_activations``).
    """

    values: Mapping[str, float] = field(default_factory=dict)
    replicates: Mapping[str, Tensor] = field(default_factory=dict)
    protocol: str = ""
    notes: tuple[str, ...] = ()
    variants: Mapping[str, Scores] = field(default_factory=dict)
    details: Mapping[str, Detail] = field(default_factory=dict)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % percentile bootstrap intervals of the numbers that have one."""
        found = {name: metrics.percentile_interval(values) for name, values in self.replicates.items()}
        return {name: interval for name, interval in found.items() if interval is not None}


class Evaluation(Protocol):
    """A measurement of a reduced EmbeddingSet, whose features and prompts are unit rows.

    What cannot be measured on the set (retrieval without pairs, zero-shot without prompts) gives no number. One that
    looks at a further split names it in an attribute ``reference_split``; one that counts every true text of an image
    as a hit (``EmbeddingSet.relevant_pairs``) says so in an attribute ``uses_relevant_pairs``.
    """

    def __call__(self, embeddings: EmbeddingSet, context: Context) -> Scores:
        """Measures the set."""
        ...


def use_relevant_pairs(evaluations: Iterable[Evaluation]) -> bool:
    """Whether any of them counts every true text of an image as a hit."""
    return any(getattr(evaluation, "uses_relevant_pairs", False) for evaluation in evaluations)


def reference_splits(evaluations: Iterable[Evaluation]) -> list[str]:
    """The splits that evaluations look at beside the measured one, each once."""
    names = (getattr(evaluation, "reference_split", None) for evaluation in evaluations)
    return list(dict.fromkeys(name for name in names if name is not None))


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What one gap reducer made of an EmbeddingSet.

    Attributes:
        name: The row's name in the comparison.
        reducer: The reducer's class, as ``module.Class``.
        fit_split: The split whose statistics it holds, or ``None``.
        fit_samples: How many images these statistics come from; 0 when nothing was fitted.
        fit_data: Name of the other data set it was fitted on; ``None``: the one that is measured.
        protocol: ``"inductive"``, ``"transductive"`` (fitted on the data it is measured on) or ``"none"``.
        metrics: Number by name, e.g. ``gap/centroid_distance``, ``retrieval/i2t_r1``, ``zeroshot/digit``.
        intervals: The 95 % bootstrap interval (low, high) of those metrics that have one.
        replicates: ``(R,)`` bootstrap replicates of the same metrics.
        protocols: Prefix of an evaluation to what it measured against what, in one sentence.
        notes: Sentences the reader must see, such as a warning that calibration and measured data differ.
        image_features: ``(N, D)`` unit rows after the reducer.
        text_features: ``(M, D)`` unit rows after the reducer.
        settings: The reducer's own arguments, plain.
        details: What evaluations found beside their numbers, by the name of their files.
    """

    name: str
    reducer: str
    fit_split: str | None
    fit_samples: int
    protocol: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    image_features: Tensor
    text_features: Tensor
    fit_data: str | None = None
    replicates: Mapping[str, Tensor] = field(default_factory=dict)
    protocols: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Detail] = field(default_factory=dict)


class Difference(NamedTuple):
    """A paired bootstrap comparison of one number between two rows.

    Attributes:
        metric: The number's name.
        row: Name of the row.
        baseline: Name of the row it is compared with.
        value: The row's number minus the baseline's.
        low: Lower end of the 95 % bootstrap interval of the difference.
        high: Upper end.
        p_value: Two-sided, of no difference; not corrected for the number of comparisons.
    """

    metric: str
    row: str
    baseline: str
    value: float
    low: float
    high: float
    p_value: float

    @property
    def significant(self) -> bool:
        """Whether p is below .05."""
        return self.p_value < SIGNIFICANCE_LEVEL
