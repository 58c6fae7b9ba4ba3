"""Step time and peak memory of the options of speed and precision, each beside the plain step of the same model.

    python benchmarks/speed_options.py [--rounds 3] [--models vit rn50] [--batch 8]

Every option takes turns with the plain step in one process, round by round; memory is the peak of a process of its own,
above its imports.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import torch
from measure import Entry
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
_DEFAULT = tuple(name for name in OPTIONS if name != "plain")
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


def prepare(kind: str, name: str, batch: int, folder: Path) -> Callable[[], None]:
    """In a process of its own: building the model and two steps, the second of which has optimizer states."""

    def run() -> None:
        step = make_step(kind, OPTIONS[name], batch, folder)
        step()
        step()

    return run


def options_of(kind: str, asked: list[str]) -> list[str]:
    """Those that the model takes, and that this processor can do in reasonable time."""
    refused = ["grad_checkpointing", "lora"] if kind == "rn50" else []
    if torch.backends.cpu.get_cpu_capability() == "AVX2":  # no bfloat16 instructions: a hundred times slower
        refused.append("bf16-mixed")
    return [name for name in asked if name not in refused]


def measure_model(kind: str, options: argparse.Namespace, folder: Path) -> list[Entry]:
    """Time and memory of each option beside the plain step; two models at once, for each fills a gigabyte or two."""
    plain_memory = measure.peak_growth(prepare, kind, "plain", options.batch, folder).mib
    entries = []
    for name in options_of(kind, options.options):
        steps = {given: make_step(kind, OPTIONS[given], options.batch, folder) for given in ("plain", name)}
        times = measure.alternate(steps, rounds=options.rounds, warm_up=2)
        memory = measure.peak_growth(prepare, kind, name, options.batch, folder).mib
        for what, unit, ours, plain in (
            ("time", "s", times[name], times["plain"]),
            ("memory", "MiB", [memory], [plain_memory]),
        ):
            entries.append(
                Entry(
                    name=f"{kind}: step {what} with {name}",
                    unit=unit,
                    ours=ours,
                    peers={"plain step": plain},
                    note=f"{NAMES[kind]}, batch {options.batch}",
                )
            )
    return entries


def main() -> None:
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=tuple(ARCHITECTURES))
    parser.add_argument("--options", nargs="+", choices=_DEFAULT, default=_DEFAULT)
    quick = {"batch": 2, "models": ("rn50",), "options": ("fused AdamW",), "rounds": 1}
    options = measure.parse(parser, quick=quick)
    with tempfile.TemporaryDirectory() as folder:
        entries = [entry for kind in options.models for entry in measure_model(kind, options, Path(folder))]
    measure.finish(entries, options)


if __name__ == "__main__":
    main()
