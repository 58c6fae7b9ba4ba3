"""Where the digits come from: scikit-learn's small set, which needs no download, or MNIST.

Every digit has an index in its source that does not depend on the split, and no digit is in two splits.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from i0t.data.mad_generator.factors import IMAGE_SIZE
from i0t.data.mad_generator.idx import read_idx

logger = logging.getLogger(__name__)

SOURCES: tuple[str, ...] = ("digits", "mnist")
SPLITS: tuple[str, ...] = ("train", "val", "test")

_VAL_SHARE, _TEST_SHARE = 0.1, 0.2
_SAMPLE_STREAM = 5  # after those of captions
# Test files' digits are counted from here, so that indices are unique over both files.
_MNIST_TEST_OFFSET = 60_000
_BORDER, _GAMMA, _DIGITS_MAX = 2, 1.8, 16.0


@dataclass(frozen=True)
class DigitSource:
    """The digits of one split.

    Attributes:
        images: ``(N, 28, 28)`` uint8, bright ink on black.
        labels: ``(N,)`` int64.
        indices: ``(N,)`` int64 places in the source, ascending.
        fingerprint: SHA-256 of all of the source's images and labels.
    """

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    fingerprint: str

    def take(self, rows: np.ndarray | slice) -> DigitSource:
        """Some of the digits, in this order."""
        return DigitSource(self.images[rows], self.labels[rows], self.indices[rows], self.fingerprint)

    def sample(self, count: int, seed: int) -> DigitSource:
        """At most so many digits, drawn without replacement, in their order in the source."""
        order = np.random.default_rng([seed, 0, _SAMPLE_STREAM]).permutation(len(self.labels))
        return self.take(np.sort(order[:count]))


def load_source(
    source: str,
    split: str,
    *,
    root: str | Path | None = None,
    seed: int = 0,
    val_digits: int | None = None,
    limit: int | None = None,
    download: bool = False,
) -> DigitSource:
    """Digits of one split of a source.

    Args:
        source: ``digits`` or ``mnist``.
        split: ``train``, ``val`` or ``test``.
        root: Folder with MNIST's files; not used for ``digits``.
        seed: Decides which digit is in which split.
        val_digits: Training digits held out for ``val``; ``None``: 10 %. With 0 none is held out, and ``val`` is a
            random tenth of ``train``.
        limit: Take the first so many digits of the split only; a ``val`` that is a sample of ``train`` is one of the
            digits that are then left of it.
        download: Fetch MNIST into ``root`` when its files are not there.

    Raises:
        ValueError: If source or split does not exist, MNIST's files are missing or damaged, or so many digits cannot
            be held out.
    """
    if split not in SPLITS:
        raise ValueError(f"{split!r} is not a split; choose one of {', '.join(SPLITS)}")
    if source not in SOURCES:
        raise ValueError(f"{source!r} is not a source of digits; choose one of {', '.join(SOURCES)}")
    read = load_digits_source if source == "digits" else partial(load_mnist_source, root=root, download=download)
    if split != "val" or val_digits != 0:
        return read(split, seed=seed, val_digits=val_digits).take(slice(limit))
    train = read("train", seed=seed, val_digits=0)
    return train.take(slice(limit)).sample(int(_VAL_SHARE * len(train.labels)), seed)


def load_digits_source(split: str, *, seed: int = 0, val_digits: int | None = None) -> DigitSource:
    """scikit-learn's 1,797 handwritten digits (UCI, Alpaydin and Kaynak 1998), made to look like MNIST's.

    8 x 8 pixels of 0 to 16 are enlarged to 24 x 24 by cubic splines (pixels as areas, edge values repeated), clipped to
    [0, 1], raised to the power 1.8, which thins the strokes to about the width of MNIST's, and put into a frame with a
    border of 2 pixels. The splits are 70/10/20 %, stratified by label.

    Args:
        split: ``train``, ``val`` or ``test``.
        seed: Decides which digit is in which split.
        val_digits: Size of ``val``, taken from the 80 %; ``None``: 10 % of all.
    """
    images, labels = _enlarged_digits()
    rows = _three_way_split(labels, seed, val_digits)[split]
    return DigitSource(images[rows], labels[rows], rows, _fingerprint(images, labels))


@cache
def _enlarged_digits() -> tuple[np.ndarray, np.ndarray]:
    """All images and labels; made once, as every split asks for them."""
    from scipy import ndimage
    from sklearn.datasets import load_digits

    digits = load_digits()
    labels = digits.target.astype(np.int64)
    zoom = (IMAGE_SIZE - 2 * _BORDER) // digits.images.shape[1]
    images = np.zeros((len(labels), IMAGE_SIZE, IMAGE_SIZE), dtype=np.uint8)
    inside = slice(_BORDER, IMAGE_SIZE - _BORDER)
    for image, digit in zip(images, digits.images / _DIGITS_MAX, strict=True):
        enlarged = ndimage.zoom(digit, zoom, order=3, mode="nearest", grid_mode=True)
        image[inside, inside] = np.rint(np.clip(enlarged, 0.0, 1.0) ** _GAMMA * 255.0)
    return images, labels


def load_mnist_source(
    split: str, *, root: str | Path | None, seed: int = 0, val_digits: int | None = None, download: bool = False
) -> DigitSource:
    """MNIST from its IDX files, in ``root`` or in ``root/MNIST/raw``, where torchvision puts them.

    ``test`` is the t10k files, ``val`` a stratified part of the training files. Where only the t10k files are present,
    they are split 70/10/20 %, with a warning.

    Args:
        split: ``train``, ``val`` or ``test``.
        root: Folder with the files.
        seed: Decides which digit is in which split.
        val_digits: Size of ``val``; ``None``: 10 %.
        download: Fetch MNIST into ``root`` when its files are not there.

    Raises:
        ValueError: If files are missing or damaged.
    """
    if root is None:
        raise ValueError("MNIST needs the folder of its files: set root, or use the source 'digits'")
    folder = _mnist_folder(Path(root), download)
    test_images, test_labels = _read_pair(folder, "t10k")
    test_indices = np.arange(len(test_labels)) + _MNIST_TEST_OFFSET
    if _find(folder, "train-images-idx3-ubyte") is None:
        logger.warning("only MNIST's t10k files are in %s: its %d digits are split 70/10/20", folder, len(test_labels))
        rows = _three_way_split(test_labels, seed, val_digits)[split]
        fingerprint = _fingerprint(test_images, test_labels)
        return DigitSource(test_images[rows], test_labels[rows], test_indices[rows], fingerprint)
    images, labels = _read_pair(folder, "train")
    fingerprint = _fingerprint(images, labels, test_images, test_labels)
    if split == "test":
        return DigitSource(test_images, test_labels, test_indices, fingerprint)
    train_rows, val_rows = _hold_out_val(np.arange(len(labels)), labels, val_digits, seed)
    rows = val_rows if split == "val" else train_rows
    return DigitSource(images[rows], labels[rows], rows, fingerprint)


def _hold_out_val(
    rows: np.ndarray, labels: np.ndarray, val_digits: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of train and of val; by default val is 10 % of all labels."""
    if val_digits is None:
        return _stratified_split(rows, labels, int(_VAL_SHARE * len(labels)), seed)
    if val_digits >= len(rows):
        raise ValueError(
            f"val_digits={val_digits} leaves none of the {len(rows)} training digits to train on; "
            "choose fewer, or null for 10 %"
        )
    return _stratified_split(rows, labels, val_digits, seed) if val_digits else (rows, rows[:0])


def _stratified_split(rows: np.ndarray, labels: np.ndarray, held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that stay and ``held_out`` rows that are taken out, both ascending."""
    from sklearn.model_selection import train_test_split

    try:
        stay, out = train_test_split(rows, test_size=held_out, stratify=labels[rows], random_state=seed)
    except ValueError as error:
        raise ValueError(f"{held_out} of {len(rows)} digits cannot be held out label by label: {error}") from error
    return np.sort(stay), np.sort(out)


def _three_way_split(labels: np.ndarray, seed: int, val_digits: int | None) -> dict[str, np.ndarray]:
    """Rows of train, val and test, 70/10/20 %, or 80 % without ``val_digits``, ``val_digits`` and 20 %."""
    rest, test = _stratified_split(np.arange(len(labels)), labels, int(_TEST_SHARE * len(labels)), seed)
    train, val = _hold_out_val(rest, labels, val_digits, seed)
    return {"train": train, "val": val, "test": test}


def _fingerprint(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _mnist_folder(root: Path, download: bool) -> Path:
    """Folder that holds at least the t10k images."""
    candidates = (root, root / "MNIST" / "raw")
    for folder in candidates:
        if _find(folder, "t10k-images-idx3-ubyte") is not None:
            return folder
    if download:
        from torchvision.datasets import MNIST

        MNIST(str(root), download=True)
        return candidates[1]
    advice = "put t10k-images-idx3-ubyte[.gz] and its companions there, or ask for the download"
    if not root.is_dir():
        raise ValueError(f"the MNIST folder {root} does not exist; {advice}")
    raise ValueError(f"the folder {root} holds no MNIST files; {advice}")


def _find(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def _read_pair(folder: Path, stem: str) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of MNIST's training or test files."""
    paths = [_find(folder, f"{stem}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
    for path, kind in zip(paths, ("images-idx3", "labels-idx1"), strict=True):
        if path is None:
            raise ValueError(f"{folder} lacks {stem}-{kind}-ubyte[.gz]; put it there, or ask for the download")
    images, labels = (read_idx(path) for path in paths if path is not None)
    if images.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE):
        raise ValueError(f"{paths[0]} holds images of shape {images.shape[1:]}; MNIST's are (28, 28)")
    if labels.shape != (len(images),):
        raise ValueError(f"{paths[0]} has {len(images)} images but {paths[1]} has {labels.size} labels; get both again")
    if labels.size and labels.max() > 9:
        raise ValueError(f"{paths[1]} holds the label {labels.max()}; digits are 0 to 9")
    return images, labels.astype(np.int64)
