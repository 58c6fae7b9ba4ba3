"""A small copy of Flickr8k, in the layout of its archive."""

import numpy as np
from PIL import Image


def make_flickr8k(folder, num_photos=20, seed=0):
    """Photos of random colours under Flickr8k's names, captions and splits."""
    generator = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    tokens = []
    for split in ("train", "dev", "test"):
        names = [f"{split}{seed}_{i}.jpg" for i in range(num_photos)]
        (folder / f"Flickr_8k.{split}Images.txt").write_text("\n".join(names) + "\n")
        for name in names:
            color = generator.integers(0, 255, size=(6, 8, 3), dtype=np.uint8)
            Image.fromarray(color).resize((80, 60)).save(folder / "images" / name)
            tokens += [f"{name}#{i}\tA photo of {name} in words {generator.integers(99)} ." for i in range(5)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(tokens) + "\n")
    return folder
