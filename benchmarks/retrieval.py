"""Retrieval beside clip-benchmark, torchmetrics, a full argsort and the bare matrix product.

    pip install --no-deps clip-benchmark==1.6.2
    python benchmarks/retrieval.py [--images 5000 --captions-per-image 5 --dim 512 --rounds 3 --threads 1]

All see the same tie-free unit rows and must find the same recalls, clip-benchmark and argsort to the last bit. Times
are taken alternately in one process, memory as the growth of the peak resident size in a process of each one's own.
torchmetrics loops over queries in Python and is measured on fewer rows. `--no-deps` suffices for clip-benchmark's
retrieval, which imports torch and tqdm only; its other dependencies bring 100 MB of Java archives.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import measure
import torch
from measure import Entry
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics.retrieval import RetrievalHitRate

from i0t.metrics.functional import retrieval_ranks, retrieval_recall

CUTS = (1, 5, 10)
PEER_BATCH = 64  # the default of clip-benchmark's command line; its one-hot tensors grow with it
Recalls = dict[str, float]
Inputs = tuple[Tensor, Tensor, Tensor]  # images (N, D), texts (M, D), the image of each text (M,)
Method = Callable[[Tensor, Tensor, Tensor], Recalls]


def ours(image: Tensor, text: Tensor, text_image_index: Tensor) -> Recalls:
    found = retrieval_recall(image, text, text_image_index, k=CUTS)
    return {f"{direction}_r{k}": float(found[f"{direction}_r{k}"]) for direction in ("i2t", "t2i") for k in CUTS}


def clip_benchmark(image: Tensor, text: Tensor, text_image_index: Tensor) -> Recalls:
    """The peer's whole evaluation, with encoders that hand out stored rows; a caption is the number of its row."""
    from clip_benchmark.metrics import zeroshot_retrieval

    captions: list[list[str]] = [[] for _ in range(len(image))]
    for row, owner in enumerate(text_image_index.tolist()):
        captions[owner].append(str(row))

    class StoredModel:
        def encode_image(self, rows: Tensor) -> Tensor:
            return image[rows]

        def encode_text(self, rows: Tensor) -> Tensor:
            return text[rows]

    def batches() -> Iterator[tuple[Tensor, list[list[str]]]]:
        for rows in torch.arange(len(image)).split(PEER_BATCH):
            yield rows, [captions[row] for row in rows.tolist()]

    def tokenize(texts: list[str]) -> Tensor:
        return torch.tensor([int(caption) for caption in texts])

    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
        found = zeroshot_retrieval.evaluate(StoredModel(), batches(), tokenize, "cpu", amp=False, recall_k_list=CUTS)
    names = {"i2t": "text_retrieval", "t2i": "image_retrieval"}
    return {f"{way}_r{k}": found[f"{name}_recall@{k}"] for way, name in names.items() for k in CUTS}


def argsort(image: Tensor, text: Tensor, text_image_index: Tensor) -> Recalls:
    """Sorts every row and column of the whole matrix, as Two Effects' script does."""
    scores = image @ text.T
    of_image = text_image_index[scores.argsort(dim=1, descending=True)[:, : max(CUTS)]]
    hit_of_image = of_image == torch.arange(len(image))[:, None]
    hit_of_text = scores.T.argsort(dim=1, descending=True)[:, : max(CUTS)] == text_image_index[:, None]
    hits = {"i2t": hit_of_image, "t2i": hit_of_text}
    return {f"{way}_r{k}": float(hits[way][:, :k].any(1).float().mean()) for way in hits for k in CUTS}


def torchmetrics(image: Tensor, text: Tensor, text_image_index: Tensor) -> Recalls:
    """`RetrievalHitRate` for every cut and direction; `RetrievalRecall` is another quantity with several captions."""
    scores = image @ text.T
    is_pair = text_image_index == torch.arange(len(image))[:, None]
    found = {}
    for way, rows, pairs in (("i2t", scores, is_pair), ("t2i", scores.T, is_pair.T)):
        query = torch.arange(len(rows))[:, None].expand_as(rows).flatten()
        for k in CUTS:
            metric = RetrievalHitRate(top_k=k)
            metric.update(rows.flatten(), pairs.flatten(), query)
            found[f"{way}_r{k}"] = float(metric.compute())
    return found


def bare_product(image: Tensor, text: Tensor, text_image_index: Tensor) -> Recalls:
    image @ text.T
    return {}


def product_in_place(scores: Tensor, image: Tensor, text: Tensor, text_image_index: Tensor) -> Recalls:
    """The product into memory that is mapped already: most of what the bare one pays beyond this is page faults."""
    torch.mm(image, text.T, out=scores)
    return {}


OURS = "this project"
METHODS: dict[str, Method] = {
    OURS: ours,
    "clip-benchmark": clip_benchmark,
    "argsort": argsort,
    "image @ text.T": bare_product,
}
IN_PLACE = "the same, in place"


def draw_inputs(num_images: int, captions_per_image: int, dim: int) -> Inputs:
    """Unit rows, captions around their images; what ties with a wrong item is drawn again until nothing does."""
    generator = torch.Generator().manual_seed(0)
    image = normalize(torch.randn(num_images, dim, generator=generator), dim=1)
    owner = torch.arange(num_images).repeat_interleave(captions_per_image)
    text = torch.empty(len(owner), dim)
    redraw = torch.ones(len(owner), dtype=torch.bool)
    while bool(redraw.any()):
        noise = normalize(torch.randn(int(redraw.sum()), dim, generator=generator), dim=1)
        text[redraw] = normalize(image[owner[redraw]] + 6 * noise, dim=1)
        of_image, of_text = retrieval_ranks(image, text, owner)
        redraw = of_text.tied | of_image.tied[owner]
    return image, text, owner


def warm_up(method: Method, inputs: Inputs) -> None:
    """Few rows, so that what loads on first use is not measured."""
    few = max(CUTS)
    method(inputs[0][:few], inputs[1][:few], torch.arange(few))


def prepare_memory(name: str, folder: str, threads: int) -> Callable[[], object]:
    """A method on stored inputs, in a process of its own."""
    torch.set_num_threads(threads)
    loaded = torch.load(Path(folder) / "inputs.pt", weights_only=True)
    inputs = (loaded["image"], loaded["text"], loaded["owner"])
    warm_up(METHODS[name], inputs)
    return partial(METHODS[name], *inputs)


def measure_memory(inputs: Inputs, threads: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        torch.save(dict(zip(("image", "text", "owner"), inputs, strict=True)), Path(folder) / "inputs.pt")
        return {name: measure.peak_growth(prepare_memory, name, folder, threads).mib for name in METHODS}


def measure_times(methods: dict[str, Method], inputs: Inputs, rounds: int) -> dict[str, list[float]]:
    """Seconds of every method, which must find the same."""
    found: dict[str, Recalls] = {}

    def run(name: str) -> None:
        found[name] = methods[name](*inputs)

    for name in set(methods) - {IN_PLACE}:
        warm_up(methods[name], inputs)
    times = measure.alternate({name: partial(run, name) for name in methods}, rounds=rounds, warm_up=0)
    for name, recalls in found.items():
        # torchmetrics averages in float32.
        if any(
            abs(value - recalls.get(key, value)) > (1e-6 if name == "torchmetrics" else 0)
            for key, value in found[OURS].items()
        ):
            raise SystemExit(f"recalls differ: {found[OURS]} of this project and {recalls} of {name}")
    return times


def entry(name: str, times: dict[str, list[float]], **more: str) -> Entry:
    return Entry(name=name, unit="s", ours=times[OURS], peers={k: v for k, v in times.items() if k != OURS}, **more)


def at_full_size(options: Namespace) -> list[Entry]:
    """Time and memory at COCO's size."""
    inputs = draw_inputs(options.images, options.captions_per_image, options.dim)
    size = f"{options.images:,} images x {len(inputs[1]):,} captions x {options.dim}"
    in_place = partial(product_in_place, torch.zeros(len(inputs[0]), len(inputs[1])))
    times = measure_times({**METHODS, IN_PLACE: in_place}, inputs, options.rounds)
    memory = measure_memory(inputs, options.threads)
    threads = f"{options.threads} thread{'s' * (options.threads > 1)}; recalls equal to the last bit"
    bounds = "<= .05 of clip-benchmark; <= 1.5 of image @ text.T"
    peers = {name: [value] for name, value in memory.items() if name != OURS}
    return [
        entry(f"time, {size}", times, note=threads, target=bounds),
        Entry(
            name=f"peak memory, {size}",
            unit="MiB",
            ours=[memory[OURS]],
            peers=peers,
            note=threads,
            target="<= .25 of clip-benchmark",
        ),
    ]


def beside_torchmetrics(options: Namespace) -> Entry:
    """Time at a size that torchmetrics can do."""
    inputs = draw_inputs(options.small_images, options.captions_per_image, options.dim)
    times = measure_times({OURS: ours, "torchmetrics": torchmetrics}, inputs, options.rounds)
    size = f"{options.small_images:,} images x {len(inputs[1]):,} captions x {options.dim}"
    return entry(f"time, {size}", times, note="RetrievalHitRate at 1, 5 and 10, both directions; equal to 1e-6")


def curve(options: Namespace) -> list[Entry]:
    """Time over the number of images."""
    found = []
    for num_images in options.sizes:
        inputs = draw_inputs(num_images, options.captions_per_image, options.dim)
        times = measure_times({OURS: ours, "argsort": argsort}, inputs, options.rounds)
        found.append(entry(f"time, N = {num_images:,} images with {options.captions_per_image} captions each", times))
    return found


def main() -> None:
    parser = measure.parser(__doc__, rounds=3)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--small-images", type=int, default=1000, help="beside torchmetrics")
    parser.add_argument("--sizes", type=int, nargs="*", default=(500, 1000, 2000, 4000), help="of the curve")
    parser.add_argument("--captions-per-image", type=int, default=5)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1, help="of every method; one bears other load best")
    quick = {"images": 60, "small_images": 20, "sizes": (40, 80), "dim": 64, "rounds": 1}
    options = measure.parse(parser, quick=quick)
    torch.set_num_threads(options.threads)
    measure.finish([*at_full_size(options), beside_torchmetrics(options), *curve(options)], options)


if __name__ == "__main__":
    main()
