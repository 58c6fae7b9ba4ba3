"""Composite (Aditya et al. 2015): ratings of human and machine captions of photos from Flickr8k, Flickr30k and COCO.

On disk, below ``root`` or in ``AMT_eval/`` below it, as the authors' archive ``AMT_eval.zip`` unpacks:

    8k_correctness.csv  30k_correctness.csv  coco_correctness.csv    (and …_throughness.csv, their second question)

They are Mechanical Turk's tables, cells separated by semicolons, of which the columns ``Input.image_url`` (the file's
name is its last part), ``Input.text1`` … and ``Answer.Q1Answer`` … are read: three captions of each image in ``8k``,
four in the others, rated from 1 to 5. The last lines have no image and are passed over, as by every public reader; so
are captions that are empty and unrated. Images and references are those of the three data sets, each in a folder of its
own as ``data=flickr8k``, ``data=flickr30k`` and ``data=coco`` expect it.

There are 3,995 images. Published correlations are mostly over 11,985 judgements (SPICE; CLIP-S: Hessel et al. 2021,
appendix A, with tau-c, the rated human caption taken out of the references), three of each image; which three of four
is not said.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from i0t.data.caption_files import CaptionedImage, read_coco, read_karpathy, read_token_file
from i0t.data.judged_captions import JudgedCaptionsDataModule
from i0t.data.judged_rows import (
    JudgedCaption,
    JudgedTable,
    Place,
    ReadRows,
    UnusableRow,
    read_rating,
    read_rows,
    without_candidates,
)
from i0t.data.photo_split import ImageFinder, annotation_file

KNOWN_JUDGEMENTS = 11_985
_KARPATHY_FOLDERS = ("", "karpathy/", "annotations/")
_YEARS = ("val2014", "train2014", "val2017", "train2017")


class _Part(NamedTuple):
    """A third of the data: which file, and what may stand where below the folder of its photos."""

    prefix: str
    option: str
    caption_files: tuple[str, ...]
    image_folders: tuple[str, ...]


_PARTS = (
    _Part(
        "8k",
        "flickr8k_root",
        (
            "Flickr8k.token.txt",
            "Flickr8k_text/Flickr8k.token.txt",
            *(f"{folder}dataset_flickr8k.json" for folder in _KARPATHY_FOLDERS),
        ),
        ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images", ""),
    ),
    _Part(
        "30k",
        "flickr30k_root",
        (*(f"{folder}dataset_flickr30k.json" for folder in _KARPATHY_FOLDERS), "results_20130124.token"),
        ("flickr30k-images", "flickr30k_images", "Images", "images", ""),
    ),
    _Part(
        "coco",
        "coco_root",
        (
            *(f"{folder}dataset_coco.json" for folder in _KARPATHY_FOLDERS),
            "annotations/captions_val2014.json",
            "captions_val2014.json",
        ),
        (*_YEARS, *(f"images/{year}" for year in _YEARS), "images", ""),
    ),
)


class _Row(NamedTuple):
    """An image with its rated captions."""

    place: Place
    image: str
    rated: tuple[tuple[str, float], ...]


class CompositeDataModule(JudgedCaptionsDataModule):
    """Composite's ratings, from 1 to 5; Kendall's tau-c is the usual one.

    Args:
        root: Folder of the tables.
        flickr8k_root: Folder of Flickr8k.
        flickr30k_root: Folder of Flickr30k.
        coco_root: Folder of COCO.
        question: Middle of the tables' names: ``correctness``, or ``throughness`` as the authors spell it.
        captions_per_image: The first so many rated captions of each line; ``None``: all (three or four).
        with_references: Read the data sets' own captions; without them their files need not be there.
        prompt_prefix: See :class:`~i0t.data.judged_captions.JudgedCaptionsDataModule`, as for what follows.
        max_caption_chars: Cut captions.
        only_present: Leave out rows whose images are missing.
        limit: Images.
        eval_batch_size: Per device.
        num_workers: Of the data loader.

    Raises:
        ValueError: If an option is out of range or rows cannot be used.
    """

    name = "composite"

    def __init__(
        self,
        *,
        root: str,
        flickr8k_root: str,
        flickr30k_root: str,
        coco_root: str,
        question: str,
        captions_per_image: int | None,
        with_references: bool,
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
        if captions_per_image is not None and captions_per_image < 1:
            raise ValueError(f"data.captions_per_image={captions_per_image} must be null or at least 1")
        self.root = Path(root).expanduser()
        roots = (flickr8k_root, flickr30k_root, coco_root)
        self.photo_roots = {part.option: Path(path).expanduser() for part, path in zip(_PARTS, roots, strict=True)}
        self.question = question
        self.captions_per_image = captions_per_image
        self.with_references = with_references

    def read_table(self, finder: ImageFinder) -> JudgedTable:
        """The three tables, one after the other."""
        captions: list[JudgedCaption] = []
        problems: dict[Place, str] = {}
        files, caption_files, num_rows = [], [], 0
        for part in _PARTS:
            name = f"{part.prefix}_{self.question}.csv"
            files.append(annotation_file(self.root, [name, f"AMT_eval/{name}"]))
            known: Mapping[str, Sequence[str]] | None = None
            if self.with_references:
                caption_file = _caption_file(self.photo_roots[part.option], part)
                known = _captions_by_stem(caption_file)
                caption_files.append(caption_file)
            read = _read_csv(files[-1], known, self.captions_per_image)
            captions += self._judged(part, read.values, known or {}, finder)
            problems |= read.problems
            num_rows += read.num_rows
        return JudgedTable(
            captions=captions,
            problems=problems,
            num_rows=num_rows,
            judgement_files=files,
            other_files=caption_files,
            headline="c",
            description=f"ratings of {self.question} from 1 to 5 (Mechanical Turk)",
            known_count=KNOWN_JUDGEMENTS,
            provenance={
                "num_rows": num_rows,
                "question": self.question,
                "captions_per_image": self.captions_per_image,
                "with_references": self.with_references,
            },
        )

    def _judged(
        self, part: _Part, rows: Sequence[_Row], known: Mapping[str, Sequence[str]], finder: ImageFinder
    ) -> list[JudgedCaption]:
        folders = [self.photo_roots[part.option] / folder for folder in part.image_folders]
        rated: dict[str, list[str]] = {}
        for row in rows:
            rated.setdefault(row.image, []).extend(text for text, _ in row.rated)
        references = {image: without_candidates(known.get(_stem(image), ()), texts) for image, texts in rated.items()}
        # COCO's release of 2017 has the same photos under shorter names.
        files = {image: finder.find(folders, [image, image.rpartition("_")[2]]) for image in rated}
        return [
            JudgedCaption(row.place, files[row.image], _stem(row.image), text, references[row.image], (rating,))
            for row in rows
            for text, rating in row.rated
        ]


def _caption_file(root: Path, part: _Part) -> Path:
    try:
        return annotation_file(root, part.caption_files)
    except ValueError as error:
        reason = str(error).replace("data.root", f"data.{part.option}")
        raise ValueError(f"{reason}; data.with_references=false scores without references") from error


def _captions_by_stem(path: Path) -> dict[str, Sequence[str]]:
    """The captions of a data set by the names of its images, without folder and ending."""
    images: list[CaptionedImage]
    if path.name.startswith("dataset_"):
        images = [image for split in read_karpathy(path).values() for image in split]
    elif path.suffix == ".json":
        images = read_coco(path)
    else:
        images = [CaptionedImage(name, name, captions) for name, captions in read_token_file(path).items()]
    return {_stem(image.name): image.captions for image in images}


def _stem(name: str) -> str:
    """The name of an image without folder and ending."""
    return name.rpartition("/")[2].partition(".")[0]


def _read_csv(path: Path, known: Mapping[str, Sequence[str]] | None, captions_per_image: int | None) -> ReadRows:
    try:
        text = path.read_text(encoding="utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";")
        rows = [(reader.line_num, row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    columns = reader.fieldnames or ()
    count = 0
    while f"Input.text{count + 1}" in columns and f"Answer.Q{count + 1}Answer" in columns:
        count += 1
    if "Input.image_url" not in columns or count == 0:
        raise ValueError(
            f"{path} has no columns Input.image_url, Input.text1 and Answer.Q1Answer: is it a table of AMT_eval, "
            "with cells separated by semicolons?"
        )
    with_image = [(number, row) for number, row in rows if (row["Input.image_url"] or "").strip()]
    if not with_image:
        raise ValueError(f"{path} has no rows")
    return read_rows(path.name, with_image, _parser(min(count, captions_per_image or count), known))


def _parser(
    num_captions: int, known: Mapping[str, Sequence[str]] | None
) -> Callable[[Place, Mapping[Any, str | None]], _Row]:
    """Of a line: its first captions, given the captions of all images where they are wanted."""

    def parse(place: Place, cells: Mapping[Any, str | None]) -> _Row:
        image = (cells["Input.image_url"] or "").strip().rpartition("/")[2]
        if known is not None and _stem(image) not in known:
            raise UnusableRow(f"the data set has no captions of {image}")
        # A semicolon in a caption would move ratings to other captions. (DictReader keeps surplus cells under None.)
        surplus: Any = cells.get(None, ())
        if None in cells.values() or any(cell.strip() for cell in surplus):
            raise UnusableRow("not as many cells as columns")
        rated = []
        for i in range(1, num_captions + 1):
            text, answer = (cells[f"Input.text{i}"] or "").strip(), cells[f"Answer.Q{i}Answer"] or ""
            if text:
                rated.append((text, read_rating(answer, low=1, high=5)))
            elif answer.strip():
                raise UnusableRow(f"Input.text{i} is empty, but rated")
        return _Row(place, image, tuple(rated))

    return parse
