"""ShareGPT4V (Chen et al. 2023): long captions, one per image, as Long-CLIP and I0T train on them.

On disk, below ``root``:

    share-captioner_coco_lcs_sam_1246k_1107.json     directly or in data/
    coco/train2017/*.jpg  sam/images/*.jpg  llava/…  as the JSON names them, directly or in data/ or images/

The I0T paper (arXiv 2412.14384, Section 4.1) takes the entries whose image path contains ``coco``, the first 1,000 of
them for validation and the rest for training. There is no test split: it is the validation split here, which is said
beside the numbers.
"""

from __future__ import annotations

from pathlib import Path

from i0t.data.caption_files import CaptionedImage, read_json, without_collection
from i0t.data.photo_split import ImageFinder, PhotoSplit, annotation_file
from i0t.data.photos import PhotoDataModule

NUM_VALIDATION = 1000


class ShareGpt4vDataModule(PhotoDataModule):
    """ShareGPT4V, or the part of it whose images are of one source.

    Args:
        annotations: Name of the JSON file.
        path_contains: Keep the entries whose image path contains this; ``None``: all.
        short_captions: Give training the first sentence of every caption too, for Long-CLIP's short branch.
        root: See :class:`~i0t.data.photos.PhotoDataModule`, as for what follows.
        captions_per_image: Of evaluation; there is one.
        prompt_prefix: Put before every caption.
        lowercase_first: Begin every caption in lower case.
        max_caption_chars: Cut captions.
        only_present: Use the images that are there.
        limit: Images per split.
        batch_size: Of training.
        eval_batch_size: Of evaluation.
        num_workers: Of the data loaders.
        train_seed: Of training.
    """

    name = "sharegpt4v"

    def __init__(
        self,
        *,
        annotations: str,
        path_contains: str | None,
        short_captions: bool,
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
        self.annotations = annotations
        self.path_contains = path_contains
        self.short_captions = short_captions

    def read_split(self, split: str, finder: ImageFinder) -> PhotoSplit:
        """The first 1,000 entries or all after them, in the order of the file."""
        file = annotation_file(self.root, [self.annotations, f"data/{self.annotations}"])
        entries = [one for one in _read(file) if self.path_contains is None or self.path_contains in one.name]
        if not entries:
            raise ValueError(f"{file}: no image path contains data.path_contains={self.path_contains!r}")
        images = entries[NUM_VALIDATION:] if split == "train" else entries[:NUM_VALIDATION]
        folders = [self.root, self.root / "data", self.root / "images"]
        return PhotoSplit(
            image_files=[finder.find(folders, [image.name]) for image in images],
            captions=[image.captions for image in images],
            image_ids=[image.image_id for image in images],
            annotation_files=[file],
            known_count=None if split == "train" else NUM_VALIDATION,
            same_images_as="val" if split == "test" else None,
            provenance={"path_contains": self.path_contains},
        )


@without_collection()
def _read(path: Path) -> list[CaptionedImage]:
    """The answer in each entry's conversation is its caption; line breaks become spaces, as in Long-CLIP."""
    try:
        return [
            CaptionedImage(entry["image"], entry["image"], [entry["conversations"][1]["value"].replace("\n", " ")])
            for entry in read_json(path)
        ]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a caption file of ShareGPT4V: an entry is not of the form "
            "{image, conversations: [question, {value: caption}]}"
        ) from error
