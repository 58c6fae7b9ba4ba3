"""Birdsnap: 500 North American birds (Berg et al. 2014), in the layout of torchvision's ``ImageFolder``.

On disk::

    <root>/test/Acadian_Flycatcher/….jpg    <root>/train/Acadian_Flycatcher/….jpg

Classes are named after their folders. A list of names in another order than the folders' mislabels every image, and may
be why the I0T paper's figures for CLIP (5.94 %) lie so far below others' on these data.
"""

from __future__ import annotations

from collections.abc import Sequence

from i0t.data.imagefolder import read_class_folders, split_folder
from i0t.data.labelled_images import LabelledImagesDataModule, LabelledSplit

KNOWN_IMAGES = {"train": 47_386, "test": 2_443}
NUM_CLASSES = 500


class BirdsnapDataModule(LabelledImagesDataModule):
    """Birdsnap's training and test splits; there is no validation split.

    Its images were published as URLs, many of which are gone: a count other than the published one stands beside the
    numbers.

    Args:
        root: Folder of the data set.
        train_folder: Below ``root``; ``None``: there is no such split.
        test_folder: Likewise.
        templates: See :class:`~i0t.data.labelled_images.LabelledImagesDataModule`, as for what follows.
        caption_template: The one text of a class.
        limit: Images of each split.
        eval_batch_size: Per device.
        num_workers: Of the data loaders.

    Raises:
        ValueError: See :class:`~i0t.data.labelled_images.LabelledImagesDataModule`.
    """

    name = "birdsnap"

    def __init__(
        self,
        *,
        root: str,
        train_folder: str | None,
        test_folder: str | None,
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
        self.folders = {"train": train_folder, "val": None, "test": test_folder}

    def read_split(self, split: str) -> LabelledSplit:
        """Lists the folders of a split."""
        folder = split_folder(self.root, self.folders, split)
        return read_class_folders(folder, None, known_counts=(KNOWN_IMAGES[split], NUM_CLASSES))
