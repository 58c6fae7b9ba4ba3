"""``i0t-reduce``: fits gap reducers on files of embeddings, and applies them to files of any size."""

from i0t.reduce.command import main

__all__ = ["main"]
