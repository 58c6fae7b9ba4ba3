"""``i0t-export``: a checkpoint becomes weights that plain open_clip loads, and a reducer that NumPy applies."""

from i0t.export.command import main

__all__ = ["main"]
