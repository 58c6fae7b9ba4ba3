"""PASCAL-50S (Vedantam et al. 2015, CIDEr): of two captions of a photo, the one that most people find nearer to it.

On disk, below ``root``:

    pyCIDErConsensus/pair_pascal.mat  pyCIDErConsensus/consensus_pascal.mat    or directly
    images/*.jpg    or JPEGImages/, VOC2010/JPEGImages/, VOCdevkit/VOC2010/JPEGImages/, or directly

``pair_pascal.mat`` has ``new_input``, an entry (image, caption A, caption B) for each of 4,000 pairs of captions of
1,000 images, and ``category``, 1 to 4: both human and right (HC), both human and one of another image (HI), one human
and one of a machine (HM), both of machines (MM). ``consensus_pascal.mat`` has ``triplets``: for each pair, in the same
order, 48 entries (reference, B, C, vote), a vote of 1 being for B and any other for C; the captions need not stand in
the order of the pair. The majority of the 48 wins. A tie is broken at random, and metrics are given five of the
references, drawn at random, as in CLIP-S (Hessel et al. 2021) and PAC-S, which average over five draws: run several
seeds.

Shapes: Q pairs.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from i0t.data.judged_captions import JudgedCaptionsDataModule
from i0t.data.judged_rows import JudgedCaption, JudgedTable, Place, UnusableRow, read_rows
from i0t.data.photo_split import ImageFinder, annotation_file

CATEGORIES = ("HC", "HI", "HM", "MM")
KNOWN_PAIRS = 4000
_FOLDERS = ("", "pyCIDErConsensus/")
_IMAGE_FOLDERS = ("images", "JPEGImages", "VOC2010/JPEGImages", "VOCdevkit/VOC2010/JPEGImages", "Images", "")


# What scipy raises for a damaged file, and for MATLAB's format 7.3.
_READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    IndexError,
    EOFError,
    NotImplementedError,
    MatReadError,
    zlib.error,
)


class _Pair(NamedTuple):
    """Two captions of an image.

    Attributes:
        place: Its entry in the file of pairs.
        image: File name.
        captions: Two.
        category: Index into :data:`CATEGORIES`.
        votes: For each of the two.
        references: One for each vote.
    """

    place: Place
    image: str
    captions: tuple[str, str]
    category: int
    votes: tuple[int, int]
    references: tuple[str, ...]


class Pascal50sDataModule(JudgedCaptionsDataModule):
    """PASCAL-50S: pairs of captions with the one that people prefer, and no ratings.

    Args:
        root: Folder of the data set.
        num_references: How many of the 48 references each pair gets; ``None``: all.
        seed: Of the draw of references and of the winners of ties.
        prompt_prefix: See :class:`~i0t.data.judged_captions.JudgedCaptionsDataModule`, as for what follows.
        max_caption_chars: Cut captions.
        only_present: Leave out pairs whose images are missing.
        limit: Images.
        eval_batch_size: Per device.
        num_workers: Of the data loader.

    Raises:
        ValueError: If an option is out of range or pairs cannot be used.
    """

    name = "pascal50s"

    def __init__(
        self,
        *,
        root: str,
        num_references: int | None,
        seed: int,
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
        if num_references is not None and num_references < 1:
            raise ValueError(f"data.num_references={num_references} must be null or at least 1")
        self.root = Path(root).expanduser()
        self.num_references = num_references
        self.seed = seed

    def read_table(self, finder: ImageFinder) -> JudgedTable:
        """Every pair, as two judged captions and a preference."""
        pair_file = annotation_file(self.root, [f"{folder}pair_pascal.mat" for folder in _FOLDERS])
        vote_file = annotation_file(self.root, [f"{folder}consensus_pascal.mat" for folder in _FOLDERS])
        entries = _read_entries(pair_file, vote_file)
        read = read_rows(pair_file.name, enumerate(entries, start=1), _parse)
        pairs: list[_Pair] = read.values
        folders = [self.root / folder for folder in _IMAGE_FOLDERS]
        captions = [
            JudgedCaption(pair.place, finder.find(folders, [pair.image]), Path(pair.image).stem, text, references, ())
            for pair in pairs
            for references in [self._drawn(pair)]
            for text in pair.captions
        ]
        num_ties = sum(pair.votes[0] == pair.votes[1] for pair in pairs)
        return JudgedTable(
            captions=captions,
            problems=read.problems,
            num_rows=read.num_rows,
            judgement_files=[pair_file],
            other_files=[vote_file],
            preferences=self._preferences(pairs),
            category_names=CATEGORIES,
            row_noun="pair",
            description=f"the majority of 48 votes on which of two captions is nearer; {num_ties:,} ties broken at "
            f"random, {'all' if self.num_references is None else self.num_references} references, seed {self.seed}",
            known_count=2 * KNOWN_PAIRS,
            provenance={"num_references": self.num_references, "seed": self.seed, "num_ties": num_ties},
        )

    def _drawn(self, pair: _Pair) -> tuple[str, ...]:
        """The references of a pair; the draw depends on the seed and the pair alone."""
        available = len(pair.references)
        if self.num_references is None:
            return pair.references
        if self.num_references > available:
            raise ValueError(f"data.num_references={self.num_references}, but pairs have {available} references")
        generator = np.random.default_rng([self.seed, pair.place.row, 0])
        return tuple(pair.references[i] for i in generator.permutation(available)[: self.num_references])

    def _preferences(self, pairs: Sequence[_Pair]) -> np.ndarray:
        """``(Q, 3)`` int64: preferred caption, other caption, category."""
        rows = []
        for number, pair in enumerate(pairs):
            winner = int(pair.votes[1] > pair.votes[0])
            if pair.votes[0] == pair.votes[1]:
                winner = int(np.random.default_rng([self.seed, pair.place.row, 1]).integers(2))
            rows.append((2 * number + winner, 2 * number + 1 - winner, pair.category))
        return np.array(rows, dtype=np.int64).reshape(-1, 3)


class _Entry(NamedTuple):
    pair: Any
    category: Any
    triplets: np.ndarray


def _read_entries(pair_file: Path, vote_file: Path) -> list[_Entry]:
    """Every pair with its category and its votes, as scipy reads them."""
    pairs, categories = _read_mat(pair_file, ("new_input", "category"))
    (triplets,) = _read_mat(vote_file, ("triplets",))
    if len(pairs) == 0:
        raise ValueError(f"{pair_file} has no rows")
    if len(categories) != len(pairs) or len(triplets) == 0 or len(triplets) % len(pairs) != 0:
        raise ValueError(
            f"{pair_file.name} has {len(pairs):,} pairs with {len(categories):,} categories, and {vote_file.name} "
            f"{len(triplets):,} votes: there must be a category and equally many votes for each pair"
        )
    each = np.split(triplets, len(pairs))
    return [_Entry(*entry) for entry in zip(pairs, categories, each, strict=True)]


def _read_mat(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Flat arrays of a MATLAB file."""
    try:
        content: Mapping[str, np.ndarray] = loadmat(str(path), variable_names=names)
    except _READ_ERRORS as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    missing = [name for name in names if name not in content]
    if missing:
        raise ValueError(f"{path} has no {' and no '.join(missing)}")
    return [content[name].ravel() for name in names]


def _parse(place: Place, entry: _Entry) -> _Pair:
    image, first, second = (_text(value) for value in _cells(entry.pair, 3))
    category = int(_unwrapped(entry.category)) - 1
    if not 0 <= category < len(CATEGORIES):
        raise UnusableRow(f"category {category + 1} is not 1 to {len(CATEGORIES)}")
    voted, references = [], []
    for triplet in entry.triplets:
        reference, b, c, vote = _cells(triplet, 4)
        references.append(_text(reference))
        voted.append(_text(b) if _unwrapped(vote) == 1 else _text(c))
    strangers = [text for text in voted if text not in (first, second)]
    if strangers:
        raise UnusableRow(f"{len(strangers)} votes are for {strangers[0]!r}, which is neither of its captions")
    return _Pair(place, image, (first, second), category, (voted.count(first), voted.count(second)), tuple(references))


def _cells(entry: Any, number: int) -> list[Any]:
    """The parts of a struct or of a cell array."""
    cells = list(entry.item() if isinstance(entry, np.void) else np.ravel(entry))
    if len(cells) != number:
        raise UnusableRow(f"{len(cells)} parts where there should be {number}")
    return cells


def _unwrapped(value: Any) -> Any:
    """What stands in cells within cells."""
    while isinstance(value, np.ndarray):
        if value.size != 1:
            raise UnusableRow(f"{value.size} values where there should be one")
        value = value.flat[0]
    return value


def _text(value: Any) -> str:
    text = _unwrapped(value)
    if not isinstance(text, str) or not text.strip():
        raise UnusableRow(f"'{text}' is not a text")
    return text.strip()
