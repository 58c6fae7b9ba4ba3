"""Flickr30k (Young et al. 2014): 31,014 photos with five captions each, in Karpathy's split.

On disk, below ``root``:

    dataset_flickr30k.json     directly or in karpathy/ or annotations/
    flickr30k-images/*.jpg     or flickr30k_images/, Images/, images/, or directly

Without Karpathy's file there is no split; with ``results_20130124.token`` alone the test split is all 31,783 images, as
in Long-CLIP's script. Its numbers are not comparable with those of the 1,000 test images, which is said beside them.
"""

from __future__ import annotations

from i0t.data.caption_files import CaptionedImage, read_karpathy, read_token_file
from i0t.data.photo_split import ImageFinder, PhotoSplit, annotation_file
from i0t.data.photos import PhotoDataModule

KNOWN_COUNTS = {"train": 29_000, "val": 1014, "test": 1000}
_KARPATHY = "dataset_flickr30k.json"
_TOKEN_FILE = "results_20130124.token"
_IMAGE_FOLDERS = ("flickr30k-images", "flickr30k_images", "Images", "images", "")


class Flickr30kDataModule(PhotoDataModule):
    """Flickr30k in Karpathy's split."""

    name = "flickr30k"

    def read_split(self, split: str, finder: ImageFinder) -> PhotoSplit:
        """The images of Karpathy's split, in the order of his file."""
        places = [f"{folder}{_KARPATHY}" for folder in ("", "karpathy/", "annotations/")]
        annotations = annotation_file(self.root, [*places, _TOKEN_FILE] if split == "test" else places)
        if annotations.name == _KARPATHY:
            images = read_karpathy(annotations).get(split, [])
        else:
            tokens = read_token_file(annotations)
            images = [CaptionedImage(name, name.partition(".")[0], captions) for name, captions in tokens.items()]
        folders = [self.root / folder for folder in _IMAGE_FOLDERS]
        return PhotoSplit(
            image_files=[finder.find(folders, [image.name]) for image in images],
            captions=[image.captions for image in images],
            image_ids=[image.image_id for image in images],
            annotation_files=[annotations],
            known_count=KNOWN_COUNTS[split],
        )
