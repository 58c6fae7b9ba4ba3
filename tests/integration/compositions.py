"""Small copies of MIT-States and UT-Zappos, in the layout of the public loaders."""

import itertools

import numpy as np
import torch
from PIL import Image

NATURAL = "compositional-split-natural"
STATES, THINGS = ("old", "ripe", "sliced"), ("apple", "car", "pear")
LEATHERS, SHOES = ("Faux.Leather", "Suede"), ("Boots.Ankle", "Shoes.Loafers")


def photo(path, generator, *, like=None):
    """A photo of random colours, or one much like that of its composition."""
    path.parent.mkdir(parents=True, exist_ok=True)
    color = generator.integers(0, 255, size=(4, 4, 3)) if like is None else like + generator.normal(0, 25, (4, 4, 3))
    Image.fromarray(np.clip(color, 0, 255).astype(np.uint8)).resize((40, 40)).save(path)


def make_compositional(folder, attributes, objects, mark, missing):
    """Images of all compositions but one, in both splits; an attribute and an object each have a colour."""
    generator = np.random.default_rng(len(attributes))
    attribute = {name: generator.integers(0, 127, size=(4, 4, 3)) for name in attributes}
    object_ = {name: generator.integers(0, 127, size=(4, 4, 3)) for name in objects}
    entries, pairs = [], [pair for pair in itertools.product(attributes, objects) if pair != missing]
    for (a, o), split, number in itertools.product(pairs, ("train", "val", "test"), range(3)):
        name = f"{split}_{number}.jpg"
        photo(folder / "images" / f"{a}{mark}{o}" / name, generator, like=attribute[a] + object_[o])
        entries.append({"image": f"{a}_{o}/{name}", "attr": a, "obj": o, "set": split})
    torch.save(entries, folder / f"metadata_{NATURAL}.t7")
    (folder / NATURAL).mkdir()
    for split in ("train", "val", "test"):
        (folder / NATURAL / f"{split}_pairs.txt").write_text("\n".join(map(" ".join, pairs)) + "\n")
