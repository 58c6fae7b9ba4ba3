"""Step time and peak memory of the options of speed and precision, each beside the plain step of the same model.

    python benchmarks/speed_options.py [--json FILE] [--rounds 3] [--models vit,rn50] [--batch 8]

Every option takes turns with the plain step in one process, round by round; memory is the peak of a process of its own,
above its imports.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from i0t.config import conf_dir
from i0t.losses.clip import clip_loss
from i0t.models.open_clip import OpenClip

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 6, "width": 768, "patch_size": 32},
        "text_cfg": TEXT,
    },
    "rn50": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 128, "layers": [3, 4, 6, 3], "width": 32, "patch_size": None},
        "text_cfg": TEXT,
    },
}
NAMES = {"vit": "ViT-B/32 of 6 layers, text of 2", "rn50": "RN50 of half the width, text of 2 layers"}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16-mixed": {"autocast": True},
    "channels_last": {"channels_last": True},
    "grad_checkpointing": {"grad_checkpointing": True},
    "lora": {"lora": {"rank": 8}},
    "fused AdamW": {"fused": True},
    "ema": {"ema": True},
    "compile": {"compile": True},
}
OF_MODEL = ("channels_last", "grad_checkpointing", "lora", "compile")


def build(kind: str, option: dict[str, Any], folder: Path) -> OpenClip:
    """A model with the shipped defaults and one option."""
    file = folder / f"bench-{kind}.json"
    file.write_text(json.dumps(ARCHITECTURES[kind]))
    node = OmegaConf.to_container(OmegaConf.load(conf_dir() / "model" / "open_clip.yaml"))
    assert isinstance(node, dict)
    arguments = {str(key): value for key, value in node.items() if key != "_target_"}
    of_model = {key: value for key, value in option.items() if key in OF_MODEL}
    torch.manual_seed(0)
    return OpenClip(**arguments | {"architecture": str(file), "pretrained": None} | of_model)


def make_step(kind: str, option: dict[str, Any], batch: int, folder: Path) -> Callable[[], None]:
    """A training step: towers, loss, gradients, AdamW, and the average of the weights where asked."""
    model = build(kind, option, folder).train()
    side = ARCHITECTURES[kind]["vision_cfg"]["image_size"]
    images = torch.randn(batch, 3, side, side)
    tokens = torch.randint(1, 49000, (batch, 77))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=bool(option.get("fused")))
    average: list[Tensor] = [p.detach().clone() for p in trained] if option.get("ema") else []

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bool(option.get("autocast"))):
            output = model(images, tokens)
            image = torch.nn.functional.normalize(output.image_features, dim=1)
            text = torch.nn.functional.normalize(output.text_features, dim=1)
            loss = clip_loss(image, text, output.logit_scale)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if average:
            torch._foreach_lerp_(average, [p.detach() for p in trained], 0.001)

    return step


def measure_times(kind: str, name: str, batch: int, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of a step with one option and without, in turns; two models at once, for each fills a gigabyte or two."""
    steps = {option: make_step(kind, OPTIONS[option], batch, folder) for option in ("plain", name)}
    for step in steps.values():
        step()
        step()
    seconds: dict[str, list[float]] = {option: [] for option in steps}
    for _ in range(rounds):
        for option, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[option].append(time.perf_counter() - start)
    return seconds


def measure_memory(kind: str, name: str, batch: int, folder: Path) -> float:
    """MiB above the imports that two steps need at their peak, in a process of its own."""
    command = [sys.executable, __file__, "--memory-of", kind, name, "--batch", str(batch), "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def peak_of(kind: str, name: str, batch: int, folder: Path) -> None:
    """Prints what :func:`measure_memory` reads."""
    before = peak_memory()
    step = make_step(kind, OPTIONS[name], batch, folder)
    step()
    step()
    print((peak_memory() - before) / 1024)


def peak_memory() -> int:
    """KiB; from /proc, for what ``getrusage`` reports begins with the parent's peak."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--models", default="vit,rn50")
    parser.add_argument("--options", default=",".join(name for name in OPTIONS if name != "plain"))
    parser.add_argument("--folder", type=Path, default=Path("outputs"))
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.memory_of:
        peak_of(*arguments.memory_of, arguments.batch, arguments.folder)
        return
    results: list[dict[str, Any]] = []
    for kind in arguments.models.split(","):
        refused = ["grad_checkpointing", "lora"] if kind == "rn50" else []
        if torch.backends.cpu.get_cpu_capability() == "AVX2":  # no bfloat16 instructions: a hundred times slower
            refused.append("bf16-mixed")
        options = [name for name in arguments.options.split(",") if name not in (*refused, "plain")]
        plain_memory = measure_memory(kind, "plain", arguments.batch, arguments.folder)
        note = f"{NAMES[kind]}, batch {arguments.batch}"
        for name in options:
            seconds = measure_times(kind, name, arguments.batch, arguments.rounds, arguments.folder)
            memory = measure_memory(kind, name, arguments.batch, arguments.folder)
            plain = {"time": seconds["plain"], "memory": [plain_memory]}
            for what, ours, unit in (("time", seconds[name], "s"), ("memory", [memory], "MiB")):
                label = f"{kind}: step {what} with {name}"
                results.append(
                    {"name": label, "unit": unit, "ours": ours, "peers": {"plain": plain[what]}, "note": note}
                )
                print(f"{label}: {median(ours):.3g} {unit}, {median(ours) / median(plain[what]):.2f} x plain")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
