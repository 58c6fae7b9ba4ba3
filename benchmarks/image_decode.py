"""Reading photos beside plain open_clip: time and pixels, alternately, in one run.

    python benchmarks/image_decode.py                        # synthetic photos of the usual sizes
    python benchmarks/image_decode.py --folder PHOTOS        # the JPEGs of a folder

``plain`` is ``transform(Image.open(path).convert("RGB"))`` with open_clip's transform, ``i0t`` is ``ImageReader``. The
synthetic photos have structure on all scales, weaker the finer it is. Single-threaded, as in a loader's worker.
"""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import measure
import numpy as np
import open_clip.transform
import torch
from measure import Entry
from PIL import Image

from i0t.data.image_files import ImageReader

SIZES = ((500, 375), (640, 480), (1024, 683), (2250, 1500))
LEVELS = torch.tensor(open_clip.transform.OPENAI_DATASET_STD)[:, None, None] * 255


def synthetic_photo(size: tuple[int, int], seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    width, height = size
    pixels = np.zeros((height, width, 3))
    for cells, share in ((4, 0.4), (16, 0.25), (64, 0.2), (256, 0.1), (1024, 0.05)):
        coarse = Image.fromarray(rng.integers(0, 256, (min(cells, height), min(cells, width), 3), dtype=np.uint8))
        pixels += share * np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), float)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def plain(data: bytes, transform: object) -> torch.Tensor:
    return transform(Image.open(io.BytesIO(data)).convert("RGB"))  # type: ignore[operator]


def compare(name: str, photos: list[bytes], *, image_size: int, train: bool, rounds: int) -> Entry:
    """Milliseconds per photo of both, with the difference of their pixels."""
    transform = open_clip.transform.image_transform(image_size, is_train=train)
    reader = ImageReader(transform)
    differences = []
    for seed, data in enumerate(photos):
        torch.manual_seed(seed)
        reference = plain(data, transform)
        torch.manual_seed(seed)  # the same random crop
        differences.append(((reader.decode(data, name=name) - reference).abs() * LEVELS).mean().item())
    decode, read = partial(plain, transform=transform), partial(reader.decode, name=name)
    methods = {who: partial(read_all, method, photos) for who, method in (("ours", read), ("plain", decode))}
    times = measure.alternate(methods, rounds=rounds)
    per_photo = {who: [1e3 * seconds / len(photos) for seconds in taken] for who, taken in times.items()}
    return Entry(
        name=f"photos of {name}, {'training' if train else 'evaluation'}",
        unit="ms",
        ours=per_photo["ours"],
        peers={"PIL and open_clip's transform": per_photo["plain"]},
        note=f"one thread; pixels differ by {statistics.mean(differences):.2g} of 255 on average, "
        f"{max(differences):.2g} in the worst photo",
    )


def read_all(method: Callable[[bytes], object], photos: list[bytes]) -> None:
    for data in photos:
        method(data)


def main() -> None:
    parser = measure.parser(__doc__, rounds=7)
    parser.add_argument("--folder", type=Path, help="of *.jpg instead of synthetic photos")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--photos", type=int, default=16)
    arguments = measure.parse(parser, quick={"photos": 1, "rounds": 2})
    torch.set_num_threads(1)
    if arguments.folder is not None:
        files = sorted(arguments.folder.glob("*.jpg"))[: arguments.photos]
        sets = {arguments.folder.name: [path.read_bytes() for path in files]}
    else:
        sets = {
            f"{width} x {height}": [synthetic_photo((width, height), seed) for seed in range(arguments.photos)]
            for width, height in SIZES
        }
    entries = [
        compare(name, photos, image_size=arguments.image_size, train=train, rounds=arguments.rounds)
        for name, photos in sets.items()
        for train in (False, True)
    ]
    measure.finish(entries, arguments)


if __name__ == "__main__":
    main()
