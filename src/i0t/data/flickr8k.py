"""Flickr8k (Hodosh et al. 2013): 8,000 photos with five captions each.

On disk, below ``root``:

    Flickr8k.token.txt  Flickr_8k.trainImages.txt  Flickr_8k.devImages.txt  Flickr_8k.testImages.txt
        directly or in Flickr8k_text/; or instead dataset_flickr8k.json of Karpathy, directly or in karpathy/ or
        annotations/ (the same split)
    Flicker8k_Dataset/*.jpg    or Flickr8k_Dataset/, Images/, images/, or directly
"""

from __future__ import annotations

from pathlib import Path

from i0t.data.caption_files import CaptionedImage, read_karpathy, read_lines, read_token_file
from i0t.data.photo_split import ImageFinder, PhotoSplit, annotation_file
from i0t.data.photos import PhotoDataModule

KNOWN_COUNTS = {"train": 6000, "val": 1000, "test": 1000}
_TOKEN_FILE = "Flickr8k.token.txt"
_LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}
_KARPATHY = "dataset_flickr8k.json"
_IMAGE_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images", "")


class Flickr8kDataModule(PhotoDataModule):
    """Flickr8k with the official split, from the official files or Karpathy's."""

    name = "flickr8k"

    def read_split(self, split: str, finder: ImageFinder) -> PhotoSplit:
        """The images that the split's list names, in its order."""
        places = [f"{folder}{_TOKEN_FILE}" for folder in ("", "Flickr8k_text/")]
        places += [f"{folder}{_KARPATHY}" for folder in ("", "karpathy/", "annotations/")]
        annotations = annotation_file(self.root, places)
        if annotations.name == _KARPATHY:
            images, files = read_karpathy(annotations).get(split, []), [annotations]
        else:
            listed = annotation_file(annotations.parent, [_LISTS[split]])
            images, files = _official(annotations, listed), [annotations, listed]
        folders = [self.root / folder for folder in _IMAGE_FOLDERS]
        return PhotoSplit(
            # One image is called <name>.jpg.1 in the official files and <name>.jpg on many disks.
            image_files=[finder.find(folders, [image.name, image.name.removesuffix(".1")]) for image in images],
            captions=[image.captions for image in images],
            image_ids=[image.image_id for image in images],
            annotation_files=files,
            known_count=KNOWN_COUNTS[split],
        )


def _official(token_file: Path, listed: Path) -> list[CaptionedImage]:
    captions = read_token_file(token_file)
    names = [line.strip() for line in read_lines(listed)]
    return [CaptionedImage(name, name.partition(".")[0], captions.get(name, [])) for name in names]
