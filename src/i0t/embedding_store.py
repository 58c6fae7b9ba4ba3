"""EmbeddingSets on disk: memory-mapped safetensors shards and a small JSON.

A folder holds ``shard-00000.safetensors``, … (some images each, with the texts that are theirs), ``rest.safetensors``
(pairs, labels, groups, prompt tables, texts that belong to no single image) and ``index.json``, written last: a folder
without it is unfinished.

Shapes: N images, M texts, D embedding width; B images and T texts of a shard.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from i0t import __version__
from i0t.embeddings import EmbeddingSet, PromptTable
from i0t.features import Features
from i0t.judgements import Judgements

FORMAT = 2
INDEX_FILE = "index.json"
REST_FILE = "rest.safetensors"
SHARD_IMAGES = 1024  # rows of a shard: what one process encodes, and encodes again after an interruption


class DamagedSetError(ValueError):
    """A folder that does not hold a whole set: cut short, or written by another version."""


def shard_file(number: int) -> str:
    """The name of a shard."""
    return f"shard-{number:05d}.safetensors"


def save_set(embeddings: EmbeddingSet, folder: str | Path) -> None:
    """Writes a set; a folder that has one is replaced.

    Args:
        embeddings: Any set.
        folder: Made where it does not exist.
    """
    folder = Path(folder)
    (folder / INDEX_FILE).unlink(missing_ok=True)
    owner = _owner_of_texts(embeddings)
    for number, start in enumerate(range(0, embeddings.num_images, SHARD_IMAGES)):
        sample_id = torch.arange(start, min(start + SHARD_IMAGES, embeddings.num_images))
        text_id = ((owner >= start) & (owner < start + SHARD_IMAGES)).nonzero().flatten()
        image, text = embeddings.image_features[sample_id], embeddings.text_features[text_id]
        write_shard(folder, number, Features(image, text, sample_id, text_id))
    loose = (owner < 0).nonzero().flatten()
    write_index(folder, embeddings, loose_texts=(embeddings.text_features[loose], loose))


def _owner_of_texts(embeddings: EmbeddingSet) -> Tensor:
    """``(M,)``: the image whose shard holds a text; -1 for texts of no or several images."""
    owner = torch.full((embeddings.num_texts,), -1, dtype=torch.int64)
    if embeddings.has_one_image_per_text:
        owner = embeddings.text_image_index.cpu()
    return owner


def write_shard(folder: Path, number: int, shard: Features) -> None:
    """Writes one shard whole or not at all."""
    _write_tensors(folder / shard_file(number), shard._asdict())


def read_shard(folder: Path, number: int) -> Features:
    """Maps one shard.

    Raises:
        DamagedSetError: If it is missing, cut short or not a shard.
    """
    return Features(**_read_tensors(folder / shard_file(number), Features._fields))


def write_index(folder: Path, embeddings: EmbeddingSet, *, loose_texts: tuple[Tensor, Tensor]) -> None:
    """Writes everything of a set but its shards, ``index.json`` last.

    Args:
        folder: Holds the shards already.
        embeddings: The whole set; of its features only the shapes are used.
        loose_texts: Features ``(L, D)`` and rows ``(L,)`` of the texts that stand in no shard.
    """
    tensors = {"pairs": embeddings.pairs, "loose_features": loose_texts[0], "loose_id": loose_texts[1]}
    tensors |= {f"labels/{name}": label for name, label in embeddings.labels.items()}
    for key in ("relevant_pairs", "groups"):
        if (value := getattr(embeddings, key)) is not None:
            tensors[key] = value
    for name, table in embeddings.prompts.items():
        tensors |= {f"prompts/{name}/features": table.features, f"prompts/{name}/mask": table.mask}
    if embeddings.judgements is not None:
        tensors |= {f"judgements/{name}": part for name, part in embeddings.judgements.tensors().items()}
    _write_tensors(folder / REST_FILE, tensors)
    files = [shard_file(number) for number in range(num_shards(embeddings.num_images))] + [REST_FILE]
    index = {
        "format": FORMAT,
        "i0t": __version__,
        "num_images": embeddings.num_images,
        "num_texts": embeddings.num_texts,
        "dim": embeddings.dim,
        "files": {name: [(folder / name).stat().st_size, _checksum(folder / name)] for name in files},
        "logit_scale": embeddings.logit_scale,
        "logit_bias": embeddings.logit_bias,
        "image_ids": embeddings.image_ids,
        "captions": embeddings.captions,
        "class_names": {name: list(names) for name, names in embeddings.class_names.items()},
        "prompts": {
            name: {"class_names": t.class_names, "aggregate": t.aggregate, "description": t.description}
            for name, t in embeddings.prompts.items()
        },
        "judgements": None if embeddings.judgements is None else embeddings.judgements.about(),
        "provenance": dict(embeddings.provenance),
    }
    aside = folder / f".{INDEX_FILE}.{os.getpid()}"
    aside.write_text(json.dumps(index), encoding="utf-8")
    aside.replace(folder / INDEX_FILE)


def num_shards(num_images: int) -> int:
    """How many shards a set of so many images has."""
    return -(-num_images // SHARD_IMAGES)


def rows_of_shard(number: int, num_images: int) -> range:
    """The images of a shard."""
    return range(number * SHARD_IMAGES, min((number + 1) * SHARD_IMAGES, num_images))


def shard_of_row(image_row: int) -> int:
    """The shard of an image."""
    return image_row // SHARD_IMAGES


def load_set(folder: str | Path, *, verify: bool = False) -> EmbeddingSet:
    """Reads a set; a single shard stays memory-mapped, several are joined.

    Args:
        folder: What :func:`save_set` wrote.
        verify: Read every byte and compare checksums; else only the sizes of the files are looked at.

    Raises:
        DamagedSetError: If the folder holds no whole set of this version.
    """
    folder = Path(folder)
    index = _read_index(folder)
    damaged = [name for name, stated in index["files"].items() if not _is_as_stated(folder / name, stated, verify)]
    if damaged:
        raise DamagedSetError(f"{folder / damaged[0]} is not the file that {INDEX_FILE} names: cut short or changed")
    rest = _read_tensors(folder / REST_FILE, ("pairs", "loose_features", "loose_id"))
    shards = [read_shard(folder, number) for number in range(num_shards(index["num_images"]))]
    loose = (rest["loose_features"], rest["loose_id"])
    try:
        image = _in_order([(s.image_features, s.sample_id) for s in shards], index["num_images"])
        text = _in_order([*((s.text_features, s.text_id) for s in shards), loose], index["num_texts"])
        return EmbeddingSet(
            image_features=image,
            text_features=text,
            pairs=rest["pairs"],
            relevant_pairs=rest.get("relevant_pairs"),
            logit_scale=index["logit_scale"],
            logit_bias=index["logit_bias"],
            labels={name: rest[f"labels/{name}"] for name in _names_under(rest, "labels/")},
            class_names={name: tuple(names) for name, names in index["class_names"].items()},
            groups=rest.get("groups"),
            image_ids=_as_tuple(index["image_ids"]),
            captions=_as_tuple(index["captions"]),
            prompts={name: _prompt_table(name, about, rest) for name, about in index["prompts"].items()},
            judgements=_judgements(index["judgements"], rest),
            provenance=index["provenance"],
        )
    except (KeyError, TypeError, RuntimeError, IndexError, AttributeError, ValueError) as error:
        raise DamagedSetError(f"{folder} does not hold a whole set ({type(error).__name__}: {error})") from error


def _read_index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX_FILE
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedSetError(f"{folder} holds no set of embeddings (no readable {INDEX_FILE})") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT or not isinstance(index.get("files"), dict):
        raise DamagedSetError(f"{path} is not of format {FORMAT}, which i0t {__version__} reads")
    return index


def _checksum(path: Path) -> str:
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def _is_as_stated(path: Path, stated: Sequence[Any], verify: bool) -> bool:
    """Whether a file has the size, and with ``verify`` the bytes, that the index states."""
    if not path.is_file() or path.stat().st_size != stated[0]:
        return False
    return not verify or _checksum(path) == stated[1]


def drop_damaged(folder: Path) -> None:
    """Makes a set that cannot be read an unfinished one: what is left of it can be trusted.

    Files that are not what ``index.json`` states are deleted, all of them if it cannot be read; then the index.
    Without an index nothing is deleted: an interrupted run left whole shards.
    """
    if not (folder / INDEX_FILE).exists():
        return
    try:
        stated = _read_index(folder)["files"]
    except DamagedSetError:
        stated = {}
    for path in folder.glob("*.safetensors"):
        if path.name not in stated or not _is_as_stated(path, stated[path.name], verify=True):
            path.unlink()
    (folder / INDEX_FILE).unlink()


def _in_order(parts: Sequence[tuple[Tensor, Tensor]], num_rows: int) -> Tensor:
    """Rows of all parts at their places; a row that several ranks encoded counts once.

    Raises:
        DamagedSetError: If a row is in no part.
    """
    parts = [(features, rows) for features, rows in parts if len(rows)]
    first, rows = parts[0]
    if len(parts) == 1 and torch.equal(rows, torch.arange(num_rows)):
        return first  # memory-mapped
    joined = first.new_empty(num_rows, first.shape[1])
    seen = torch.zeros(num_rows, dtype=torch.bool)
    for features, rows in parts:
        joined[rows] = features
        seen[rows] = True
    if not bool(seen.all()):
        raise DamagedSetError(f"{int((~seen).sum())} of {num_rows} rows are in no shard")
    return joined


def _names_under(tensors: Mapping[str, Tensor], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in tensors if name.startswith(prefix)]


def _as_tuple(values: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def _prompt_table(name: str, about: Mapping[str, Any], rest: Mapping[str, Tensor]) -> PromptTable:
    return PromptTable(
        features=rest[f"prompts/{name}/features"],
        mask=rest[f"prompts/{name}/mask"],
        class_names=tuple(about["class_names"]),
        aggregate=about["aggregate"],
        description=about["description"],
    )


def _judgements(about: dict[str, Any] | None, rest: Mapping[str, Tensor]) -> Judgements | None:
    if about is None:
        return None
    prefix = "judgements/"
    return Judgements.restored({n.removeprefix(prefix): t for n, t in rest.items() if n.startswith(prefix)}, about)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, aside)
    aside.replace(path)


def _read_tensors(path: Path, required: Sequence[str]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (OSError, SafetensorError) as error:
        raise DamagedSetError(f"{path} cannot be read: {error}") from error
    missing = [name for name in required if name not in tensors]
    if missing:
        raise DamagedSetError(f"{path} has no tensor {missing[0]!r}")
    return tensors
