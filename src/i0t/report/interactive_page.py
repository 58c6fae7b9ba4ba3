"""What is interactive of a run's page: figures, their data, thumbnails and the script that ties them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from markupsafe import Markup

from i0t.analysis.activation_change import ActivationChange
from i0t.analysis.dimensions_curves import DroppedDimensions
from i0t.embeddings import EmbeddingSet
from i0t.evaluation.results import RowResult
from i0t.report.bokeh_page import EmbeddedFigures, embed_figures
from i0t.report.detail_table import details_by_name
from i0t.report.figure_groups import EmbeddingState
from i0t.report.figures import Points, history_panels
from i0t.report.interactive_curves import ablation_figure, training_figure
from i0t.report.interactive_figures import (
    InteractiveFigure,
    activation_figure,
    cosine_figure,
    plane_figure,
    sphere_figure,
)
from i0t.report.interactive_points import ChosenPoints, choose_points, points_data
from i0t.report.samples import CosineSample
from i0t.report.thumbnails import ImageSource, Sprite, data_uri, make_sprite

_SCRIPT = "interactive_page.js"


@dataclass(frozen=True)
class InteractiveParts:
    """What the template needs of them.

    Attributes:
        embedded: Policy, scripts and the places of the figures by name.
        states: Names of the states that can be chosen.
        training: Names of the training's figures.
        details: Name of a detail to the name of its figure, for the details that have one.
        paired: Whether image and text points belong together.
        num_images: Image points.
        num_texts: Text points.
        pixelated: Whether the images are so small that enlarging them must not blur them.
        sprite_css: Style of the thumbnails; empty without images.
    """

    embedded: EmbeddedFigures
    states: tuple[str, ...]
    training: tuple[str, ...]
    details: Mapping[str, str]
    paired: bool
    num_images: int
    num_texts: int
    pixelated: bool
    sprite_css: Markup


def interactive_parts(
    embeddings: EmbeddingSet,
    rows: Sequence[RowResult],
    *,
    states: Sequence[EmbeddingState],
    cosines: Mapping[str, CosineSample],
    changes: Mapping[str, ActivationChange] | None,
    images: ImageSource | None,
    history: Mapping[str, Points],
    max_points: int,
) -> InteractiveParts:
    """Figures and data of a page.

    Args:
        embeddings: The set.
        rows: The comparison, for the details that have an interactive figure.
        states: The encoders' output and the rows.
        cosines: State to its sampled cosines.
        changes: State to its mean activations, where no row measured them.
        images: For the thumbnails.
        history: Of the training.
        max_points: The most images, and texts, that are drawn as points.
    """
    points = choose_points(embeddings, max_points)
    sprite = None if images is None else make_sprite(images, points.image_rows.tolist())
    data = points_data(embeddings, states, points)
    figures = _figures(cosines, changes, points=points, limit=data["limit"])
    training = [
        training_figure(f"training-{number}", title, curves)
        for number, (title, curves) in enumerate(history_panels(history).items(), start=1)
    ]
    details = _detail_figures(rows)
    every = [*figures, *training, *details.values()]
    size = None if sprite is None else {"columns": sprite.columns, "rows": sprite.rows}
    return InteractiveParts(
        embedded=embed_figures(
            {figure.name: figure.figure for figure in every},
            data={
                "points": {**data, "sprite": size},
                "switched": {figure.name: figure.states for figure in every if figure.states},
            },
            scripts=[resources.files("i0t.report").joinpath(_SCRIPT).read_text(encoding="utf-8")],
        ),
        states=tuple(state.name for state in states),
        training=tuple(figure.name for figure in training),
        details={name: figure.name for name, figure in details.items()},
        paired=points.paired,
        num_images=len(points.image_rows),
        num_texts=len(points.text_rows),
        pixelated=sprite is not None and sprite.pixelated,
        sprite_css=_sprite_css(sprite),
    )


def _figures(
    cosines: Mapping[str, CosineSample],
    changes: Mapping[str, ActivationChange] | None,
    *,
    points: ChosenPoints,
    limit: float,
) -> list[InteractiveFigure]:
    """The figures that every page has, and that of the activations where no row measured them."""
    count = max(len(points.image_rows), len(points.text_rows))
    figures = [plane_figure(limit, count), sphere_figure(count), cosine_figure(cosines, paired=points.paired)]
    return figures if changes is None else [*figures, activation_figure("activations", changes)]


def _detail_figures(rows: Sequence[RowResult]) -> dict[str, InteractiveFigure]:
    """The figures of those details whose kind has one; the others stay pictures."""
    figures: dict[str, InteractiveFigure] = {}
    for name, details in details_by_name(rows).items():
        place = f"detail-{len(figures) + 1}"
        changes = {row: detail for row, detail in details.items() if isinstance(detail, ActivationChange)}
        curves = {row: detail for row, detail in details.items() if isinstance(detail, DroppedDimensions)}
        if changes:
            figures[name] = activation_figure(place, changes)
        elif curves:
            figures[name] = ablation_figure(place, curves)
    return figures


def _sprite_css(sprite: Sprite | None) -> Markup:
    if sprite is None:
        return Markup("")
    return Markup(f".sprite{{background-image:url({data_uri('image/webp', sprite.webp)})}}")
