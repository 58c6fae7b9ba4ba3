"""nocaps (Agrawal et al. 2019): 4,500 photos of Open Images with ten captions each, to measure on.

On disk, below ``root``:

    nocaps_val_4500_captions.json     directly or in annotations/
    val/*.jpg                         or validation/, images/, images/val/, or directly; <open_images_id>.jpg

The captions of the test images are secret: the test split is the validation split, which is said beside the numbers.
There is no training split.
"""

from __future__ import annotations

from i0t.data.base import MissingSplitError
from i0t.data.caption_files import read_coco
from i0t.data.photo_split import ImageFinder, PhotoSplit, annotation_file
from i0t.data.photos import PhotoDataModule

KNOWN_COUNT = 4500
_ANNOTATIONS = "nocaps_val_4500_captions.json"
_IMAGE_FOLDERS = ("val", "validation", "images", "images/val", "")


class NocapsDataModule(PhotoDataModule):
    """The validation images of nocaps."""

    name = "nocaps"

    def read_split(self, split: str, finder: ImageFinder) -> PhotoSplit:
        """The validation images, in the order of the annotation file."""
        if split == "train":
            raise MissingSplitError(
                "nocaps has no training split: train or fit on another data set, or fit on val, which is transductive"
            )
        file = annotation_file(self.root, [_ANNOTATIONS, f"annotations/{_ANNOTATIONS}"])
        images = read_coco(file)
        folders = [self.root / folder for folder in _IMAGE_FOLDERS]
        return PhotoSplit(
            image_files=[finder.find(folders, [image.name]) for image in images],
            captions=[image.captions for image in images],
            image_ids=[image.image_id for image in images],
            annotation_files=[file],
            known_count=KNOWN_COUNT,
            same_images_as=None if split == "val" else "val",
        )
