"""How soon the second evaluation of a data set prints its numbers, from the shell, at COCO's size.

Makes a COCO folder of small photos and a small model (so that the first evaluation, which encodes, takes a minute and
not hours), then runs ``eval.py`` with other reducers, each time as a process of its own, and notes when the first
number and when the last line appear. All after the encoder has the size of the real thing: 512 dimensions.

    python benchmarks/cached_evaluation.py                          # 5,000 images x 25,000 captions
    python benchmarks/cached_evaluation.py --images 1000 --rounds 5
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import measure
import numpy as np
from measure import Entry
from PIL import Image

EVAL = Path(__file__).resolve().parents[1] / "eval.py"
CAPTIONS_PER_IMAGE = 5
MODEL = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
WORDS = (
    "a",
    "the",
    "red",
    "small",
    "dog",
    "cat",
    "man",
    "woman",
    "street",
    "table",
    "sits",
    "stands",
    "runs",
    "on",
    "near",
)


class Times(NamedTuple):
    """Seconds from the start of a command."""

    first_number: float
    end: float


def make_coco(folder: Path, num_images: int) -> None:
    """``val2017`` photos of a few pixels, with captions of random words."""
    generator = np.random.default_rng(0)
    (folder / "val2017").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    for number in range(num_images):
        name = f"{number:012d}.jpg"
        pixels = generator.integers(0, 255, size=(4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 40)).save(folder / "val2017" / name)
        images.append({"id": number, "file_name": name})
        for _ in range(CAPTIONS_PER_IMAGE):
            caption = " ".join(generator.choice(WORDS, size=10))
            annotations.append({"id": len(annotations), "image_id": number, "caption": caption})
    content = {"images": images, "annotations": annotations}
    (folder / "annotations" / "captions_val2017.json").write_text(json.dumps(content))


def timed(arguments: list[str], folder: Path, env: dict[str, str]) -> Times:
    """Runs ``eval.py`` in a folder, below which the run makes its own, and reads its output as it comes."""
    start, first = time.perf_counter(), None
    process = subprocess.Popen(
        [sys.executable, str(EVAL), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=env,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if first is None and any(word in line for word in ("R@1", "centroid", "CD ")):
            first = time.perf_counter() - start
    if process.wait() or first is None:
        raise SystemExit("".join(lines))
    return Times(first, time.perf_counter() - start)


def main() -> None:
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--images", type=int, default=5000)
    options = measure.parse(parser, quick={"images": 30, "rounds": 1})
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_coco(root / "coco", options.images)
        (root / "small.json").write_text(json.dumps(MODEL))
        env = {**os.environ, "I0T_CACHE_DIR": str(root / "cache")}
        common = [
            "model=open_clip",
            f"model.architecture={root / 'small.json'}",
            "model.pretrained=null",
            "data=coco",
            "data.annotations=official_2017",
            f"data.root={root / 'coco'}",
            "report=false",
        ]
        encoding = timed(common, root, env)
        rows = ["gap_reducer=posthoc", "gap_reducer.fit_split=test", "compare=baseline"]
        cached = {
            n: [timed([*common, *more], root, env) for _ in range(options.rounds)] for n, more in ((2, rows), (1, []))
        }
    measure.finish(list(entries_of(encoding, cached, options.images)), options)


def entries_of(encoding: Times, cached: dict[int, list[Times]], num_images: int) -> Iterator[Entry]:
    """First number and last line of the evaluations that read the cache."""
    note = (
        f"{num_images:,} images, {num_images * CAPTIONS_PER_IMAGE:,} captions; encoding, the first evaluation printed "
        f"its first number after {encoding.first_number:.1f} s"
    )
    for num_rows, times in cached.items():
        rows = "1 row" if num_rows == 1 else f"{num_rows} rows"
        first, end = ([taken[part] for taken in times] for part in (0, 1))
        yield Entry(name=f"first number, cached, {rows}", unit="s", ours=first, note=note, target="<= 10 s")
        yield Entry(name=f"last line, cached, {rows}", unit="s", ours=end, note=note)


if __name__ == "__main__":
    main()
