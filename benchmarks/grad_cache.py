"""A training step with gradient caching beside the same step without: memory, time, gradient.

    python benchmarks/grad_cache.py [--batch-size 64 --chunks 8 16 32 --rounds 3]

Towers of ViT-B/32's width and heads, four layers each (the ratio of activations to weights is what memory depends on),
random weights, 224-pixel images, texts of 77 tokens, open_clip's own forward pass and this project's loss. Times are
taken in turn in one process, peak memory in a process of each one's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import measure
import open_clip
import torch
from measure import Entry
from torch import Tensor, nn

from i0t.grad_cache import encode_in_chunks
from i0t.losses.clip import clip_loss

LAYERS, WIDTH, PIXELS, TOKENS = 4, 768, 224, 77
QUICK_LAYERS, QUICK_WIDTH, QUICK_PIXELS = 1, 64, 32
WHOLE = "the whole batch at once"


def build(quick: bool) -> nn.Module:
    layers, width, pixels = (QUICK_LAYERS, QUICK_WIDTH, QUICK_PIXELS) if quick else (LAYERS, WIDTH, PIXELS)
    torch.manual_seed(0)
    vision = {"image_size": pixels, "layers": layers, "width": width, "patch_size": 32, "head_width": 64}
    text = {"context_length": TOKENS, "vocab_size": 49408, "width": 64 if quick else 512, "heads": 1, "layers": layers}
    return open_clip.model.CLIP(embed_dim=512, vision_cfg=vision, text_cfg=text)


def make_batch(batch_size: int, quick: bool) -> tuple[Tensor, Tensor]:
    pixels = QUICK_PIXELS if quick else PIXELS
    return torch.randn(batch_size, 3, pixels, pixels), torch.randint(1, 49000, (batch_size, TOKENS))


def add_gradients(clip: nn.Module, images: Tensor, tokens: Tensor, chunk: int | None) -> None:
    """Loss and gradients, which add to what is there."""
    weights = list(clip.parameters())
    size = len(images) if chunk is None else chunk
    image = encode_in_chunks(lambda rows: clip.encode_image(rows, normalize=True), images, weights, chunk=size)
    text = encode_in_chunks(lambda rows: clip.encode_text(rows, normalize=True), tokens, weights, chunk=size)
    clip_loss(image, text, clip.logit_scale.exp())["loss"].backward()


def step(clip: nn.Module, images: Tensor, tokens: Tensor, chunk: int | None) -> None:
    """Gradients of one batch."""
    clip.zero_grad()
    add_gradients(clip, images, tokens, chunk)


def prepare(batch_size: int, chunk: int | None, quick: bool) -> Callable[[], None]:
    """In a process of its own, with gradients that are there already, as after the first step."""
    torch.set_num_threads(1)
    clip = build(quick)
    step(clip, *make_batch(2, quick), None)
    images, tokens = make_batch(batch_size, quick)
    return partial(add_gradients, clip, images, tokens, chunk)


def gradient_error(clip: nn.Module, images: Tensor, tokens: Tensor, chunk: int) -> float:
    """Largest difference of a gradient between both ways, relative to the largest gradient of that parameter."""
    found = []
    for size in (None, chunk):
        step(clip, images, tokens, size)
        found.append([parameter.grad.clone() for parameter in clip.parameters()])
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*found, strict=True))


def main() -> None:
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--chunks", type=int, nargs="+", default=(8, 16, 32))
    options = measure.parse(parser, quick={"batch_size": 8, "chunks": (2, 4), "rounds": 2})
    clip = build(options.quick)
    images, tokens = make_batch(options.batch_size, options.quick)
    methods: dict[str, Callable[[], object]] = {WHOLE: partial(step, clip, images, tokens, None)}
    for chunk in options.chunks:
        methods[str(chunk)] = partial(step, clip, images, tokens, chunk)
    times = measure.alternate(methods, rounds=options.rounds)
    whole = measure.peak_growth(prepare, options.batch_size, None, options.quick).mib
    entries = []
    for chunk in options.chunks:
        size = f"batch of {options.batch_size} in chunks of {chunk}"
        error = gradient_error(clip, images, tokens, chunk)
        entries += [
            Entry(
                name=f"step, {size}",
                unit="s",
                ours=times[str(chunk)],
                peers={WHOLE: times[WHOLE]},
                note=f"{torch.get_num_threads()} threads; largest relative difference of a gradient {error:.1e}",
            ),
            Entry(
                name=f"peak memory, {size}",
                unit="MiB",
                ours=[measure.peak_growth(prepare, options.batch_size, chunk, options.quick).mib],
                peers={WHOLE: [whole]},
                note="beyond weights, gradients and the batch; one more copy of the gradients included",
            ),
        ]
    measure.finish(entries, options)


if __name__ == "__main__":
    main()
