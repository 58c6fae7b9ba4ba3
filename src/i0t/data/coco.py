"""COCO captions (Chen et al. 2015): 123,287 photos with five captions or a few more each.

On disk, below ``root``:

    dataset_coco.json                       of Karpathy, directly or in karpathy/ or annotations/
    annotations/captions_{train,val}2014.json, annotations/captions_{train,val}2017.json    or directly
    train2014/COCO_train2014_*.jpg  val2014/COCO_val2014_*.jpg    directly or in images/
    train2017/*.jpg  val2017/*.jpg                                 directly or in images/; or all in images/

Either year's images do for either split: they are the same photos under shorter names.
"""

from __future__ import annotations

from i0t.data.caption_files import CaptionedImage, read_coco, read_karpathy
from i0t.data.photo_split import ImageFinder, PhotoSplit, annotation_file
from i0t.data.photos import PhotoDataModule

KNOWN_COUNTS = {
    "karpathy": {"train": 113_287, "val": 5000, "test": 5000},
    "official_2014": {"train": 82_783, "val": 40_504},
    "official_2017": {"train": 118_287, "val": 5000},
}
_KARPATHY = "dataset_coco.json"
_YEAR_FOLDERS = ("train2014", "val2014", "train2017", "val2017")


class CocoDataModule(PhotoDataModule):
    """COCO in Karpathy's split or an official one.

    The captions of the official test images are secret: with official annotations the test split is the validation
    split, which is said beside the numbers.

    Args:
        annotations: ``karpathy`` (his ``restval`` is part of train), ``official_2014`` or ``official_2017``.
        root: See :class:`~i0t.data.photos.PhotoDataModule`, as for what follows.
        captions_per_image: Of evaluation. Some images have six or seven captions; 5 is the usual protocol.
        prompt_prefix: Put before every caption.
        lowercase_first: Begin every caption in lower case.
        max_caption_chars: Cut captions.
        only_present: Use the images that are there.
        limit: Images per split.
        batch_size: Of training.
        eval_batch_size: Of evaluation.
        num_workers: Of the data loaders.
        train_seed: Of training.

    Raises:
        ValueError: If there are no such annotations.
    """

    name = "coco"

    def __init__(
        self,
        *,
        annotations: str,
        root: str,
        captions_per_image: int | None,
        prompt_prefix: str,
        lowercase_first: bool,
        max_caption_chars: int | None,
        only_present: bool,
        limit: int | None,
        batch_size: int,
        eval_batch_size: int,
        num_workers: int | None,
        train_seed: int,
    ) -> None:
        super().__init__(
            root=root,
            captions_per_image=captions_per_image,
            prompt_prefix=prompt_prefix,
            lowercase_first=lowercase_first,
            max_caption_chars=max_caption_chars,
            only_present=only_present,
            limit=limit,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            train_seed=train_seed,
        )
        if annotations not in KNOWN_COUNTS:
            raise ValueError(
                f"data.annotations={annotations!r} does not exist; choose one of {', '.join(KNOWN_COUNTS)}"
            )
        self.annotations = annotations

    def read_split(self, split: str, finder: ImageFinder) -> PhotoSplit:
        """The images of a split, in the order of the annotation file."""
        counts = KNOWN_COUNTS[self.annotations]
        existing = split if split in counts else "val"
        if self.annotations == "karpathy":
            file = annotation_file(self.root, [f"{folder}{_KARPATHY}" for folder in ("", "karpathy/", "annotations/")])
            images = read_karpathy(file).get(existing, [])
        else:
            name = f"captions_{existing}{self.annotations.removeprefix('official_')}.json"
            file = annotation_file(self.root, [f"annotations/{name}", name])
            images = read_coco(file)
        bases = [self.root, self.root / "images"]
        folders = [*bases, *(base / year for base in bases for year in _YEAR_FOLDERS)]
        return PhotoSplit(
            image_files=[finder.find(folders, _names(image)) for image in images],
            captions=[image.captions for image in images],
            image_ids=[image.image_id for image in images],
            annotation_files=[file],
            known_count=counts[existing],
            same_images_as=None if existing == split else existing,
            provenance={"split_of": self.annotations},
        )


def _names(image: CaptionedImage) -> list[str]:
    """What the file may be called: as annotated (with or without its folder), or as in the release of 2017 or 2014."""
    own = image.name.rpartition("/")[2]
    digits = own.rpartition("_")[2]
    return list(dict.fromkeys([image.name, own, digits, f"COCO_train2014_{digits}", f"COCO_val2014_{digits}"]))
