"""The samples of local tar shards by number: headers are read once, nothing is unpacked.

Shapes: N samples.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from webdataset.tariterators import group_by_keys

from i0t.data.photo_batches import PackedStrings
from i0t.data.shards import IMAGE_SUFFIXES, StrictTarInfo, UnreadableShard, UnusableSample, has_suffix, one_line


def image_suffix(sample: Mapping[str, Any]) -> str:
    """The suffix under which a sample has its image.

    Raises:
        UnusableSample: If it has none.
    """
    found = next((suffix for suffix in IMAGE_SUFFIXES if suffix in sample), None)
    if found is None:
        raise UnusableSample(f"{sample_name(sample)} has no image (.{', .'.join(IMAGE_SUFFIXES)})")
    return found


def read_caption(data: bytes | None, caption_field: str | None, *, name: str, suffix: str) -> str:
    """The caption of a sample.

    Args:
        data: Content of the caption's member; ``None`` where there is none.
        caption_field: Key of the caption in a JSON member; ``None``: the member is the caption.
        name: Of the sample, for the message.
        suffix: Of the member, for the message.

    Raises:
        UnusableSample: If there is no caption, it is empty, or it cannot be read.
    """
    if data is None:
        raise UnusableSample(f"{name} has no caption (.{suffix})")
    try:
        text = data.decode("utf-8") if caption_field is None else json.loads(data)[caption_field]
    except (KeyError, TypeError) as error:
        raise UnusableSample(f"{name}: .{suffix} has no field {caption_field!r}") from error
    except ValueError as error:
        raise UnusableSample(f"{name}: .{suffix} cannot be read ({error})") from error
    if not isinstance(text, str) or not text.strip():
        raise UnusableSample(f"{name} has an empty caption (.{suffix})")
    return text.strip()


def sample_name(sample: Mapping[str, Any]) -> str:
    """Shard and key of a sample, as messages name it."""
    return f"{sample['__url__']}: sample {sample['__key__']}"


class _Place(NamedTuple):
    """Where a member's content stands in its tar, in bytes."""

    offset: int
    size: int


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """N samples of local shards.

    Attributes:
        shards: The shards that were read.
        shard: ``(N,)`` int64, the shard of each sample.
        offset: ``(N,)`` int64, where its image begins, in bytes.
        size: ``(N,)`` int64, bytes of its image.
        captions: N captions.
        image_ids: ``<shard>/<key>`` of each sample.
    """

    shards: Sequence[Path]
    shard: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    captions: Sequence[str]
    image_ids: Sequence[str]

    def __len__(self) -> int:
        return len(self.shard)

    def read_image(self, row: int) -> tuple[bytes, str]:
        """The image of a sample as it stands in the shard, and what to call it in a message."""
        path = self.shards[self.shard[row]]
        with path.open("rb") as file:
            file.seek(self.offset[row])
            return file.read(self.size[row]), f"{self.image_ids[row]} in {path}"


def index_shards(
    shards: Sequence[Path], *, caption_key: str, caption_field: str | None, limit: int | None
) -> ShardIndex:
    """Finds every sample, and reads the captions.

    Args:
        shards: Uncompressed tars.
        caption_key: Suffix of the member with the caption.
        caption_field: See :func:`read_caption`.
        limit: Stop after so many samples; ``None``: all.

    Raises:
        UnreadableShard: If a shard is damaged, cut short or compressed.
        UnusableSample: If a sample has no image or no caption.
        ValueError: If there is no sample at all.
    """
    numbers: list[tuple[int, int, int]] = []
    captions: list[str] = []
    image_ids: list[str] = []
    read: list[Path] = []
    for at, path in enumerate(shards):
        if limit is not None and len(numbers) >= limit:
            break
        read.append(path)
        wanted = None if limit is None else limit - len(numbers)
        for key, image, caption in _index_shard(path, caption_key, caption_field, wanted):
            numbers.append((at, *image))
            captions.append(caption)
            image_ids.append(f"{path.stem}/{key}")
    if not numbers:
        raise ValueError(f"there is no sample in {', '.join(str(path) for path in read[:5])}")
    shard, offset, size = np.array(numbers, dtype=np.int64).T
    return ShardIndex(
        shards=read,
        shard=shard,
        offset=offset,
        size=size,
        captions=PackedStrings(captions),
        image_ids=PackedStrings(image_ids),
    )


def _index_shard(
    path: Path, caption_key: str, caption_field: str | None, wanted: int | None
) -> Iterator[tuple[str, _Place, str]]:
    """Key, place of the image, and caption of the first ``wanted`` samples of a shard."""
    with path.open("rb") as file:
        try:
            samples = list(islice(group_by_keys(_places(file, path, {*IMAGE_SUFFIXES, caption_key})), wanted))
        except (OSError, tarfile.TarError, ValueError) as error:
            raise UnreadableShard(
                f"cannot read shard {path}: {one_line(error)}; evaluation needs whole, uncompressed tars"
            ) from error
        for sample in samples:
            image = sample[image_suffix(sample)]
            content = _read(file, sample.get(caption_key))
            caption = read_caption(content, caption_field, name=sample_name(sample), suffix=caption_key)
            yield sample["__key__"], image, caption


def _places(file: BinaryIO, path: Path, suffixes: set[str]) -> Iterator[dict[str, Any]]:
    with tarfile.open(fileobj=file, mode="r:", tarinfo=StrictTarInfo) as tar:
        for member in tar:
            if member.isreg() and has_suffix(member.name, suffixes):
                yield {"fname": member.name, "data": _Place(member.offset_data, member.size), "__url__": str(path)}


def _read(file: BinaryIO, place: _Place | None) -> bytes | None:
    if place is None:
        return None
    file.seek(place.offset)
    return file.read(place.size)
