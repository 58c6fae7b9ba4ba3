"""ImageNet (ILSVRC 2012) for zero-shot classification.

On disk, as torchvision's ``ImageNet`` leaves it (its ``root``, or the same folders made by hand)::

    <root>/val/n01440764/….JPEG        <root>/train/n01440764/….JPEG

The published test labels are secret: the test split here is the folder ``val``, and there is no validation split, so
that nothing can be fitted on the images that are measured without saying so. Labels follow the sorted WordNet ids,
names are open_clip's, which are in that order; a copy with some of the classes is still classified among all 1,000.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from i0t.data.imagefolder import read_class_folders, split_folder
from i0t.data.labelled_images import LabelledImagesDataModule, LabelledSplit

KNOWN_IMAGES = {"train": 1_281_167, "test": 50_000}
NUM_CLASSES = 1_000


def openai_templates() -> list[str]:
    """The 80 templates of Radford et al. 2021, as open_clip ships them."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return _with_mark(OPENAI_IMAGENET_TEMPLATES)


def simple_templates() -> list[str]:
    """The best seven of them, by OpenAI's forward selection, as open_clip ships them."""
    from open_clip import SIMPLE_IMAGENET_TEMPLATES

    return _with_mark(SIMPLE_IMAGENET_TEMPLATES)


def _with_mark(templates: Sequence[Callable[[str], str]]) -> list[str]:
    return [template("{c}") for template in templates]


def class_names_by_folder() -> dict[str, str]:
    """Name of each class by its WordNet id, in label order."""
    # Heavy, and only needed when the data are read.
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data.imagenet_info import ImageNetInfo

    return dict(zip(ImageNetInfo("imagenet-1k").label_names(), IMAGENET_CLASSNAMES, strict=True))


class ImageNetDataModule(LabelledImagesDataModule):
    """ImageNet's training and validation images, the latter as the test split.

    Args:
        root: Folder of the data set.
        train_folder: Below ``root``; ``None``: there is no such split.
        test_folder: Likewise.
        templates: Prompts of a class; ``{c}`` stands for its name; ``None``: :func:`openai_templates`. See
            :class:`~i0t.data.labelled_images.LabelledImagesDataModule`, as for what follows.
        caption_template: The one text of a class.
        limit: Images of each split.
        eval_batch_size: Per device.
        num_workers: Of the data loaders.

    Raises:
        ValueError: See :class:`~i0t.data.labelled_images.LabelledImagesDataModule`.
    """

    name = "imagenet"

    def __init__(
        self,
        *,
        root: str,
        train_folder: str | None,
        test_folder: str | None,
        templates: Sequence[str] | None,
        caption_template: str,
        limit: int | None,
        eval_batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__(
            root=root,
            templates=openai_templates() if templates is None else templates,
            caption_template=caption_template,
            limit=limit,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
        )
        self.folders = {"train": train_folder, "val": None, "test": test_folder}

    def read_split(self, split: str) -> LabelledSplit:
        """Lists the folders of a split."""
        folder = split_folder(self.root, self.folders, split)
        known = (KNOWN_IMAGES[split], NUM_CLASSES)
        return read_class_folders(folder, class_names_by_folder(), known_counts=known)
