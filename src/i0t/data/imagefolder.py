"""Images in one folder per class, as torchvision's ``ImageFolder`` takes them.

On disk::

    <root>/test/<class>/….jpg          and, where there are such splits, <root>/train/…, <root>/val/…
    <root>/class_names.json            optional: {"<folder of a class>": "its name in words", …}

Shapes: N images of a split; C classes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from i0t.data.base import MissingSplitError
from i0t.data.image_files import ImageReader, read_image
from i0t.data.labelled_images import LabelledImagesDataModule, LabelledSplit
from i0t.data.photo_batches import PackedStrings

_NAMED = 5  # folders named in an error


class ImageFiles:
    """Images in files.

    Args:
        paths: N files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = PackedStrings([str(path) for path in paths])

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, row: int) -> Image.Image:
        """Decodes a file.

        Raises:
            UnreadableImage: If it cannot be decoded.
        """
        return read_image(self.paths[row])

    def transformed(self, row: int, reader: ImageReader) -> Tensor:
        """Decodes and transforms a file.

        Raises:
            UnreadableImage: If it cannot be decoded.
        """
        return reader(self.paths[row])


def split_folder(root: Path, folders: Mapping[str, str | None], split: str) -> Path:
    """The folder of a split.

    Args:
        root: Folder of the data set.
        folders: Split name to folder below ``root``; ``None`` where there is no such split.
        split: Asked for.

    Raises:
        ValueError: If there is none.
    """
    folder = folders.get(split)
    if folder is None:
        named = [name for name, value in folders.items() if value is not None]
        raise MissingSplitError(f"these data have no split {split!r}; choose one of {', '.join(named)}")
    if not (root / folder).is_dir():
        raise ValueError(f"data.root={root} has no folder {folder!r} for the {split} split; set data.{split}_folder")
    return root / folder


def read_class_folders(
    folder: Path, classes: Mapping[str, str] | None, *, known_counts: tuple[int | None, int | None] = (None, None)
) -> LabelledSplit:
    """Images in one folder per class, in the order of torchvision's ``ImageFolder``.

    Args:
        folder: Holds a folder for each class.
        classes: Name of each class by its folder, of which some may be absent; labels follow the folders' sorted names.
            ``None``: the folders that are there, named after themselves with spaces for underscores.
        known_counts: See :class:`LabelledSplit`.

    Raises:
        ValueError: If there are no folders or images, or a folder is not in ``classes``.
    """
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not found:
        raise ValueError(f"{folder} has no folders: images must stand in one folder per class")
    names = dict(sorted(classes.items())) if classes is not None else {name: name.replace("_", " ") for name in found}
    unknown = [name for name in found if name not in names]
    if unknown:
        raise ValueError(
            f"{len(unknown)} of the {len(found)} folders in {folder} are no known class: {', '.join(unknown[:_NAMED])}"
        )
    index = {name: label for label, name in enumerate(names)}
    here = {name: index[name] for name in found}
    samples = make_dataset(str(folder), here, extensions=IMG_EXTENSIONS, allow_empty=True)
    if not samples:
        raise ValueError(f"the {len(found)} folders in {folder} have no images")
    paths = [Path(path) for path, _ in samples]
    return LabelledSplit(
        images=ImageFiles(paths),
        labels=np.array([label for _, label in samples], dtype=np.int64),
        class_names=tuple(names.values()),
        image_ids=[path.relative_to(folder).as_posix() for path in paths],
        files=paths,
        known_counts=known_counts,
        provenance={"folder": folder.name, "class_folders": len(found)},
    )


def read_class_names(path: Path) -> dict[str, str]:
    """Names of classes by folder. By folder and not in a list: a list in another order mislabels every image.

    Args:
        path: A JSON object.

    Raises:
        ValueError: If it is missing, or no object of strings.
    """
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"data.class_names: cannot read {path} ({error})") from error
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f'data.class_names: {path} must be an object {{"<folder of a class>": "its name", …}}')
    return names


class ImageFolderDataModule(LabelledImagesDataModule):
    """Any folder of classes.

    Args:
        root: Folder of the data set.
        train_folder: Below ``root``; ``None``: there is no such split; ``.``: ``root`` itself.
        val_folder: Likewise.
        test_folder: Likewise.
        class_names: JSON file below ``root`` with the name of each class by its folder; these are then the classes,
            whether their folders are there or not. ``None``: folders are named after themselves, with spaces for
            underscores.
        templates: See :class:`~i0t.data.labelled_images.LabelledImagesDataModule`, as for what follows.
        caption_template: The one text of a class.
        limit: Images of each split.
        eval_batch_size: Per device.
        num_workers: Of the data loaders.

    Raises:
        ValueError: See :class:`~i0t.data.labelled_images.LabelledImagesDataModule`.
    """

    name = "imagefolder"

    def __init__(
        self,
        *,
        root: str,
        train_folder: str | None,
        val_folder: str | None,
        test_folder: str | None,
        class_names: str | None,
        templates: Sequence[str],
        caption_template: str,
        limit: int | None,
        eval_batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__(
            root=root,
            templates=templates,
            caption_template=caption_template,
            limit=limit,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
        )
        self.folders = {"train": train_folder, "val": val_folder, "test": test_folder}
        self.class_names = class_names

    def read_split(self, split: str) -> LabelledSplit:
        """Lists the folders of a split."""
        folder = split_folder(self.root, self.folders, split)
        if self.class_names is None:
            return read_class_folders(folder, None)
        names_file = self.root / self.class_names
        read = read_class_folders(folder, read_class_names(names_file))
        return replace(read, files=[names_file, *read.files])
