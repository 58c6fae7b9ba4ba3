"""Jobs of a sweep over captions, made from laws that the tests choose."""

import math
import random

import pytest

FACTORS = {"digit": 10, "thickness": 3, "swelling": 2, "fracture": 2, "scale": 2, "color": 7}


def bits_of(k, main):
    """What captions carry: the main object, and each other factor in k of 5 captions."""
    others = sum(math.log2(size) for factor, size in FACTORS.items() if factor != main)
    return math.log2(FACTORS[main]) + k / 5 * others


def jitter(*place):
    """At most 5e-4, of its own for every place, so that jobs differ."""
    return random.Random("/".join(map(str, place))).uniform(-5e-4, 5e-4)  # the same in every process


LAWS = {
    "rmg": lambda k, main: 0.35 - 0.05 * k,
    "distance": lambda k, main: 0.30 - 0.04 * k,
    "image": lambda k, main: 0.6 - 0.1 * k,
    "text": lambda k, main: 0.5 - 0.09 * k,
    "accuracy": lambda k, main, label: 0.5 + 0.05 * k,
    "contrast": lambda k, main, label, modality: (0.7 if label == main else 0.1) - 0.02 * k,
    "start": lambda k, main: 1.2,
    "end": lambda k, main: 0.30 - 0.04 * k,
}


def make_job(number, k, main, seed, **laws):
    """A job as ``read_jobs`` gives it; a law that is ``None`` leaves its numbers out."""
    law = {**LAWS, **laws}
    wobble = jitter(k, main, seed)
    numbers = {
        "gap/rmg": law["rmg"](k, main),
        "gap/centroid_distance": law["distance"](k, main),
        "object_bias/image": law["image"](k, main),
        "object_bias/text": law["text"](k, main),
    }
    for label in FACTORS:
        numbers[f"zeroshot/{label}"] = law["accuracy"](k, main, label)
        numbers[f"zeroshot/balanced/{label}"] = 0.123
        if law["contrast"]:
            for modality in ("image", "text"):
                numbers[f"object_bias/{modality}_contrast/{label}"] = law["contrast"](k, main, label, modality)
    captions = f"object_attribute_{k}" if k else "object_only"
    history = {}
    if law["start"]:
        start, end = law["start"](k, main), law["end"](k, main)
        history = {
            "val/centroid_distance": [[0, start + wobble], [200, 0.5], [400, end + wobble]],
            "val/rmg": [[0, 0.8 * start + wobble], [200, 0.5], [400, end + wobble]],
        }
    values = {f"test/none/{name}": value + jitter(k, main, seed, name) for name, value in numbers.items()}
    return {
        "name": str(number),
        "overrides": {"seed": str(seed), "data.main_object": main, "data.captions": captions},
        "config": {"seed": seed, "ckpt_path": None, "data": {"captions": captions, "main_object": main}},
        "metrics": {
            **values,
            "intervals": {name: [value - 0.01, value + 0.02] for name, value in values.items()},
            "rows": {"none": {"protocol": "none", "settings": {}}},
            "data": {"caption_bits": bits_of(k, main), "image_bits": math.log2(1680), "num_images": 400},
        },
        "history": history,
    }


@pytest.fixture
def make_sweep():
    """Makes the jobs of a grid; ``laws`` replace :data:`LAWS`."""

    def make(ks=range(6), seeds=(0, 1, 2), mains=("digit",), **laws):
        grid = [(k, main, seed) for seed in seeds for main in mains for k in ks]
        return [make_job(number, k, main, seed, **laws) for number, (k, main, seed) in enumerate(grid)]

    return make
