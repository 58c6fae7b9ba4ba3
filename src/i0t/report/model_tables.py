"""The tables of a study over models, as headings, sentences and ready cells."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from i0t.report.detail_table import Cell, format_cell
from i0t.report.model_correlations import (
    ALL,
    BIAS,
    BY_DATA,
    BY_SCALE,
    CARRYING,
    DIMENSIONS,
    GAP,
    NAMES,
    OBJECT,
    SCALE,
    Correlation,
    sign_shares,
)
from i0t.report.model_figures import format_p
from i0t.report.model_points import StudiedModel, data_sets
from i0t.report.model_statistics import FEWEST, FEWEST_FOR_INTERVAL, NUM_PERMUTATIONS, Tau

TOO_FEW = "too few models"
METHOD = (
    f"τ is Kendall's tau-b over models; fewer than {FEWEST} models, or a constant, give no number. p is two-sided, by "
    f"permutation: all orders up to 8 models, else {NUM_PERMUTATIONS:,} random ones of which the observed is one. "
    f"Intervals: 95 %, percentile bootstrap over models, from {FEWEST_FOR_INTERVAL} models on. Partial τ: of the "
    "residuals after least squares on log10 training pairs, log10 parameters and embedding width, for the models of "
    "which all three are known; its p permutes residuals and fits again (Freedman and Lane). Holm: p adjusted over the "
    "tests of one table. Models that share training data or architecture are no independent draws, which neither p "
    "nor interval knows."
)
_HEADINGS = {
    GAP: (
        "Gap and performance",
        "Do models with a smaller modality gap perform better? The Two Effects paper finds a negative correlation "
        "within most groups of equal training data.",
    ),
    OBJECT: (
        "Objects and attributes",
        "Are models that are good at objects good at attributes too? The paper finds a positive correlation.",
    ),
    BIAS: (
        "Object bias and attributes",
        "Do models whose features cluster by object (MOAD above 0) know less of attributes? The paper finds that the "
        "bias does not directly harm attributes.",
    ),
    SCALE: ("Scale and performance", "What else goes with performance: training pairs, parameters, embedding width."),
    DIMENSIONS: (
        "Few dimensions",
        "How many dimensions carry 50 and 90 % of the squared centroid distance, and whether that number grows with "
        "the embedding. Chance: the same of a random direction.",
    ),
}
_OVERALL = ("", "", "n", "τ", "95 %", "p", "Holm", "partial n", "partial τ", "p of it", "Holm of it")


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        family: What its correlations are about; the figure of that family belongs here.
        heading: Its title.
        sentences: What it asks and what it found.
        tables: Caption, header and lines of each.
    """

    family: str
    heading: str
    sentences: tuple[str, ...]
    tables: tuple[tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]], ...]


def sections(models: Sequence[StudiedModel], found: Sequence[Correlation]) -> list[Section]:
    """A section for every family of questions that was asked, in the order in which the paper asks."""
    result = []
    for family, (heading, sentence) in _HEADINGS.items():
        of_family = [one for one in found if one.family == family]
        if not of_family:
            continue
        tables = [("All models", *_overall(of_family)), ("By number of training pairs", *_by_scale(of_family))]
        sentences = [sentence]
        if family == GAP:
            sentences += _sign_sentences(of_family)
            tables.append(("Within equal training data", *_by_data(of_family)))
        if family == DIMENSIONS:
            tables.insert(0, ("By kind of image tower and width: medians", *_dimension_table(models)))
        kept = [table for table in tables if table[2]]
        result.append(Section(family, heading, tuple(sentences), tuple(kept)))
    return result


def model_table(models: Sequence[StudiedModel]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """A line per model: what it is, and why it does not count, if so."""
    header = ("model", "training data", "pairs", "parameters", "width", "image tower", "measured on", "not counted")
    lines = [
        (
            m.name,
            m.training.name,
            _count(m.training.num_pairs),
            _count(m.shape.num_parameters),
            format_cell(m.shape.width),
            m.shape.family,
            ", ".join(sorted(m.numbers)),
            m.left_out or "",
        )
        for m in models
    ]
    return header, tuple(lines)


def csv_lines(models: Sequence[StudiedModel]) -> tuple[tuple[str, ...], list[tuple[Cell, ...]]]:
    """A line per model and data set, in full precision; an empty cell where nothing was measured."""
    keys = [*NAMES, *(f"{key}_chance" for key in CARRYING)]
    header = ("model", "architecture", "pretrained", "training data", "pairs", "parameters", "width", "image tower",
              "not counted", "data", *keys)  # fmt: skip
    lines: list[tuple[Cell, ...]] = []
    for m in models:
        about: tuple[Cell, ...] = (
            *(m.name, m.architecture, m.tag, m.training.name, m.training.num_pairs),
            *(m.shape.num_parameters, m.shape.width, m.shape.family, m.left_out),
        )
        lines += [(*about, data, *(m.number(data, key) for key in keys)) for data in sorted(m.numbers)]
    return header, lines


def _overall(found: Sequence[Correlation]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    lines = []
    for one in (one for one in found if one.kind == ALL):
        tau, partial = one.tau, one.partial
        interval = "" if tau.low is None or tau.high is None else f"[{tau.low:.2f}, {tau.high:.2f}]"
        cells = [one.x, one.y, str(tau.num_models), _value(tau), interval, format_p(tau.p_value)]
        cells.append(format_p(one.adjusted))
        if partial is not None:
            cells += [str(partial.num_models), _partial_value(partial), format_p(partial.p_value)]
            cells.append(format_p(one.adjusted_partial))
        lines.append(tuple(cells))
    width = max((len(line) for line in lines), default=0)
    return _OVERALL[:width], tuple(lines)


def _by_scale(found: Sequence[Correlation]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    lines = tuple(
        (one.group, one.x, one.y, str(one.tau.num_models), _value(one.tau), format_p(one.tau.p_value),
         format_p(one.adjusted))
        for one in found
        if one.kind == BY_SCALE and one.tau.num_models > 0
    )  # fmt: skip
    return ("training data", "", "", "n", "τ", "p", "Holm"), lines


def _by_data(found: Sequence[Correlation]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """A line per group and question; groups of fewer than four models are named in one last line."""
    by_data = [one for one in found if one.kind == BY_DATA]
    lines = [
        (one.group, one.x, one.y, str(one.tau.num_models), _value(one.tau), format_p(one.tau.p_value),
         format_p(one.adjusted))
        for one in by_data
        if one.tau.num_models >= FEWEST
    ]  # fmt: skip
    large = {line[0] for line in lines}
    small = sorted({one.group for one in by_data} - large)
    if small:
        lines.append((", ".join(small), "", "", f"below {FEWEST}", TOO_FEW, "", ""))
    return ("training data", "", "", "n", "τ", "p", "Holm"), tuple(lines)


def _sign_sentences(found: Sequence[Correlation]) -> list[str]:
    sentences = []
    for share in sign_shares(found):
        if share.num_groups == 0:
            sentences.append(
                f"{share.x} against {share.y}: no group of equal training data has {FEWEST} models that differ."
            )
            continue
        percent = 100 * share.num_negative / share.num_groups
        sentences.append(
            f"{share.x} against {share.y}: negative in {share.num_negative} of {share.num_groups} groups of equal "
            f"training data ({percent:.0f} %; the paper: {'70' if 'RMG' in share.x else '60'} %)."
        )
    return sentences


def _dimension_table(models: Sequence[StudiedModel]) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Median number of carrying dimensions and their share of the width, by family, width and data set."""
    header = ("data", "image tower", "width", "n", "50 %: dimensions", "share of width", "chance",
              "90 %: dimensions", "share of width", "chance")  # fmt: skip
    groups: dict[tuple[str, str, int], list[StudiedModel]] = {}
    for data in data_sets(models):
        for model in models:
            if model.shape.width is not None and model.number(data, CARRYING[0]) is not None:
                groups.setdefault((data, model.shape.family, model.shape.width), []).append(model)
    lines = []
    for (data, family, width), members in sorted(groups.items()):
        cells = [data, family, str(width), str(len(members))]
        for key in CARRYING:
            known = [value for m in members if (value := m.number(data, key)) is not None]
            chance = [value for m in members if (value := m.number(data, f"{key}_chance")) is not None]
            median = statistics.median(known) if known else None
            cells.append(format_cell(median))
            cells.append("" if median is None else f"{100 * median / width:.1f} %")
            cells.append(format_cell(statistics.median(chance) if chance else None))
        lines.append(tuple(cells))
    return header, tuple(lines)


def _value(tau: Tau) -> str:
    if tau.value is None:
        return TOO_FEW if tau.num_models < FEWEST else "constant"
    return f"{tau.value:.3f}"


def _partial_value(tau: Tau) -> str:
    return "too few models, or nothing left" if tau.value is None else f"{tau.value:.3f}"


def _count(number: float | None) -> str:
    """A count in millions or billions."""
    if number is None:
        return "unknown"
    for size, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:.0f}"
