"""Train a CLIP-like model and compare gap reducers on it.

Usage:
    python train.py                              # MAD, tiny CLIP, CPU, about a minute, no download, no account
    python train.py data.captions=object_attribute_5      # say everything in the captions
    python train.py --help
"""

from i0t.cli import train

if __name__ == "__main__":
    train()
