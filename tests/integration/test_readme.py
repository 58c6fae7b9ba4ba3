"""Every command of the README runs, as it stands there but small, in the order in which it stands."""

import json
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
SMALL_TOWERS = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
SMALL_RECIPE = [
    "trainer=cpu",
    "trainer.max_epochs=1",
    "scheduler.warmup_steps=1",
    "data.only_present=true",
    "data.limit=8",
    "data.batch_size=4",
    "evaluation=[gap,retrieval]",
    "report=false",
]


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def small(command):
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        return ["make", "-n", "-C", str(ROOT), *words[1:]]
    if words[0].startswith("i0t-"):
        return [str(Path(sys.executable).with_name(words[0])), *words[1:]]
    words[1] = str(ROOT / words[1])
    words = ["model.pretrained=null" if word == "model.pretrained=openai" else word for word in words]
    if "experiment=i0t_" in command:
        words += SMALL_RECIPE if "ckpt_path=" in command else [*SMALL_RECIPE, "model.architecture=small.json"]
    elif words[1].endswith("train.py"):
        words += small_training(command, words)
    if words[1].endswith("eval.py"):
        words += ["report=false"]
    if "evaluation=caption_score" in command:
        words += ["model.pretrained=null"]  # weights of the same size without a download
    if words[1].endswith("mad_supervised.py"):
        words += ["debug=tiny"]
    return [sys.executable, *words[1:]]


def small_training(command, words):
    """What makes a training, or each of many, small."""
    added = [] if any(word.startswith("resume=") for word in words) else list(SMALL)
    if "logger=" not in command and "resume=" not in command:
        added += ["logger=csv"]  # TensorBoard's pictures would take longer than the training
    if "-m" in words:
        added += ["data.captions=object_attribute_1", "seed=0"]
    if "sweep=" in command or "hparams_search=" in command:  # whose files go before debug=tiny
        added += ["trainer.max_steps=4", "trainer.val_check_interval=4"]
    if "hparams_search=" in command:
        added += ["hydra.sweeper.n_trials=2"]
    if "experiment=mad_entropy" in command:
        added += ["trainer.max_steps=6", "trainer.val_check_interval=3"]
    return added


def test_the_readme_is_short_and_its_commands_are_found():
    assert len(README.splitlines()) <= 200
    found = commands()
    assert "make train" in found
    assert "make test" in found
    programs = ("make", "python", "pytest", "git", "cd", "i0t-export", "i0t-reduce", "i0t-report", "i0t-tables")
    assert all(command.split()[0] in programs for command in found), found


@pytest.mark.slow
def test_every_command_of_the_readme_runs(tmp_path):
    """In one folder, one after the other: a later command may use what an earlier one left."""
    rng = np.random.default_rng(0)
    text = rng.normal(size=(40, 8))
    np.savez(tmp_path / "pairs.npz", image=text + 1, text=text, text_image_index=np.arange(40))
    make_flickr8k(tmp_path / "PHOTOS")
    make_sharegpt4v(tmp_path / "SHAREGPT4V")
    (tmp_path / "small.json").write_text(json.dumps(SMALL_TOWERS))
    row = {"image": "PHOTOS/images/test_0.jpg", "caption": "a photo", "references": ["photo 0"], "rating": 3}
    other = {"image": "PHOTOS/images/test_1.jpg", "caption": "a dog", "rating": 1}
    (tmp_path / "candidates.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(other)}\n")
    interrupted = None
    for command in commands():
        if command.split()[0] in ("git", "cd", "pytest"):
            continue
        if "resume=" in command:
            interrupted = leave_an_unfinished_run(tmp_path)
        words = [re.sub(r"outputs/(\w+)/RUN", lambda m: newest_run(tmp_path, m[1]), word) for word in small(command)]
        done = subprocess.run(
            words, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    assert interrupted is not None
    assert (interrupted / "metrics.json").exists()


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(import i0t\n.*?)```", README, flags=re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    none, posthoc = (line.split("|") for line in capsys.readouterr().out.splitlines()[2:4])
    assert (none[1].strip(), posthoc[1].strip()) == ("none", "posthoc")
    assert float(none[2]) > 1 > 0.1 > float(posthoc[2])
    assert Image.open("projection.png").size[0] > 300


def test_the_python_of_the_library_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(block, "library.md", "exec"), {})
    none, posthoc = (line.split("|") for line in capsys.readouterr().out.splitlines()[2:4])
    assert float(none[2]) > 1 > 0.6 > float(posthoc[2])
    assert posthoc[-2].strip() == "inductive: train, 100 images"
    assert {"projection.png", "posthoc.safetensors"} <= {path.name for path in tmp_path.iterdir()}


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


def make_sharegpt4v(folder):
    """The published thousand of validation, of which the first few are read, and a few to train on."""
    (folder / "coco").mkdir(parents=True)
    rng = np.random.default_rng(0)
    entries = []
    for i in range(1008):
        if i < 8 or i >= 1000:
            Image.fromarray(rng.integers(0, 255, size=(60, 80, 3), dtype=np.uint8)).save(folder / f"coco/{i}.jpg")
        turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": f"This is photo {i}. It is fine."}]
        entries.append({"id": str(i), "image": f"coco/{i}.jpg", "conversations": turns})
    (folder / "share-captioner_coco_lcs_sam_1246k_1107.json").write_text(json.dumps(entries))


def newest_run(folder, name):
    runs = sorted(folder.glob(f"outputs/{name}/*/metrics.json"))
    return str(runs[-1].parent.relative_to(folder)) if runs else f"outputs/{name}/RUN"


def leave_an_unfinished_run(folder):
    """A finished tiny run without its numbers is one that stopped after its last step."""
    run = folder / newest_run(folder, "mad")
    (run / "metrics.json").unlink()
    return run
