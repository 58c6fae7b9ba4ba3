"""Few dimensions: how many carry the gap, and what is lost with them."""

# N images, M texts, D width, R resamples.
from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor

from i0t.analysis.dimensions import SortedDimensions, dimension_profile
from i0t.analysis.dimensions_ablation import (
    AblationCurve,
    LostRows,
    ablate,
    drop_dimensions,
    dropped_counts,
    random_orders,
)
from i0t.analysis.dimensions_curves import DroppedDimensions
from i0t.analysis.dimensions_queries import Queries, draw_queries, query_hits
from i0t.analysis.dimensions_scatter import leading_dimensions
from i0t.analysis.dimensions_share import CumulativeShare
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.resampling import Numbers, describe_units, redraws_of
from i0t.evaluation.results import Context, Detail, Scores
from i0t.metrics import functional as metrics
from i0t.metrics.functional.dimensions import (
    isotropic_squares,
    mean_differences,
    num_carrying_dimensions,
    squares_without_resampling_bias,
)

DETAIL = "dimensions"
PERCENTAGES = (50, 90)
REPORTED = (0, 1, 2, 5, 10, 20)  # numbers of dropped dimensions that are numbers of their own
_NOISE_NOTE = (
    "the means of images and texts are no farther apart than their sampling noise, so dims_50 and dims_90 describe "
    "noise and have no interval"
)
NO_DIFFERENCE = 1e-7  # of the two means: the rounding of unit rows in single precision


class Dimensions:
    """In how few dimensions the two means differ, and what dropping them does (Two Effects, arXiv 2404.07983).

    ``dims_50`` and ``dims_90`` are the fewest dimensions that carry 50 and 90 % of the squared centroid distance, with
    what a random direction gives beside them; ``without_<n>/…`` are the gap, R@1 and zero-shot accuracy without the n
    dimensions in which the means differ most. Needs neither pairs nor prompts: what needs them is left out.

    Args:
        max_dims: Up to so many dimensions are dropped one by one.
        num_coarse: Further, coarser steps up to all dimensions but one; 0: none.
        num_random: Random orders of dimensions that are dropped as the control; 0: no control.
        num_queries: At most so many random images and texts ask; all can answer.
        num_points: At most so many random images, and texts, in the picture of the two leading dimensions.
        seed: Of the random orders, queries and points.
        num_resamples: Of the bootstrap over images (or over groups of images, where the set names them).

    Raises:
        ValueError: If a number is out of range.
    """

    uses_relevant_pairs: ClassVar[bool] = True

    def __init__(
        self,
        *,
        max_dims: int,
        num_coarse: int,
        num_random: int,
        num_queries: int,
        num_points: int,
        seed: int,
        num_resamples: int,
    ) -> None:
        positive = {"max_dims": max_dims, "num_queries": num_queries, "num_points": num_points}
        for least, numbers in ((1, positive), (0, {"num_coarse": num_coarse, "num_random": num_random})):
            for name, value in numbers.items():
                if value < least:
                    raise ValueError(f"evaluation.dimensions.{name} must be {least} or more, got {value}")
        self.max_dims = max_dims
        self.num_coarse = num_coarse
        self.num_random = num_random
        self.num_queries = num_queries
        self.num_points = num_points
        self.seed = seed
        self.num_resamples = num_resamples

    def __call__(self, embeddings: EmbeddingSet, context: Context) -> Scores:
        """Measures unit features."""
        image, text = embeddings.image_features, embeddings.text_features
        profile = dimension_profile(image, text)
        if profile.distance <= NO_DIFFERENCE:
            return Scores(notes=("images and texts have the same mean, so no dimension carries a gap",))
        redraws = redraws_of(embeddings, self.num_resamples)
        numbers = Numbers()
        carrying = _add_carrying(numbers, embeddings, redraws)
        details: dict[str, Detail] = {
            DETAIL: SortedDimensions(profile),
            f"{DETAIL}_share": CumulativeShare(profile, carrying.measured, carrying.by_chance),
        }
        protocols = {"share": _share_protocol(embeddings)}
        if embeddings.dim > 1:
            details[f"{DETAIL}_leading"] = leading_dimensions(
                profile, image, text, num_points=self.num_points, seed=self.seed
            )
            protocols["leading"] = f"at most {self.num_points:,} random images and texts, seed {self.seed}"
        queries = draw_queries(embeddings, self.num_queries, seed=self.seed)
        curve, control = self._ablate(embeddings, profile.order, queries)
        self._add_numbers(numbers, embeddings, curve, queries, redraws)
        details |= self._curve_details(curve, control)
        protocols["gap"] = self._ablation_protocol()
        if curve.performance:
            protocols["performance"] = f"{self._ablation_protocol()}; {self._query_protocol(embeddings, queries)}"
        return Scores(
            values=numbers.values,
            replicates=numbers.replicates,
            protocol=self._protocol(embeddings, queries),
            notes=(*carrying.notes, *_lost_notes(curve.lost)),
            variants={name: Scores(protocol=sentence) for name, sentence in protocols.items()},
            details=details,
        )

    def _ablate(
        self, embeddings: EmbeddingSet, order: Tensor, queries: Queries
    ) -> tuple[AblationCurve, list[AblationCurve]]:
        """Without the leading dimensions, and without random ones."""
        counts = dropped_counts(embeddings.dim, max_dims=self.max_dims, num_coarse=self.num_coarse)
        random = random_orders(embeddings.dim, self.num_random, seed=self.seed)
        curve, *control = (ablate(embeddings, one, counts, queries) for one in (order, *random))
        return curve, control

    def _add_numbers(
        self,
        numbers: Numbers,
        embeddings: EmbeddingSet,
        curve: AblationCurve,
        queries: Queries,
        redraws: metrics.Redraws,
    ) -> None:
        """Adds what is left without 0, 1, 2, … dimensions, with intervals; the dimensions stay those of the set."""
        for number in REPORTED:
            if number not in curve.num_dropped:
                continue
            remaining = drop_dimensions(embeddings, curve.order[:number])
            if isinstance(remaining, LostRows):
                return
            _add_gap(numbers, f"without_{number}", remaining, redraws)
            for name, hits in query_hits(remaining, queries).items():
                rows, units, counts = queries.classified, redraws.image_units, redraws.image_counts
                if name == "i2t_r1":
                    rows = queries.image_rows
                elif name == "t2i_r1":
                    rows, units = queries.text_rows, redraws.text_units
                    counts = redraws.text_counts if redraws.texts_are_drawn else redraws.text_counts[:0]
                numbers.add_mean(f"without_{number}/{name}", hits, units[rows], counts)

    def _curve_details(self, curve: AblationCurve, control: list[AblationCurve]) -> dict[str, Detail]:
        """The gap, and what the embeddings are good for, against the number of dropped dimensions."""
        details: dict[str, Detail] = {
            f"{DETAIL}_gap": DroppedDimensions(
                title="The gap without its leading dimensions",
                ylabel="gap",
                num_fine=self.max_dims,
                leading=curve,
                curves=curve.gap,
                random=[one.gap for one in control],
            )
        }
        if curve.performance:
            details[f"{DETAIL}_performance"] = DroppedDimensions(
                title="Retrieval and zero-shot accuracy without the leading dimensions",
                ylabel="share of correct queries",
                num_fine=self.max_dims,
                leading=curve,
                curves=curve.performance,
                random=[one.performance for one in control],
                are_shares=True,
            )
        return details

    def _ablation_protocol(self) -> str:
        control = f"; dotted: the mean over {self.num_random} seeded orders of random dimensions"
        return (
            "dimensions dropped from both modalities, the largest difference of the means first, as measured on this "
            f"very set; rows normalised again{control if self.num_random else ''}"
        )

    def _query_protocol(self, embeddings: EmbeddingSet, queries: Queries) -> str:
        asks = []
        if len(queries.image_rows) > 0:
            asks.append(
                f"R@1 of {len(queries.image_rows):,} images among {embeddings.num_texts:,} texts and of "
                f"{len(queries.text_rows):,} texts among {embeddings.num_images:,} images, ties count against the query"
            )
        if embeddings.prompts:
            asks.append(f"zero-shot accuracy of {len(queries.classified):,} images")
        return f"{'; '.join(asks)} (random queries where not all ask, seed {self.seed})"

    def _protocol(self, embeddings: EmbeddingSet, queries: Queries) -> str:
        asked = (
            f"; {self._query_protocol(embeddings, queries)}" if len(queries.image_rows) or embeddings.prompts else ""
        )
        return (
            f"means over {embeddings.num_images:,} images and {embeddings.num_texts:,} texts, unit rows, "
            f"{embeddings.dim:,} dimensions, which count from 1; {self._ablation_protocol()}{asked}; "
            f"{describe_units(embeddings)}"
        )


class _Carrying(NamedTuple):
    """Numbers of dimensions by the percentage they carry, here and by chance, and what must be said of them."""

    measured: dict[int, float]
    by_chance: dict[int, float]
    notes: tuple[str, ...]


def _add_carrying(numbers: Numbers, embeddings: EmbeddingSet, redraws: metrics.Redraws) -> _Carrying:
    """Adds the numbers of dimensions that carry 50 and 90 %, and those of random directions."""
    difference, *_ = all_differences = mean_differences(
        embeddings.image_features, embeddings.text_features, redraws.with_original()
    )
    resampled = all_differences[1:]
    # A difference that is no longer than its own sampling noise has no dimensions to speak of: resamples show the
    # noise's. (Centring on the very rows that are measured leaves such a difference.)
    noise = resampled.square().sum(dim=1).nanmean() - difference.square().sum()
    is_noise = len(resampled) > 0 and bool(noise >= difference.square().sum())
    replicates = squares_without_resampling_bias(resampled[:0] if is_noise else resampled, difference)
    isotropic = isotropic_squares(embeddings.dim)
    carrying = _Carrying({}, {}, (_NOISE_NOTE,) if is_noise else ())
    for percent in PERCENTAGES:
        carrying.measured[percent] = float(num_carrying_dimensions(difference.square(), percent / 100))
        carrying.by_chance[percent] = float(num_carrying_dimensions(isotropic, percent / 100).mean())
        resampled_numbers = num_carrying_dimensions(replicates, percent / 100)
        numbers.add(f"dims_{percent}", carrying.measured[percent], resampled_numbers)
        numbers.add(f"dims_{percent}_chance", carrying.by_chance[percent])
    return carrying


def _add_gap(numbers: Numbers, prefix: str, embeddings: EmbeddingSet, redraws: metrics.Redraws) -> None:
    """Adds the centroid distance and, for a set with pairs, RMG."""
    image, text = embeddings.image_features, embeddings.text_features
    distances = metrics.centroid_distances(image, text, redraws.with_original())
    replicates = distances[1:]
    if len(replicates) > 0:
        replicates = metrics.without_resampling_bias(replicates, float(distances[0]))
    numbers.add(f"{prefix}/centroid_distance", distances[0], replicates)
    if len(embeddings.pairs) > 0 and len(image) > 1 and len(text) > 1:
        pairing = metrics.make_pairing(image, text, pairs=embeddings.pairs)
        rmg = metrics.gap_measures(image, text, pairing, redraws.with_original())["rmg"]
        numbers.add(f"{prefix}/rmg", rmg[0], rmg[1:])


def _share_protocol(embeddings: EmbeddingSet) -> str:
    return (
        "the fewest dimensions that together carry that share of the squared centroid distance, beside the mean of "
        f"1,000 random directions in {embeddings.dim:,} dimensions"
    )


def _lost_notes(lost: LostRows | None) -> tuple[str, ...]:
    if lost is None:
        return ()
    return (
        f"without the {lost.num_dropped} leading dimensions {lost} have nothing left and so no direction: nothing is "
        "measured from there on",
    )
