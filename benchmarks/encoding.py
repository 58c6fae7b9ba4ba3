"""Encoding throughput: into our cache of embeddings, beside a plain open_clip loop over the same photos and captions.

    python benchmarks/encoding.py [--sizes 32 64 128 --rounds 3 --architecture ViT-B-32]

Ours is what the first evaluation of a data set does: read and check the data, hash weights and files, encode in the
trainer, write shards, read them back. The plain loop is a DataLoader with as many workers that decodes, transforms and
tokenizes with open_clip, and keeps the features in memory. Weights are random, as time does not depend on them; both
must find the same features.
"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import measure
import open_clip
import torch
from image_decode import synthetic_photo
from measure import Entry
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from i0t.config import compose, instantiate, to_container
from i0t.embedding_cache import EmbeddingCache
from i0t.embeddings import EmbeddingSet
from i0t.encode import encode_texts
from i0t.engine.encoder import Encoder
from i0t.engine.loading import build_encoder

PHOTO_SIZE = (640, 480)
NUM_DRAWN = 16  # different photos; the others are copies
BATCH = 32
WORKERS = 2
CAPTION = "photo number {} of a person in a dark coat who crosses a wet street between two parked cars"
PLAIN = "plain open_clip loop"
SMALL = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


class PlainPhotos(Dataset[tuple[Tensor, Tensor]]):
    """Transformed images with tokens, as a user of open_clip would read them.

    Args:
        files: Photos.
        captions: One each; none for images alone.
        transform: Of a PIL image.
        tokenizer: Of a text.
    """

    def __init__(self, files: Sequence[Path], captions: Sequence[str], transform: Any, tokenizer: Any) -> None:
        self.files, self.captions, self.transform, self.tokenizer = files, captions, transform, tokenizer

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        tokens = self.tokenizer(self.captions[row])[0] if self.captions else torch.empty(0)
        return self.transform(Image.open(self.files[row]).convert("RGB")), tokens


class PlainLoop:
    """What a user of open_clip would write.

    Args:
        clip: An open_clip model.
    """

    def __init__(self, clip: Any) -> None:
        self.clip = clip.eval()
        config = open_clip.transform.PreprocessCfg(**clip.visual.preprocess_cfg)
        self.transform = open_clip.transform.image_transform_v2(config, is_train=False)
        self.tokenizer = open_clip.SimpleTokenizer(context_length=clip.context_length)

    @torch.inference_mode()
    def photos(self, files: Sequence[Path], captions: Sequence[str]) -> list[Tensor]:
        """Image features ``(N, D)``, and text features ``(N, D)`` where there are captions."""
        images, texts = [], []
        dataset = PlainPhotos(files, captions, self.transform, self.tokenizer)
        for pixels, tokens in DataLoader(dataset, batch_size=BATCH, num_workers=WORKERS):
            images.append(self.clip.encode_image(pixels))
            if captions:
                texts.append(self.clip.encode_text(tokens))
        return [torch.cat(part) for part in (images, texts) if part]

    @torch.inference_mode()
    def texts(self, captions: Sequence[str]) -> Tensor:
        """Text features ``(N, D)``."""
        parts = [captions[i : i + BATCH] for i in range(0, len(captions), BATCH)]
        return torch.cat([self.clip.encode_text(self.tokenizer(part)) for part in parts])


def into_cache(built: Encoder, node: dict[str, Any]) -> EmbeddingSet:
    """Encodes the test split into a new cache."""
    encoder = Encoder(built.trainer, built.module, built.writer)  # a new one hashes the weights, as every command does
    datamodule = instantiate(node)
    datamodule.prepare_data()
    encoder.bind(datamodule)
    request = {"model": None, "data": node, "split": "test"}
    with tempfile.TemporaryDirectory() as folder:
        return encoder.into_cache(EmbeddingCache(folder), datamodule, "test", request)


def make_photos(root: Path, num_photos: int) -> list[Path]:
    """Photos below ``val2017/`` with COCO's annotations, and a folder of class folders with the same ones."""
    for name in ("val2017", "annotations", "test/first", "test/second"):
        (root / name).mkdir(parents=True)
    drawn = [synthetic_photo(PHOTO_SIZE, seed) for seed in range(min(NUM_DRAWN, num_photos))]
    files = [root / "val2017" / f"{number:012d}.jpg" for number in range(num_photos)]
    for number, file in enumerate(files):
        file.write_bytes(drawn[number % len(drawn)])
        half = "first" if 2 * number < num_photos else "second"
        (root / "test" / half / file.name).write_bytes(drawn[number % len(drawn)])
    images = [{"id": number, "file_name": file.name} for number, file in enumerate(files)]
    captions = [{"id": n, "image_id": n, "caption": CAPTION.format(n)} for n in range(num_photos)]
    content = json.dumps({"images": images, "annotations": captions})
    (root / "annotations" / "captions_val2017.json").write_text(content)
    return files


def settings(root: Path, architecture: str, *, data: Sequence[str]) -> Any:
    """The config of an evaluation."""
    return compose(
        "eval",
        [
            *("model=open_clip", f"model.architecture={architecture}", "model.pretrained=null"),
            *data,
            f"data.root={root}",
            f"data.eval_batch_size={BATCH}",
            f"data.num_workers={WORKERS}",
            "trainer.enable_progress_bar=false",
            f"paths.output_dir={root}/run",
        ],
    )


def check(found: Tensor, expected: Tensor) -> None:
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error < 1e-4:
        raise SystemExit(f"the features differ by {error:.1e} of the largest")


def compare(name: str, methods: dict[str, Callable[[], object]], options: Namespace, *, count: int | None) -> Entry:
    """Seconds, or with a count the number of things per second."""
    times = measure.alternate(methods, rounds=options.rounds, warm_up=0)
    rates = {who: [value if count is None else count / value for value in values] for who, values in times.items()}
    unit = "s" if count is None else f"{name.split()[0]}/s"
    note = f"{options.architecture}, {torch.get_num_threads()} threads, batches of {BATCH}, {WORKERS} workers, fp32"
    return Entry(name=name, unit=unit, ours=rates["ours"], peers={PLAIN: rates[PLAIN]}, note=note)


def measure_all(root: Path, architecture: str, options: Namespace) -> list[Entry]:
    files = make_photos(root, max(options.sizes))
    captions = [CAPTION.format(number) for number in range(len(files))]
    coco = settings(root, architecture, data=["data=coco", "data.annotations=official_2017"])
    folder = settings(root, architecture, data=["data=imagefolder"])
    built, photos, images = build_encoder(coco, None), to_container(coco.data), to_container(folder.data)
    plain = PlainLoop(built.module.model.clip)
    few = min(options.sizes)
    expected = plain.photos(files[:few], captions[:few])
    embeddings = into_cache(built, {**photos, "limit": few})
    check(embeddings.image_features, expected[0])
    check(embeddings.text_features, expected[1])
    entries = []
    for size in options.sizes:
        ours = partial(into_cache, built, {**photos, "limit": size})
        theirs = partial(plain.photos, files[:size], captions[:size])
        name = f"photos with a caption each, N = {size:,}"
        entries.append(compare(name, {"ours": ours, PLAIN: theirs}, options, count=None))
    texts = captions[: options.alone]
    check(encode_texts(built.module.model, texts, torch.device("cpu")), plain.texts(texts))
    images_alone: dict[str, Callable[[], object]] = {
        "ours": partial(into_cache, built, {**images, "limit": options.alone}),
        PLAIN: partial(plain.photos, files[: options.alone], ()),
    }
    texts_alone: dict[str, Callable[[], object]] = {
        "ours": partial(encode_texts, built.module.model, texts, torch.device("cpu")),
        PLAIN: partial(plain.texts, texts),
    }
    entries.append(compare("images alone", images_alone, options, count=options.alone))
    entries.append(compare("texts alone", texts_alone, options, count=options.alone))
    return entries


def main() -> None:
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--sizes", type=int, nargs="+", default=(32, 64, 128), help="photos with captions")
    parser.add_argument("--alone", type=int, default=64, help="images without captions, and captions without images")
    parser.add_argument("--architecture", default="ViT-B-32", help="of open_clip")
    quick = {"sizes": (4, 8), "alone": 8, "rounds": 1, "architecture": "a small one"}
    options = measure.parse(parser, quick=quick)
    with tempfile.TemporaryDirectory() as name:
        root, architecture = Path(name), options.architecture
        if options.quick:
            architecture = str(root / "small.json")
            Path(architecture).write_text(json.dumps(SMALL))
        entries = measure_all(root / "photos", architecture, options)
    measure.finish(entries, options)


if __name__ == "__main__":
    main()
