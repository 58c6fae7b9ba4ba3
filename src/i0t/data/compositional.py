"""What the benchmarks of compositional zero-shot learning share: images of an attribute of an object.

Their files are those that :mod:`i0t.data.composition_files` describes. In Two Effects (arXiv 2404.07983) attributes are
asked for by "an image of a {attribute} object", objects by "image of a {object}", and MOAD takes the text "an image of
a {attribute} {object}" of every image.

Shapes: N images of a split; A attributes, O objects; C compositions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from i0t.data.composition_files import (
    ComposedImage,
    attribute_words,
    images_of_split,
    listed_compositions,
    object_words,
)
from i0t.data.imagefolder import ImageFiles
from i0t.data.labelled_images import Factor, LabelledImagesDataModule, LabelledSplit
from i0t.data.photo_split import ImageFinder

ATTRIBUTE, OBJECT = "attribute", "object"
_PUBLISHED_SPLITS = "compositional-split-natural"
_NAMED = 5  # files named in an error


class Vocabulary(NamedTuple):
    """The attributes and objects of all splits, each sorted, as the files name them."""

    attributes: Sequence[str]
    objects: Sequence[str]


class CompositionalDataModule(LabelledImagesDataModule):
    """Images with the labels ``attribute`` and ``object``, and one text for each composition.

    Args:
        root: Folder of the data set.
        splits: Name of the division into splits, which its files bear.
        compositions: The texts: ``split``, one for each composition that the split has images of, or ``all``, every
            attribute with every object, attribute by attribute: the grid that ideal words are the means of.
        raw_names: Name attributes and objects in these texts as the files do, as the published measure of object bias
            does ("Faux.Leather Boots.Ankle"); else in words ("faux leather ankle boots"). Prompts are always in words.
        attribute_template: Prompt of an attribute; ``{c}`` stands for it.
        object_template: Prompt of an object.
        caption_template: The text of a composition; ``{c}`` stands for attribute and object.
        limit: So many images of each split, spread evenly over it; ``None``: all.
        eval_batch_size: Per device.
        num_workers: Of the data loaders.

    Raises:
        ValueError: If an option is out of range, or (when a split is first used) its files are not as described.

    DDP:
        Ranks take disjoint shares.
    """

    known_counts: ClassVar[Mapping[str, tuple[int, int]]]
    """Images and compositions of each split as published."""
    other_folders: ClassVar[Sequence[str]] = ()
    """Of images by the names that the list gives under ``_image``."""

    def __init__(
        self,
        *,
        root: str,
        splits: str,
        compositions: str,
        raw_names: bool,
        attribute_template: str,
        object_template: str,
        caption_template: str,
        limit: int | None,
        eval_batch_size: int,
        num_workers: int,
    ) -> None:
        if compositions not in ("split", "all"):
            raise ValueError(f"data.compositions={compositions!r} does not exist; choose split or all")
        super().__init__(
            root=root,
            templates={ATTRIBUTE: (attribute_template,), OBJECT: (object_template,)},
            caption_template=caption_template,
            limit=limit,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            main_object=OBJECT,
        )
        self.splits = splits
        self.all_compositions = compositions == "all"
        self.raw_names = raw_names
        self._finder = ImageFinder()

    def read_split(self, split: str) -> LabelledSplit:
        """Reads the list, or the folders of the compositions, and looks for every image."""
        listed = listed_compositions(self.root / self.splits)
        images, source = images_of_split(self.root, self.splits, split, listed)
        pairs = sorted({pair for of_split in listed.values() for pair in of_split})
        vocabulary = Vocabulary(sorted({pair.attribute for pair in pairs}), sorted({pair.object for pair in pairs}))
        return self._labelled(split, images, vocabulary, source)

    def _labelled(
        self, split: str, images: Sequence[ComposedImage], vocabulary: Vocabulary, source: Path
    ) -> LabelledSplit:
        paths = self._find(images, source)
        attribute = {name: i for i, name in enumerate(vocabulary.attributes)}
        object_ = {name: i for i, name in enumerate(vocabulary.objects)}
        of_image = np.array([(attribute[one.composition.attribute], object_[one.composition.object]) for one in images])
        if self.all_compositions:
            classes = np.stack(np.divmod(np.arange(len(attribute) * len(object_)), len(object_)), axis=1)
            labels = of_image[:, 0] * len(object_) + of_image[:, 1]
        else:
            classes, labels = np.unique(of_image, axis=0, return_inverse=True)
        return LabelledSplit(
            images=ImageFiles(paths),
            labels=labels.reshape(-1),
            class_names=[self._words(vocabulary, *pair) for pair in classes],
            image_ids=[f"{path.parent.name}/{path.name}" for path in paths],
            files=[*sorted((self.root / self.splits).glob("*_pairs.txt")), *([source] * source.is_file()), *paths],
            known_counts=self._known_counts(split),
            factors={
                OBJECT: Factor(of_class=classes[:, 1], names=[object_words(name) for name in vocabulary.objects]),
                ATTRIBUTE: Factor(
                    of_class=classes[:, 0], names=[attribute_words(name) for name in vocabulary.attributes]
                ),
            },
            provenance={
                "splits": self.splits,
                "list_of_images": source.name,
                "compositions": "all" if self.all_compositions else "split",
                "raw_names": self.raw_names,
            },
        )

    def _known_counts(self, split: str) -> tuple[int | None, int | None]:
        if self.splits != _PUBLISHED_SPLITS:
            return None, None
        num_images, num_compositions = self.known_counts[split]
        return num_images, None if self.all_compositions else num_compositions

    def _words(self, vocabulary: Vocabulary, attribute: int, object_: int) -> str:
        """A composition as its text says it."""
        first, second = vocabulary.attributes[attribute], vocabulary.objects[object_]
        return f"{first} {second}" if self.raw_names else f"{attribute_words(first)} {object_words(second)}"

    def _find(self, images: Sequence[ComposedImage], source: Path) -> list[Path]:
        """The file of every image.

        Raises:
            ValueError: If some are not there (their number and the first five).
        """
        folders = [self.root / folder for folder in ("images", *self.other_folders)]
        paths = [self._finder.find(folders, one.names) for one in images]
        missing = [path for path in paths if not self._finder.has(path)]
        if missing:
            raise ValueError(
                f"{len(missing):,} of the {len(paths):,} images that {source.name} names are not there: "
                f"{', '.join(f'{path.parent.name}/{path.name}' for path in missing[:_NAMED])}"
                f"{', …' if len(missing) > _NAMED else ''} (looked in {folders[0]})"
            )
        return paths
