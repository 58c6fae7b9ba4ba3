"""What dashboards show of a split, computed once for all of them: chosen pairs, their cosines, projections, pictures.

Shapes: N images and M texts of the split, K chosen pairs, D embedding width, S side of a thumbnail.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image, ImageOps
from pytorch_lightning.loggers import Logger
from torch import Tensor

from i0t.embeddings import EmbeddingSet
from i0t.loggers.dashboard import Cell, Dashboard, Embedding, Examples, Histograms, Projection, Table
from i0t.report import samples

IMAGE_TILE = (61, 103, 163)
TEXT_TILE = (224, 123, 57)
_THUMBNAIL = 32
_EXAMPLE = 256  # longer side of a photo
_COSINES = 10_000  # of each kind
_CHUNK = 1_000_000  # pairs looked at together
Images = Callable[[Sequence[int]], Sequence[np.ndarray]]


@dataclass(frozen=True)
class ShownPairs:
    """K pairs of a split, the same at every step.

    Attributes:
        image_rows: ``(K,)`` int64 rows in the split, each once.
        text_rows: ``(K,)`` int64 rows in the split, the first text of each image.
        captions: K texts; empty where the split has none.
        labels: Label name to the K names of the images' classes.
        true_of: ``(R, 2)`` int64 (image, text) among the K that belong together though they were not chosen as a pair.
    """

    image_rows: Tensor
    text_rows: Tensor
    captions: Sequence[str]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    true_of: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.int64))

    def take(self, kept: Tensor) -> ShownPairs:
        """The pairs at some of the K places."""
        place = torch.full((len(self.image_rows),), -1, dtype=torch.int64)
        place[kept] = torch.arange(len(kept))
        moved = place[self.true_of]
        rows = kept.tolist()
        return ShownPairs(
            self.image_rows[kept],
            self.text_rows[kept],
            [self.captions[row] for row in rows],
            {name: [values[row] for row in rows] for name, values in self.labels.items()},
            moved[(moved >= 0).all(dim=1)],
        )


@dataclass(frozen=True)
class Shown:
    """How much dashboards show.

    Attributes:
        num_pairs: The most pairs; twice as many points.
        num_examples: Images with captions.
        seed: Of the choice of pairs.
    """

    num_pairs: int = 500
    num_examples: int = 8
    seed: int = 0

    def choose(
        self,
        pairs: Tensor,
        captions: Sequence[str] | None,
        *,
        labels: Mapping[str, Tensor],
        class_names: Mapping[str, Sequence[str]],
        true_pairs: Tensor | None = None,
    ) -> ShownPairs:
        """Draws the pairs, one for each of the images drawn.

        A text that reads like an image's own is true of it, too.

        Args:
            pairs: ``(P, 2)`` int64 (image row, text row) of the split.
            captions: Its M texts.
            labels: Label name to ``(N,)`` int64.
            class_names: Label name to the names of its classes.
            true_pairs: ``(R, 2)`` int64 further pairs that belong together.
        """
        _, first = np.unique(pairs[:, 0].cpu().numpy(), return_index=True)
        generator = torch.Generator().manual_seed(self.seed)
        chosen = pairs.cpu()[samples.choose_rows(torch.from_numpy(first), self.num_pairs, generator)]
        image_rows, text_rows = chosen.unbind(dim=1)
        texts = [captions[row] if captions else f"text {row}" for row in text_rows.tolist()]
        true_of = [_alike(texts), _among(image_rows, text_rows, pairs)]
        if true_pairs is not None:
            true_of.append(_among(image_rows, text_rows, true_pairs))
        named = {name: _class_names(label[image_rows], class_names.get(name)) for name, label in labels.items()}
        return ShownPairs(image_rows, text_rows, texts, named, torch.cat(true_of).unique(dim=0))


@dataclass(frozen=True)
class Moment:
    """The chosen pairs in one embedding space.

    Attributes:
        name: What stands before the names in the dashboards: ``val``, ``test/posthoc``.
        step: Number of optimizer steps.
        pairs: The pairs.
        image_features: ``(K, D)`` unit rows.
        text_features: ``(K, D)`` unit rows.
    """

    name: str
    step: int
    pairs: ShownPairs
    image_features: Tensor
    text_features: Tensor

    @functools.cached_property
    def cosines(self) -> samples.CosineSample:
        """Cosines of matched and unmatched pairs, and inside each modality."""
        rows = torch.arange(len(self.image_features))
        as_set = EmbeddingSet(
            image_features=self.image_features,
            text_features=self.text_features,
            pairs=torch.stack([rows, rows], dim=1),
            relevant_pairs=self.pairs.true_of,
        )
        sample = samples.sample_pairs(as_set, count=_COSINES)
        return samples.matched_and_unmatched_cosines(sample, self.image_features, self.text_features)

    def mean_cosines(self) -> dict[str, float]:
        """Mean cosine of each kind that there is, as scalars ``<name>/mean_cosine/<kind>``."""
        found = {kind: values for kind, values in vars(self.cosines).items() if len(values)}
        return {f"{self.name}/mean_cosine/{kind}": float(values.mean()) for kind, values in found.items()}

    def histograms(self) -> Histograms:
        """Cosines by kind: ``matched``, ``unmatched``, ``image_image``, ``text_text``."""
        cosines = self.cosines
        by_kind = {kind: values.numpy() for kind, values in vars(cosines).items()}

        def draw() -> bytes:
            from i0t.report.figures import draw_cosines  # matplotlib is for those who look
            from i0t.report.style import png_bytes

            lowest = min(float(values.min()) for values in by_kind.values() if len(values))
            return png_bytes(draw_cosines(self._title, cosines, limits=(lowest, 1.0), paired=True))

        return Histograms(by_kind, functools.cache(draw))

    def projection(self) -> Projection:
        """Both modalities in their first two principal components."""
        rows = torch.arange(len(self.image_features))
        found = samples.paired_projection(self.image_features, self.text_features, rows, rows)
        columns, lines = self._points()
        coordinates = torch.cat([found.images, found.texts]).tolist()

        def draw() -> bytes:
            from i0t.report.figures import draw_projection
            from i0t.report.style import png_bytes

            limit = 1.08 * float(torch.cat([found.images, found.texts]).abs().max())
            return png_bytes(draw_projection(self._title, found, limit=limit or 1.0, paired=True))

        placed = [(*line, x, y) for line, (x, y) in zip(lines, coordinates, strict=True)]
        return Projection(Table((*columns, "x", "y"), placed), functools.cache(draw))

    def embedding(self, images: Images | None) -> Embedding:
        """The points themselves.

        Args:
            images: Looks up images of the split by their rows; ``None``: there are none to be seen.
        """
        columns, lines = self._points()
        vectors = torch.cat([self.image_features, self.text_features]).numpy()
        thumbnails = functools.cache(lambda: _tiles(self.pairs.image_rows.tolist(), images))
        return Embedding(vectors, Table(columns, lines), thumbnails)

    def examples(self, images: Images, count: int) -> Examples:
        """A few images with their captions, and for each the nearest text of the K.

        Args:
            images: Looks up images of the split by their rows.
            count: How many.
        """
        # Spread out: neighbours in a split are often of one class.
        places = np.linspace(0, len(self.image_features) - 1, min(count, len(self.image_features))).astype(int).tolist()
        rows = self.pairs.image_rows[places].tolist()
        cosines = self.image_features[places] @ self.text_features.T
        lines: list[tuple[Cell, ...]] = []
        captions = []
        for row, place, of_image in zip(rows, places, cosines.tolist(), strict=True):
            nearest = max(range(len(of_image)), key=of_image.__getitem__)
            caption, found = self.pairs.captions[place], self.pairs.captions[nearest]
            lines.append((row, caption, of_image[place], found, of_image[nearest]))
            other = "no text is nearer" if found == caption else f"nearest: {found} ({of_image[nearest]:.2f})"
            captions.append(f"{caption} ({of_image[place]:.2f}); {other}")
        pictures = [_small(image) for image in images(rows)]

        def draw() -> bytes:
            from i0t.report.figures import draw_examples
            from i0t.report.style import png_bytes

            return png_bytes(draw_examples(list(zip(pictures, captions, strict=True))))

        table = Table(("row", "caption", "cosine", "nearest", "nearest_cosine"), lines)
        return Examples(pictures, captions, table, functools.cache(draw))

    @property
    def _title(self) -> str:
        return f"{self.name}, step {self.step}"

    def _points(self) -> tuple[tuple[str, ...], list[tuple[Cell, ...]]]:
        """A line for each of the 2 K points, images first; a text has the labels of its image."""
        pairs = self.pairs
        sides = (("image", pairs.image_rows.tolist()), ("text", pairs.text_rows.tolist()))
        described = list(zip(pairs.captions, *pairs.labels.values(), strict=True))
        lines = [(side, row, *texts) for side, rows in sides for row, texts in zip(rows, described, strict=True)]
        return ("modality", "row", "caption", *pairs.labels), lines


def log_moment(loggers: Iterable[Logger], moment: Moment, images: Images | None, *, num_examples: int) -> None:
    """Gives all loggers the mean cosines, and the dashboards histograms, projection and examples.

    Args:
        loggers: Of the run.
        moment: What is shown.
        images: Looks up images of the split; ``None``: there are none to be seen.
        num_examples: Images with captions.
    """
    loggers = list(loggers)
    for logger in loggers:
        logger.log_metrics(moment.mean_cosines(), moment.step)
    dashboards = [logger for logger in loggers if isinstance(logger, Dashboard)]
    if not dashboards:
        return
    histograms, projection = moment.histograms(), moment.projection()
    examples = moment.examples(images, num_examples) if images is not None and num_examples else None
    for dashboard in dashboards:
        dashboard.log_histograms(f"{moment.name}/cosine", histograms, moment.step)
        dashboard.log_projection(f"{moment.name}/projection", projection, moment.step)
        if examples is not None:
            dashboard.log_examples(f"{moment.name}/examples", examples, moment.step)


def _alike(texts: Sequence[str]) -> Tensor:
    """``(R, 2)`` places of texts that read the same."""
    _, number = np.unique(np.asarray(texts, dtype=object).astype(str), return_inverse=True)
    return torch.from_numpy(np.argwhere(number[:, None] == number[None, :]))


def _among(image_rows: Tensor, text_rows: Tensor, pairs: Tensor) -> Tensor:
    """``(R, 2)`` places among the chosen rows of those of the split's pairs whose image and text are both chosen."""
    texts, text_of = text_rows.unique(return_inverse=True)
    together = torch.zeros(len(image_rows), len(texts), dtype=torch.bool)
    for part in pairs.cpu().split(_CHUNK):  # MAD has tens of millions
        images_at, texts_at = _places(image_rows, part[:, 0]), _places(texts, part[:, 1])
        chosen = (images_at >= 0) & (texts_at >= 0)
        together[images_at[chosen], texts_at[chosen]] = True
    return together[:, text_of].nonzero()


def _places(rows: Tensor, of: Tensor) -> Tensor:
    """Where in ``rows`` each number stands; -1 for those that do not."""
    table = torch.full((int(torch.cat([rows, of]).max()) + 1,), -1, dtype=torch.int64)
    table[rows] = torch.arange(len(rows))
    return table[of]


def _class_names(label: Tensor, names: Sequence[str] | None) -> list[str]:
    return [str(index) if names is None else str(names[index]) for index in label.tolist()]


def _small(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    picture.thumbnail((_EXAMPLE, _EXAMPLE))
    return np.asarray(picture)


def _tiles(rows: Sequence[int], images: Images | None) -> np.ndarray:
    """``(2 K, S, S, 3)`` uint8: the images, and a tile of one colour for each text (and for images not to be seen)."""
    tiles = np.empty((2 * len(rows), _THUMBNAIL, _THUMBNAIL, 3), np.uint8)
    tiles[: len(rows)], tiles[len(rows) :] = IMAGE_TILE, TEXT_TILE
    for place, row in enumerate(rows if images is not None else ()):
        assert images is not None
        # One at a time: photos are large.
        tiles[place] = np.asarray(ImageOps.fit(Image.fromarray(images([row])[0]), (_THUMBNAIL, _THUMBNAIL)))
    return tiles
