"""CIFAR-100 (Krizhevsky 2009) for zero-shot classification, in torchvision's files.

On disk, with checksums that torchvision knows::

    <root>/cifar-100-python/train, test, meta
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from filelock import FileLock
from PIL import Image
from torch import Tensor
from torchvision.datasets import CIFAR100

from i0t.data.base import MissingSplitError
from i0t.data.image_files import ImageReader
from i0t.data.labelled_images import LabelledImagesDataModule, LabelledSplit

KNOWN_IMAGES = {"train": 50_000, "test": 10_000}
NUM_CLASSES = 100


class ImageArray:
    """Images in memory.

    Args:
        pixels: ``(N, H, W, 3)`` uint8.
    """

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, row: int) -> Image.Image:
        """An image."""
        return Image.fromarray(self.pixels[row])

    def transformed(self, row: int, reader: ImageReader) -> Tensor:
        """What the transform makes of it; there is nothing to decode."""
        return reader.transform(self.image(row))


class Cifar100DataModule(LabelledImagesDataModule):
    """CIFAR-100's training and test splits; there is no validation split.

    Args:
        root: Folder that holds ``cifar-100-python``.
        download: Let torchvision fetch the files where they are not there.
        templates: See :class:`~i0t.data.labelled_images.LabelledImagesDataModule`, as for what follows.
        caption_template: The one text of a class.
        limit: Images of each split.
        eval_batch_size: Per device.
        num_workers: Of the data loaders.

    Raises:
        ValueError: See :class:`~i0t.data.labelled_images.LabelledImagesDataModule`.
    """

    name = "cifar100"

    def __init__(
        self,
        *,
        root: str,
        download: bool,
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
        self.download = download

    def read_split(self, split: str) -> LabelledSplit:
        """Reads a split, after its checksums."""
        if split not in KNOWN_IMAGES:
            raise MissingSplitError(f"these data have no split {split!r}; choose one of {', '.join(KNOWN_IMAGES)}")
        try:
            data = self._open(split)
        except (RuntimeError, OSError) as error:
            raise ValueError(
                f"data.root={self.root} has no whole folder cifar-100-python ({error}); data.download=true fetches it"
            ) from error
        folder = self.root / data.base_folder
        return LabelledSplit(
            images=ImageArray(data.data),
            labels=np.array(data.targets, dtype=np.int64),
            class_names=[name.replace("_", " ") for name in data.classes],
            image_ids=[f"{split}/{row}" for row in range(len(data))],
            files=[folder / "meta", folder / split],
            known_counts=(KNOWN_IMAGES[split], NUM_CLASSES),
        )

    def _open(self, split: str) -> CIFAR100:
        if not self.download:
            return CIFAR100(str(self.root), train=split == "train")
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".cifar100.lock"):  # ranks and concurrent jobs
            return CIFAR100(str(self.root), train=split == "train", download=True)
