"""Embeddings from a file, from any two towers: nothing is encoded."""

from __future__ import annotations

from i0t.embeddings import EmbeddingSet


class EmbeddingsFile:
    """An ``.npz`` of embeddings (see :meth:`i0t.embeddings.EmbeddingSet.load_npz`), all of it the test split.

    Args:
        path: The file.
    """

    def __init__(self, *, path: str) -> None:
        self.path = path

    def load(self, split: str) -> EmbeddingSet:
        """Reads a split.

        Raises:
            ValueError: If the file has no such split or cannot be read.
        """
        if split != "test":
            raise ValueError(
                f"{self.path} has one split, test, so nothing can be fitted on {split!r}; "
                "fit_split=test gives the transductive numbers"
            )
        return EmbeddingSet.load_npz(self.path)
