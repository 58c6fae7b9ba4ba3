"""Reading photos beside plain open_clip: time and pixels, alternately, in one run.

    python benchmarks/image_decode.py                        # synthetic photos of the usual sizes
    python benchmarks/image_decode.py --folder PHOTOS        # the JPEGs of a folder

``plain`` is ``transform(Image.open(path).convert("RGB"))`` with open_clip's transform, ``i0t`` is ``ImageReader``. The
synthetic photos have structure on all scales, weaker the finer it is. Single-threaded, as in a loader's worker.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from pathlib import Path

import numpy as np
import open_clip.transform
import torch
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


def compare(name: str, photos: list[bytes], *, image_size: int, train: bool, rounds: int) -> None:
    transform = open_clip.transform.image_transform(image_size, is_train=train)
    reader = ImageReader(transform)
    differences = []
    for seed, data in enumerate(photos):
        torch.manual_seed(seed)
        reference = plain(data, transform)
        torch.manual_seed(seed)  # the same random crop
        differences.append(((reader.decode(data, name=name) - reference).abs() * LEVELS).mean().item())
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        start = time.perf_counter()
        for data in photos:
            plain(data, transform)
        middle = time.perf_counter()
        for data in photos:
            reader.decode(data, name=name)
        times.append((middle - start, time.perf_counter() - middle))
    ratios = [ours / theirs for theirs, ours in times]
    per_photo = [1e3 * statistics.median(column) / len(photos) for column in zip(*times, strict=True)]
    print(
        f"{name:>22} {'train' if train else 'eval':>6} {per_photo[0]:9.2f} {per_photo[1]:9.2f} "
        f"{statistics.median(ratios):7.2f} ({min(ratios):.2f}-{max(ratios):.2f}) "
        f"{statistics.mean(differences):12.4f} {max(differences):9.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="of *.jpg instead of synthetic photos")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--photos", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = f"{'photos':>22} {'step':>6} {'plain ms':>9} {'i0t ms':>9} {'ratio (range)':>19}"
    print(f"{columns} {'mean diff/255':>13} {'worst':>8}")
    if arguments.folder is not None:
        files = sorted(arguments.folder.glob("*.jpg"))[: arguments.photos]
        sets = {arguments.folder.name: [path.read_bytes() for path in files]}
    else:
        sets = {
            f"{width} x {height}": [synthetic_photo((width, height), seed) for seed in range(arguments.photos)]
            for width, height in SIZES
        }
    for name, photos in sets.items():
        for train in (False, True):
            compare(name, photos, image_size=arguments.image_size, train=train, rounds=arguments.rounds)


if __name__ == "__main__":
    main()
