"""Retrieval beside LAION's clip-benchmark and beside the bare matrix product.

    pip install --no-deps clip-benchmark==1.6.2
    python benchmarks/retrieval.py [--images 5000 --captions-per-image 5 --dim 512 --rounds 3 --threads 1]

All see the same tie-free unit rows and must find the same recalls, to the last bit. Times are taken alternately in one
process, memory as the growth of the peak resident size in a process of each one's own. `--no-deps` suffices for
clip-benchmark's retrieval, which imports torch and tqdm only; its other dependencies bring 100 MB of Java archives.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from i0t.metrics.functional import retrieval_ranks, retrieval_recall

CUTS = (1, 5, 10)
PEER_BATCH = 64  # the default of clip-benchmark's command line; its one-hot tensors grow with it
Recalls = dict[str, float]
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


def bare_product(image: Tensor, text: Tensor, text_image_index: Tensor) -> Recalls:
    image @ text.T
    return {}


def product_in_place(scores: Tensor, image: Tensor, text: Tensor, text_image_index: Tensor) -> Recalls:
    """The product into memory that is mapped already: most of what the bare one pays beyond this is page faults."""
    torch.mm(image, text.T, out=scores)
    return {}


METHODS: dict[str, Method] = {
    "this project": ours,
    "clip-benchmark": clip_benchmark,
    "image @ text.T": bare_product,
}
IN_PLACE = "the same, in place"


def draw_inputs(num_images: int, captions_per_image: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
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


def seconds_of(method: Method, inputs: tuple[Tensor, Tensor, Tensor]) -> tuple[float, Recalls]:
    start = time.perf_counter()
    found = method(*inputs)
    return time.perf_counter() - start, found


def warm_up(method: Method, image: Tensor, text: Tensor) -> None:
    """Ten rows, so that what loads on first use is not measured."""
    few = max(CUTS)
    method(image[:few], text[:few], torch.arange(few))


def resident_mib(kind: str) -> float:
    """Resident size now (``VmRSS``) or at its peak (``VmHWM``)."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def peak_growth(name: str, folder: str, threads: int) -> float:
    """MiB by which the peak resident size of this process exceeds what it held before the call."""
    torch.set_num_threads(threads)
    loaded = torch.load(Path(folder) / "inputs.pt", weights_only=True)
    image, text, owner = loaded["image"], loaded["text"], loaded["owner"]
    warm_up(METHODS[name], image, text)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here (Linux)
    before = resident_mib("VmRSS")
    METHODS[name](image, text, owner)
    return resident_mib("VmHWM") - before


def measure_memory(inputs: tuple[Tensor, Tensor, Tensor], threads: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        torch.save(dict(zip(("image", "text", "owner"), inputs, strict=True)), Path(folder) / "inputs.pt")
        grown = {}
        for name in METHODS:
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
                grown[name] = pool.submit(peak_growth, name, folder, threads).result()
    return grown


def measure_times(inputs: tuple[Tensor, Tensor, Tensor], rounds: int) -> dict[str, list[float]]:
    image, text, _ = inputs
    in_place = partial(product_in_place, torch.zeros(len(image), len(text)))
    methods: dict[str, Method] = {**METHODS, IN_PLACE: in_place}
    for method in METHODS.values():
        warm_up(method, image, text)
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(rounds):
        found: dict[str, Recalls] = {}
        for name, method in methods.items():
            seconds, found[name] = seconds_of(method, inputs)
            times[name].append(seconds)
        if found["this project"] != found["clip-benchmark"]:
            raise SystemExit(f"recalls differ: {found['this project']} and {found['clip-benchmark']}")
    print("recalls, equal in every bit: ", {name: round(value, 4) for name, value in found["this project"].items()})
    return times


def spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def report(times: dict[str, list[float]], memory: dict[str, float]) -> None:
    mine = times["this project"]
    print(f"{'':16} {'seconds: median (range)':28} {'ours / this, per round':26} {'peak MiB':>9} {'ours / this':>12}")
    for name, taken in times.items():
        ratios = [own / other for own, other in zip(mine, taken, strict=True)]
        line = f"{name:18} {spread(taken):28} {spread(ratios, 3):26}"
        if name in memory:
            line += f" {memory[name]:7,.0f} {memory['this project'] / memory[name]:12.3f}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--captions-per-image", type=int, default=5)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=1, help="of every method; one bears other load on the machine best"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    inputs = draw_inputs(arguments.images, arguments.captions_per_image, arguments.dim)
    print(f"{arguments.images:,} images x {len(inputs[1]):,} captions x {arguments.dim}, {arguments.threads} threads")
    times = measure_times(inputs, arguments.rounds)
    report(times, measure_memory(inputs, arguments.threads))


if __name__ == "__main__":
    main()
