"""Every command of the README runs, as it stands there but small, in the order in which it stands."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What makes a command small. `make` only shows what it would run: CI runs `make test`, and the slow suite the
# default `python train.py`.
SMALL = ["debug=tiny", "report=false"]


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def small(command):
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        return ["make", "-n", "-C", str(ROOT), *words[1:]]
    if words[0] == "i0t-reduce":
        return [str(Path(sys.executable).with_name("i0t-reduce")), *words[1:]]
    words[1] = str(ROOT / words[1])
    if words[1].endswith("train.py"):
        words += SMALL if not any(w.startswith("resume=") for w in words) else []
        if "-m" in words:
            words += ["data.captions=object_attribute_1", "seed=0"]
    if words[1].endswith("eval.py"):
        # Weights of the same size without a download.
        words = ["model.pretrained=null" if word == "model.pretrained=openai" else word for word in words]
        words += ["report=false"]
    if words[1].endswith("mad_generation.py"):
        words += ["--digits", "4", "--reference-digits", "1", "--rounds", "1", "--workers", "0"]
    if words[1].endswith("mad_supervised.py"):
        words += ["debug=tiny"]
    return [sys.executable, *words[1:]]


def test_the_readme_is_short_and_its_commands_are_found():
    assert len(README.splitlines()) <= 200
    found = commands()
    assert "make train" in found
    assert "make test" in found
    assert all(command.split()[0] in ("make", "python", "pytest", "git", "cd", "i0t-reduce") for command in found), (
        found
    )


@pytest.mark.slow
def test_every_command_of_the_readme_runs(tmp_path):
    """In one folder, one after the other: a later command may use what an earlier one left."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(40, 8))
    np.savez(tmp_path / "pairs.npz", image=text + 1, text=text, text_image_index=np.arange(40))
    make_flickr8k(tmp_path / "PHOTOS")
    interrupted = None
    for command in commands():
        if command.split()[0] in ("git", "cd", "pytest"):
            continue
        if "resume=" in command:
            interrupted = leave_an_unfinished_run(tmp_path)
        words = [word.replace("RUN", newest_run(tmp_path)) for word in small(command)]
        done = subprocess.run(
            words, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert interrupted is not None
    assert (interrupted / "metrics.json").exists()


def test_the_python_of_the_readme_runs(capsys):
    (block,) = re.findall(r"```python\nimport torch\n(.*?)```", README, flags=re.DOTALL)
    exec(compile("import torch\n" + block, "README.md", "exec"), {})
    assert 0 <= float(capsys.readouterr().out.strip().removeprefix("tensor(").removesuffix(")")) < 0.1


def make_flickr8k(folder):
    """Twelve photos a split, under Flickr8k's names."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    tokens = []
    for split in ("train", "dev", "test"):
        names = [f"{split}_{i}.jpg" for i in range(12)]
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names))
        for name in names:
            Image.fromarray(rng.integers(0, 255, size=(60, 80, 3), dtype=np.uint8)).save(folder / "images" / name)
            tokens += [f"{name}#{i}\tphoto {name} caption {i}" for i in range(5)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(tokens))


def newest_run(folder):
    runs = sorted(folder.glob("outputs/mad/*/metrics.json"))
    return runs[-1].parent.name if runs else "RUN"


def leave_an_unfinished_run(folder):
    """A finished tiny run without its numbers is one that stopped after its last step."""
    run = folder / "outputs" / "mad" / newest_run(folder)
    (run / "metrics.json").unlink()
    return run
