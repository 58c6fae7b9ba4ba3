"""The files of the benchmarks of compositional zero-shot learning: which image shows which attribute of which object.

On disk, as the public loaders of these benchmarks leave them (Two Effects, arXiv 2404.07983; czsl and CGE), below a
root, where ``<splits>`` is ``compositional-split-natural``::

    <splits>/train_pairs.txt  val_pairs.txt  test_pairs.txt      a line "<attribute> <object>" per composition
    metadata_<splits>.t7                 a list of {"image", "attr", "obj", "set"} that torch saved; or .json, the same
    images/<attribute> <object>/*.jpg    or images/<attribute>_<object>/

A composition may be of several splits (the "seen" ones are), so the list says which image is of which. Without the list
the images of a composition are those of its folder, which does for splits that share no composition, such as the older
``compositional-split``. Images without an attribute or a split (``NA``) are left out, as are those of compositions that
no split lists.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from i0t.data.base import MissingSplitError
from i0t.data.caption_files import read_json, read_lines

SPLITS = ("train", "val", "test")
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_NOT_LABELLED = "NA"


class Composition(NamedTuple):
    """An attribute of an object, as the files name them."""

    attribute: str
    object: str


class ComposedImage(NamedTuple):
    """An image as the list has it.

    Attributes:
        composition: What it shows.
        names: What its file may be called, relative to a folder of images.
        split: ``"train"``, ``"val"`` or ``"test"``.
    """

    composition: Composition
    names: Sequence[str]
    split: str


def attribute_words(name: str) -> str:
    """An attribute as a prompt says it.

    Example:
        >>> attribute_words("Full.grain.leather")
        'full grain leather'
    """
    return name.lower().replace(".", " ")


def object_words(name: str) -> str:
    """An object as a prompt says it: the kind behind what it is a kind of, each word once.

    Example:
        >>> object_words("Boots.Knee.High"), object_words("Shoes.Boat.Shoes"), object_words("apple")
        ('knee high boots', 'boat shoes', 'apple')
    """
    first, *rest = name.lower().split(".")
    if not rest:
        return first
    return " ".join(rest if rest[-1] == first else [*rest, first])


def listed_compositions(folder: Path) -> dict[str, list[Composition]]:
    """Split name to its compositions; splits without a file are not there.

    Raises:
        ValueError: If no split has a file, or one is not as described.
    """
    files = {split: folder / f"{split}_pairs.txt" for split in SPLITS}
    there = {split: read_pairs(file) for split, file in files.items() if file.is_file()}
    if not there:
        raise ValueError(f"{folder} has no train_pairs.txt (nor val_pairs.txt, test_pairs.txt); see data.root")
    return there


def images_of_split(
    root: Path, splits: str, split: str, listed: Mapping[str, Sequence[Composition]]
) -> tuple[list[ComposedImage], Path]:
    """The images of a split, and the list or the folder that says so.

    Args:
        root: Folder of the data set.
        splits: Name of the division into splits.
        split: Asked for.
        listed: See :func:`listed_compositions`.

    Raises:
        MissingSplitError: If there is no such split.
        ValueError: If there is no image of it, or the files are not as described.
    """
    if split not in listed:
        raise MissingSplitError(f"these data have no split {split!r}; choose one of {', '.join(listed)}")
    places = [root / f"metadata_{splits}{suffix}" for suffix in (".t7", ".json")]
    source = next((place for place in places if place.is_file()), root / "images")
    if source.is_file():
        known = {pair for pairs in listed.values() for pair in pairs}
        images = [one for one in read_metadata(source) if one.split == split and one.composition in known]
    else:
        images = _in_folders(root, listed, split)
    if not images:
        raise ValueError(f"{source} has no image of the {split} split of {splits}")
    return images, source


def read_pairs(path: Path) -> list[Composition]:
    """The compositions of a split.

    Raises:
        ValueError: If the file cannot be read, is empty, or a line is not of two words.
    """
    pairs = [line.split() for line in read_lines(path)]
    wrong = next((number for number, words in enumerate(pairs, start=1) if len(words) != 2), None)
    if wrong is not None:
        raise ValueError(f"{path}, entry {wrong}: expected <attribute> <object>, got {' '.join(pairs[wrong - 1])!r}")
    if not pairs:
        raise ValueError(f"{path} lists no composition")
    return [Composition(*words) for words in pairs]


def read_metadata(path: Path) -> list[ComposedImage]:
    """The images of all splits that have an attribute and a split, in the order of the list.

    Args:
        path: A list that torch saved, read as data alone (no code of the file is run), or the same as JSON.

    Raises:
        ValueError: If the file is damaged or not of this form.
    """
    if path.suffix == ".json":
        entries = read_json(path)
    else:
        try:
            entries = torch.load(path, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"cannot read {path}: {reason}; is it whole?") from error
    try:
        return [
            ComposedImage(Composition(one["attr"], one["obj"]), _file_names(one), one["set"])
            for one in entries
            if _NOT_LABELLED not in (one["attr"], one["set"])
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a list of {{image, attr, obj, set}}: {error!r}") from error


def _file_names(entry: dict[str, str]) -> list[str]:
    """Where an image may stand: in a folder of its composition, or where its data set was first published."""
    own = entry["image"].rpartition("/")[2]
    names = [f"{entry['attr']}{mark}{entry['obj']}/{own}" for mark in (" ", "_")]
    return list(dict.fromkeys([*names, entry["image"], *([entry["_image"]] if "_image" in entry else [])]))


def _in_folders(root: Path, listed: Mapping[str, Sequence[Composition]], split: str) -> list[ComposedImage]:
    """The images of a split without a list: all that stand in the folders of its compositions.

    Raises:
        ValueError: If a composition is of another split too, so that its folder does not tell.
    """
    elsewhere = {pair for name, pairs in listed.items() if name != split for pair in pairs}
    shared = [pair for pair in listed[split] if pair in elsewhere]
    if shared:
        raise ValueError(
            f"{root} has no metadata_….t7 (nor .json), and {len(shared):,} of the {len(listed[split]):,} compositions "
            f"of the {split} split are of another split too ({shared[0].attribute} {shared[0].object}, …): only the "
            "list says which of their images are of which"
        )
    images: list[ComposedImage] = []
    for pair in dict.fromkeys(listed[split]):
        folders = [root / "images" / f"{pair.attribute}{mark}{pair.object}" for mark in (" ", "_")]
        folder = next((folder for folder in folders if folder.is_dir()), None)
        entries = sorted(entry.name for entry in folder.iterdir()) if folder is not None else []
        images += [
            ComposedImage(pair, [f"{folder.name}/{name}"], split)
            for name in entries
            if folder is not None and name.lower().endswith(_IMAGE_SUFFIXES)
        ]
    return images
