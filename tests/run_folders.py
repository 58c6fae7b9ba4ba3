"""Folders as runs leave them: finished, failed, killed, torn."""

import json
import random

import yaml

ABOUT = {
    "none": {"protocol": "none", "fit_split": None, "fit_samples": 0},
    "posthoc": {"protocol": "inductive", "fit_split": "train", "fit_samples": 12_000},
    "posthoc_test": {"protocol": "transductive", "fit_split": "test", "fit_samples": 2_000},
}


def write_run(
    folder, overrides, numbers=None, *, rows=ABOUT, split="test", data="mad", task="train", error=None, **more
):
    """A run that left ``numbers`` (row to name to number), or none; ``more`` stands in ``metrics.json`` as it is."""
    hydra = folder / ".hydra"
    hydra.mkdir(parents=True)
    (hydra / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    choices = {"data": data, "hydra/launcher": "basic"}
    node = {"job": {"config_name": task}, "runtime": {"choices": choices, "config_sources": []}}
    (hydra / "hydra.yaml").write_text(yaml.safe_dump({"hydra": node}))
    if error is not None:
        (folder / "error.txt").write_text(error + "\n")
    if numbers is None:
        return folder
    flat = {f"{split}/{row}/{name}": value for row, own in numbers.items() for name, value in own.items()}
    about = {"rows": {row: rows[row] for row in numbers if row in rows}, "data": {"data": data, "split": split}}
    (folder / "metrics.json").write_text(json.dumps({**flat, **about, **more}))
    return folder


def write_sweep_of_thirty(folder):
    """Five losses, two learning rates, three seeds; jobs 7 and 19 failed, the reason of 7 is a script."""
    draw = random.Random(0)
    number = 0
    for loss, gap in (("clip", 0.4), ("cyclip", 0.3), ("siglip", 0.55), ("cloob", 0.35), ("uniformity_alignment", 0.2)):
        for rate in ("0.001", "0.003"):
            for seed in range(3):
                overrides = [f"loss={loss}", f"optimizer.lr={rate}", f"seed={seed}", "+note='<b>5 > 4</b>'"]
                failed = {7: "the loss is NaN: <script>alert(1)</script>", 19: "OutOfMemoryError: 16 GiB"}.get(number)
                rows = None if failed else {row: _numbers(draw, gap * k) for row, k in (("none", 1), ("posthoc", 0.12))}
                if rows:
                    rows["posthoc_test"] = _numbers(draw, gap * 0.03)
                environment = {"i0t": "0.1.0", "command": "train.py -m loss=clip,cyclip"}
                write_run(folder / str(number), overrides, rows, error=failed, environment=environment)
                number += 1
    (folder / "multirun.yaml").write_text("hydra: {}\n")
    return folder


def _numbers(draw, gap):
    gap *= draw.uniform(0.85, 1.15)
    recall = 0.6 + 0.25 * gap + draw.gauss(0, 0.02)
    return {
        "gap/centroid_distance": gap,
        "gap/rmg": gap / 2,
        "gap/linear_separability": 0.5 + gap / 2,
        "gap/alignment": 1 + gap,
        "retrieval/i2t_r1": recall,
        "retrieval/t2i_r1": recall - 0.1,
        "retrieval/i2t_medr": float(draw.randint(1, 3)),
        "zeroshot/digit": 0.9 + draw.gauss(0, 0.01),
    }
