"""Training on tar shards: samples per second of one worker beside webdataset and open_clip's loader, in turn.

    python benchmarks/shard_stream.py                      # photos as img2dataset stores them for CLIP, 256 pixels high
    python benchmarks/shard_stream.py --height 512 --json FILE

``read`` takes samples out of the shards through the shuffle buffer, encoded; ``train`` decodes, crops, tokenizes and
makes batches. The peers are open_clip's pipeline of the webdataset package as its training script builds it, with the
same transform and tokenizer. One process, one thread: what one worker of a loader does; processor time, as the shards
are in memory and a plan needs to know how many cores it takes. Also the time to the first
batch of a stream that is entered in the middle of a shard, as a resumed run does, beside one from the beginning.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import measure
import numpy as np
import open_clip
import torch
import webdataset as wds
from image_decode import synthetic_photo

from i0t.data.shard_batches import StreamedBatches
from i0t.data.shard_positions import Position, StreamProgress
from i0t.data.shard_stream import ShardStream
from i0t.data.skipped import SkippedSamples

CAPTION = "a photo of a harbour with white boats in front of a row of painted houses"


def write_shards(folder: Path, *, shards: int, samples: int, height: int) -> float:
    """Writes shards of synthetic photos; returns the mean bytes of one sample in the tar."""
    photos = [synthetic_photo((height * 4 // 3, height), seed) for seed in range(16)]
    for shard in range(shards):
        with wds.TarWriter(str(folder / f"{shard:05d}.tar")) as tar:
            for number in range(samples):
                tar.write({"__key__": f"{shard:05d}{number:04d}", "jpg": photos[number % 16], "txt": CAPTION})
    return sum(file.stat().st_size for file in folder.glob("*.tar")) / (shards * samples)


def stream(folder: Path, buffer: int) -> ShardStream:
    """Ours, begun."""
    source = ShardStream(
        [str(path) for path in sorted(folder.glob("*.tar"))],
        suffixes={"jpg", "txt"},
        shuffle_buffer=buffer,
        seed=0,
        resampled=False,
        skipped=SkippedSamples(0),
    )
    source.begin(StreamProgress(num_workers=0, shuffle_buffer=buffer))
    return source


def batches(source: ShardStream, size: int, transform: Any, tokenizer: Any) -> StreamedBatches:
    """Ours, ready to train on."""
    return StreamedBatches(
        source,
        batch_size=size,
        caption_key="txt",
        caption_field=None,
        caption_part="full",
        transform=transform,
        tokenizer=tokenizer,
        skipped=SkippedSamples(0),
    )


def peer(folder: Path, buffer: int, size: int | None, transform: Any, tokenizer: Any) -> Iterable[Any]:
    """open_clip's stages for training; without a size those up to the shuffle buffer."""
    stages = [
        wds.ResampledShards([str(path) for path in sorted(folder.glob("*.tar"))]),
        wds.tarfile_to_samples(),
        wds.shuffle(bufsize=buffer, initial=buffer),
    ]
    if size is not None:
        stages += [
            wds.decode("pilrgb"),
            wds.rename(image="jpg", text="txt"),
            wds.map_dict(image=transform, text=lambda text: tokenizer([text])[0]),
            wds.to_tuple("image", "text"),
            wds.batched(size, partial=False),
        ]
    return wds.DataPipeline(*stages)


def rate(items: Iterable[Any], count: int, each: int) -> float:
    """Samples per second of a core, after the first item: filling the buffer is measured by itself."""
    iterator = iter(items)
    next(iterator)
    start = time.process_time()
    for _ in islice(iterator, count):
        pass
    return count * each / (time.process_time() - start)


def enter(folder: Path, options: argparse.Namespace, transform: Any, tokenizer: Any, sample: int) -> float:
    """Processor time to the first batch of a stream that goes on behind so many samples of its first shard."""
    source = stream(folder, options.buffer)
    source._positions = [Position(0, sample, options.buffer // 2 if sample else 0, 0)]
    start = time.process_time()
    next(iter(batches(source, options.batch_size, transform, tokenizer)))
    return time.process_time() - start


def entries(folder: Path, size_in_tar: float, options: argparse.Namespace) -> list[measure.Entry]:
    transform = open_clip.transform.image_transform(224, is_train=True)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    each, count = options.batch_size, options.batches
    reading = measure.alternate(
        {
            "ours": lambda: rate(stream(folder, options.buffer), 4 * count * each, 1),
            "open_clip's webdataset pipeline": lambda: rate(
                peer(folder, options.buffer, None, transform, tokenizer), 4 * count * each, 1
            ),
        },
        rounds=options.rounds,
        timed=False,
    )
    training = measure.alternate(
        {
            "ours": lambda: rate(batches(stream(folder, options.buffer), each, transform, tokenizer), count, each),
            "open_clip's webdataset pipeline": lambda: rate(
                peer(folder, options.buffer, each, transform, tokenizer), count, each
            ),
        },
        rounds=options.rounds,
        timed=False,
    )
    entering = measure.alternate(
        {
            "ours": lambda: enter(folder, options, transform, tokenizer, options.samples - options.buffer),
            "from the beginning of a shard": lambda: enter(folder, options, transform, tokenizer, 0),
        },
        rounds=options.rounds,
        timed=False,
    )
    photos = f"{options.height} pixels high, {size_in_tar / 1000:.1f} kB in the tar"
    found = [
        ("read samples from shards", "samples/core-second", reading, f"encoded, {photos}"),
        ("samples to train on", "samples/core-second", training, f"decoded, cropped to 224, tokenized; {photos}"),
        (
            "first batch of a resumed stream",
            "core-seconds",
            entering,
            f"entered at the end of a shard of {options.samples:,}",
        ),
    ]
    return [
        measure.Entry(name=name, unit=unit, ours=numbers.pop("ours"), peers=numbers, note=note)
        for name, unit, numbers, note in found
    ]


def main() -> None:
    options = measure.parser(__doc__, rounds=5)
    options.add_argument("--height", type=int, default=256, help="of the photos, in pixels")
    options.add_argument("--shards", type=int, default=3)
    options.add_argument("--samples", type=int, default=2000, help="of a shard")
    options.add_argument("--buffer", type=int, default=500, help="shuffle buffer")
    options.add_argument("--batch-size", type=int, default=32)
    options.add_argument("--batches", type=int, default=16, help="timed in a round")
    chosen = measure.parse(options, quick={"rounds": 1, "shards": 2, "samples": 80, "buffer": 20, "batches": 2})
    torch.set_num_threads(1)
    np.random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        size = write_shards(Path(folder), shards=chosen.shards, samples=chosen.samples, height=chosen.height)
        measure.finish(entries(Path(folder), size, chosen), chosen)


if __name__ == "__main__":
    main()
