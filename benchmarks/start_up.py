"""How soon the command line answers, beside the imports that it could hide behind.

    python benchmarks/start_up.py [--rounds 5]

Every command is a process of its own: `train.py --help`, a mistyped option (exit code 2), the evaluation of a file of
embeddings, and the second evaluation of photos, whose embeddings are cached; in turn with `python -c "import torch"`
and `import open_clip`, which alone take most of the time that a training needs to start.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import measure
import numpy as np
from cached_evaluation import MODEL, make_coco
from measure import Entry

ROOT = Path(__file__).resolve().parents[1]
TORCH, OPEN_CLIP = 'python -c "import torch"', 'python -c "import open_clip"'
_USER_ERROR = 2
_WIDTH = 512


def run(arguments: list[str], folder: Path, env: Mapping[str, str], exit_code: int, expected: str) -> None:
    """Runs Python to its end, in a folder; a run makes one of its own below it.

    Raises:
        SystemExit: If the command does not end with this code, or does not say what it should.
    """
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=dict(env), capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode != exit_code or expected not in said:
        raise SystemExit(f"{arguments}: exit code {done.returncode}, not {exit_code} with {expected!r}:\n{said}")


def save_embeddings(path: Path, num_pairs: int) -> None:
    """Random pairs as two cones."""
    rng = np.random.default_rng(0)
    image, text = (rng.standard_normal((num_pairs, _WIDTH), dtype=np.float32) + shift for shift in (0.5, -0.5))
    np.savez(path, image=image, text=text, text_image_index=np.arange(num_pairs))


def main() -> None:
    parser = measure.parser(__doc__, rounds=5)
    parser.add_argument("--images", type=int, default=200, help="of the evaluations")
    options = measure.parse(parser, quick={"rounds": 1, "images": 30})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = {**os.environ, "I0T_CACHE_DIR": str(folder / "cache")}
        make_coco(folder / "coco", options.images)
        (folder / "small.json").write_text(json.dumps(MODEL))
        save_embeddings(folder / "pairs.npz", options.images)
        model = ["model=open_clip", f"model.architecture={folder / 'small.json'}", "model.pretrained=null"]
        photos = ["data=coco", "data.annotations=official_2017", f"data.root={folder / 'coco'}"]
        always = ["report=false"]
        evaluation, training = str(ROOT / "eval.py"), str(ROOT / "train.py")
        of_file = [evaluation, "data=embeddings", f"data.path={folder / 'pairs.npz'}", *always]
        cached = [evaluation, *model, *photos, *always]
        commands: dict[str, Callable[[], object]] = {
            "train.py --help": partial(run, [training, "--help"], folder, env, 0, "data"),
            "a mistyped option": partial(run, [training, "loss.smoothing=0"], folder, env, _USER_ERROR, "error"),
            "eval.py on a file of embeddings": partial(run, of_file, folder, env, 0, "R@1"),
            "eval.py on photos, second time": partial(run, cached, folder, env, 0, "R@1"),
            TORCH: partial(run, ["-c", "import torch"], folder, env, 0, ""),
            OPEN_CLIP: partial(run, ["-c", "import open_clip"], folder, env, 0, ""),
        }
        times = measure.alternate(commands, rounds=options.rounds)  # the warm-up is the first evaluation, which encodes
    peers = {peer: times.pop(peer) for peer in (TORCH, OPEN_CLIP)}
    targets = {"train.py --help": f"<= 1 of {TORCH}", "a mistyped option": f"<= 1 of {TORCH}"}
    note = f"{options.images:,} images in the evaluations, without report.html"
    entries = [
        Entry(name=command, unit="s", ours=taken, peers=peers, note=note, target=targets.get(command))
        for command, taken in times.items()
    ]
    measure.finish(entries, options)


if __name__ == "__main__":
    main()
