"""What Flickr8k's two files of human judgements share.

On disk, below ``root`` (the folder of ``data=flickr8k``):

    ExpertAnnotations.txt  CrowdFlowerAnnotations.txt  Flickr8k.token.txt    directly or in Flickr8k_text/
    Flicker8k_Dataset/*.jpg    or Flickr8k_Dataset/, Images/, images/, or directly

A line is ``<image><tab><image of the caption>#<its number><tab><judgements …>``: all captions are Flickr8k's own, most
of them of other images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from i0t.data.judged_captions import JudgedCaptionsDataModule
from i0t.data.judged_rows import (
    JudgedCaption,
    JudgedTable,
    Place,
    UnusableRow,
    numbered_lines,
    read_rows,
    without_candidates,
)
from i0t.data.photo_split import ImageFinder, annotation_file

_TOKEN_FILE = "Flickr8k.token.txt"
_TEXT_FOLDERS = ("", "Flickr8k_text/")
_IMAGE_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images", "")
_CELLS = 5
NumberedCaptions = dict[str, dict[str, str]]  # image to number to caption


class _Row(NamedTuple):
    place: Place
    image: str
    of_image: str
    caption: str
    ratings: tuple[float, ...]


class Flickr8kJudgementsDataModule(JudgedCaptionsDataModule):
    """Judgements of Flickr8k's captions; a subclass says what stands in a line.

    References are the image's own five captions, without those that are judged themselves.

    Args:
        root: Folder of Flickr8k.
        self_pairs: Keep the captions that were written for the very image they are judged with.
        prompt_prefix: See :class:`~i0t.data.judged_captions.JudgedCaptionsDataModule`, as for what follows.
        max_caption_chars: Cut captions.
        only_present: Leave out rows whose images are missing.
        limit: Images.
        eval_batch_size: Per device.
        num_workers: Of the data loader.

    Raises:
        ValueError: If rows cannot be used.
    """

    annotations: str
    """The file of judgements."""

    known_rows: int
    """Its lines as published."""

    headline: str
    """Kendall's tau that is usual for it."""

    scale: str
    """Whose judgements on what scale."""

    fit_data = "flickr8k"

    def __init__(
        self,
        *,
        root: str,
        self_pairs: bool,
        prompt_prefix: str,
        max_caption_chars: int | None,
        only_present: bool,
        limit: int | None,
        eval_batch_size: int,
        num_workers: int,
    ) -> None:
        super().__init__(
            prompt_prefix=prompt_prefix,
            max_caption_chars=max_caption_chars,
            only_present=only_present,
            limit=limit,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
        )
        self.root = Path(root).expanduser()
        self.self_pairs = self_pairs

    def read_ratings(self, cells: Sequence[str]) -> tuple[float, ...]:
        """The ratings of a line.

        Args:
            cells: Its three last cells.

        Raises:
            UnusableRow: If they are not of this format.
        """
        raise NotImplementedError

    def known_count(self) -> int | None:
        """Judged captions that the published file leaves, or ``None``."""
        return None

    def read_table(self, finder: ImageFinder) -> JudgedTable:
        """Every line of the file of judgements, without self pairs if they are to be left out."""
        file = annotation_file(self.root, [f"{folder}{self.annotations}" for folder in _TEXT_FOLDERS])
        token_file = annotation_file(self.root, [f"{folder}{_TOKEN_FILE}" for folder in _TEXT_FOLDERS])
        captions = read_numbered_captions(token_file)
        read = read_rows(file.name, numbered_lines(file), _parser(captions, self.read_ratings))
        rows: list[_Row] = read.values
        used = [row for row in rows if self.self_pairs or row.image != row.of_image]
        num_self = sum(row.image == row.of_image for row in rows)
        kept = "kept" if self.self_pairs else "left out"
        return JudgedTable(
            captions=self._judged(used, captions, finder),
            problems=read.problems,
            num_rows=read.num_rows,
            judgement_files=[file],
            other_files=[token_file],
            headline=self.headline,
            description=f"{self.scale}; {num_self:,} captions judged with their own image {kept}",
            known_count=self.known_count(),
            warnings=self._row_warnings(file, read.num_rows),
            provenance={"num_rows": read.num_rows, "self_pairs": num_self, "self_pairs_kept": self.self_pairs},
        )

    def _judged(self, rows: Sequence[_Row], captions: NumberedCaptions, finder: ImageFinder) -> list[JudgedCaption]:
        by_image: dict[str, list[str]] = {}
        for row in rows:
            by_image.setdefault(row.image, []).append(row.caption)
        references = {image: without_candidates(captions[image].values(), judged) for image, judged in by_image.items()}
        folders = [self.root / folder for folder in _IMAGE_FOLDERS]
        # One image is called <name>.jpg.1 in the official files and <name>.jpg on many disks.
        files = {image: finder.find(folders, [image, image.removesuffix(".1")]) for image in by_image}
        return [
            JudgedCaption(
                row.place,
                files[row.image],
                row.image.partition(".")[0],
                row.caption,
                references[row.image],
                row.ratings,
            )
            for row in rows
        ]

    def _row_warnings(self, file: Path, num_rows: int) -> list[str]:
        if num_rows == self.known_rows:
            return []
        return [
            f"{self.name}: {file.name} has {num_rows:,} rows, where the official file has {self.known_rows:,}: "
            "correlations are not quite the published ones"
        ]


def read_numbered_captions(path: Path) -> NumberedCaptions:
    """Flickr's captions by image and number.

    Raises:
        ValueError: If the file cannot be read, or a line is not of this format.
    """
    captions: NumberedCaptions = {}
    for line_number, line in numbered_lines(path):
        caption_id, _, caption = line.strip().partition("\t")
        image, _, number = caption_id.rpartition("#")
        if not image or not caption.strip():
            raise ValueError(f"{path}, line {line_number}: expected <image>#<number><tab><caption>, got {line[:80]!r}")
        captions.setdefault(image, {})[number] = caption
    return captions


def _parser(
    captions: NumberedCaptions, read_ratings: Callable[[Sequence[str]], tuple[float, ...]]
) -> Callable[[Place, str], _Row]:
    """Of a line, given all captions of each image."""

    def parse(place: Place, line: str) -> _Row:
        cells = line.strip().split("\t")
        if len(cells) != _CELLS:
            raise UnusableRow(f"{len(cells)} cells where there should be {_CELLS}, separated by tabs")
        image, caption_id = cells[:2]
        of_image, _, number = caption_id.rpartition("#")
        if image not in captions:
            raise UnusableRow(f"{_TOKEN_FILE} has no image {image}")
        if number not in captions.get(of_image, ()):
            raise UnusableRow(f"{_TOKEN_FILE} has no caption {caption_id}")
        return _Row(place, image, of_image, captions[of_image][number], read_ratings(cells[2:]))

    return parse
