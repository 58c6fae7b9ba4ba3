"""Human judgements of captions: what caption metrics are compared with.

Shapes: J judged captions, R ratings each, K references, Q preferences; rows are those of an EmbeddingSet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_TENSORS = ("candidates", "references", "ratings", "preferences", "preference_category")


@dataclass(frozen=True, kw_only=True)
class Judgements:
    """Captions of images that people, or nobody yet, have judged.

    Attributes:
        candidates: ``(J, 2)`` int64 (image row, text row): the captions that are scored.
        references: ``(K, 2)`` int64 (judgement, text row): what others wrote about the same image; may be empty.
        ratings: ``(J, R)`` float64, NaN where there is none; R = 0 where nobody has judged.
        preferences: ``(Q, 2)`` int64 (preferred judgement, other judgement), for pairwise data; may be empty.
        preference_category: ``(Q,)`` int64 into :attr:`category_names`.
        category_names: Of the pairs (PASCAL-50S: HC, HI, HM, MM).
        source: The line of the file that each judgement stands in, counting from 1; empty where that says nothing.
        headline: Kendall's tau that is usual for these data: ``"b"`` or ``"c"``.
        description: Whose judgements on what scale, in words; stands beside the numbers.

    Raises:
        ValueError: If shapes or types disagree, or a reference or preference is of a judgement that does not exist.
    """

    candidates: Tensor
    references: Tensor
    ratings: Tensor
    preferences: Tensor
    preference_category: Tensor
    category_names: tuple[str, ...] = ()
    source: tuple[int, ...] = ()
    headline: str = "c"
    description: str = ""

    def __post_init__(self) -> None:
        for name in ("candidates", "references", "preferences"):
            pairs: Tensor = getattr(self, name)
            if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype != torch.int64:
                raise ValueError(f"judgements.{name} must be (rows, 2) int64, got {tuple(pairs.shape)} {pairs.dtype}")
        count = len(self.candidates)
        if self.ratings.ndim != 2 or len(self.ratings) != count or not self.ratings.is_floating_point():
            raise ValueError(f"judgements.ratings must be ({count}, R) float, got {tuple(self.ratings.shape)}")
        if self.preference_category.shape != self.preferences.shape[:1]:
            raise ValueError(
                f"judgements.preference_category must be ({len(self.preferences)},), the category of every preference, "
                f"got {tuple(self.preference_category.shape)}"
            )
        for name, rows in (("references", self.references[:, 0]), ("preferences", self.preferences)):
            if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < count:
                raise ValueError(
                    f"judgements.{name} points at judgements {int(rows.min())} to {int(rows.max())} of {count}"
                )
        if self.source and len(self.source) != count:
            raise ValueError(f"judgements.source names {len(self.source)} lines for {count} judgements")
        if self.headline not in ("b", "c"):
            raise ValueError(f"judgements.headline must be 'b' or 'c', got {self.headline!r}")

    @classmethod
    def of(
        cls,
        candidates: Tensor,
        *,
        references: Tensor | None = None,
        ratings: Tensor | None = None,
        preferences: Tensor | None = None,
        preference_category: Tensor | None = None,
        category_names: tuple[str, ...] = (),
        source: tuple[int, ...] = (),
        headline: str = "c",
        description: str = "",
    ) -> Judgements:
        """Builds judgements of which some parts do not exist."""
        none = torch.empty(0, 2, dtype=torch.int64)
        preferences = none if preferences is None else preferences
        if preference_category is None:
            preference_category = torch.zeros(len(preferences), dtype=torch.int64)
        return cls(
            candidates=candidates,
            references=none if references is None else references,
            ratings=torch.empty(len(candidates), 0, dtype=torch.float64) if ratings is None else ratings,
            preferences=preferences,
            preference_category=preference_category,
            category_names=category_names,
            source=source,
            headline=headline,
            description=description,
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name, to be stored."""
        return {name: getattr(self, name) for name in _TENSORS}

    def about(self) -> dict[str, object]:
        """Everything that is no tensor, as plain containers, to be stored."""
        return {
            "category_names": list(self.category_names),
            "source": list(self.source),
            "headline": self.headline,
            "description": self.description,
        }

    @classmethod
    def restored(cls, tensors: Mapping[str, Tensor], about: Mapping[str, object]) -> Judgements:
        """What :meth:`tensors` and :meth:`about` gave."""
        names, source = about["category_names"], about["source"]
        assert isinstance(names, list)
        assert isinstance(source, list)
        return cls(
            candidates=tensors["candidates"],
            references=tensors["references"],
            ratings=tensors["ratings"],
            preferences=tensors["preferences"],
            preference_category=tensors["preference_category"],
            category_names=tuple(names),
            source=tuple(source),
            headline=str(about["headline"]),
            description=str(about["description"]),
        )
