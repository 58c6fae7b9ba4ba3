"""How a set of images and texts is redrawn in a bootstrap over images."""

# N images, M texts, G image units, H text units, R resamples.
from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from i0t.metrics.functional.bootstrap import resample_counts
from i0t.metrics.functional.checks import check_labels


class Redraws(NamedTuple):
    """Resamples of a set; see :func:`redraw_set`.

    Attributes:
        image_units: ``(N,)`` int64 in ``[0, G)``.
        text_units: ``(M,)`` int64 in ``[0, H)``.
        image_counts: ``(R, G)`` how often each unit is drawn.
        text_counts: ``(R, H)``.
        texts_follow: Whether a text is drawn with its image: text units are then image units.
    """

    image_units: Tensor
    text_units: Tensor
    image_counts: Tensor
    text_counts: Tensor
    texts_follow: bool

    @property
    def texts_are_drawn(self) -> bool:
        """Whether texts differ between resamples at all."""
        return self.texts_follow or self.text_counts.shape[1] > 1

    def with_original(self) -> Redraws:
        """The same with one more resample in front, which draws every unit once: the set itself."""
        image, text = (
            torch.cat([counts.new_ones(1, counts.shape[1]), counts]) for counts in (self.image_counts, self.text_counts)
        )
        return self._replace(image_counts=image, text_counts=text)


def redraw_set(
    num_images: int,
    num_texts: int,
    *,
    image_of_text: Tensor | None,
    has_pairs: bool,
    groups: Tensor | None = None,
    num_resamples: int,
    seed: int = 0,
) -> Redraws:
    """Resamples over images, whole groups of them where the set names groups.

    What happens to the texts: with one image for each text they follow it. Texts that are shared by images (prompts of
    classes) are the task, not a sample, and stay as they are. In an unpaired set they are drawn on their own.

    Args:
        num_images: N.
        num_texts: M.
        image_of_text: ``(M,)`` where every text has exactly one image, else None.
        has_pairs: Whether anything is paired.
        groups: ``(N,)`` integers, the group of every image; None makes each its own.
        num_resamples: R.
        seed: The same seed and set give the same resamples: what makes methods comparable.

    Returns:
        The resamples. Where there is a single group nothing can be redrawn: R = 0.

    Example:
        >>> redraws = redraw_set(3, 3, image_of_text=torch.arange(3), has_pairs=True, num_resamples=5)
        >>> redraws.image_counts.shape
        torch.Size([5, 3])
    """
    given = torch.arange(num_images) if groups is None else groups.cpu()
    image_units, num_units = check_labels(given, num_images, "groups")
    counts = _counts(num_units, num_resamples, seed)
    if image_of_text is not None:
        return Redraws(image_units, image_units[image_of_text.cpu()], counts, counts, True)
    if has_pairs:
        one = torch.ones(len(counts), 1, dtype=torch.uint8)
        return Redraws(image_units, torch.zeros(num_texts, dtype=torch.int64), counts, one, False)
    text_counts = _counts(num_texts, len(counts), seed + 1)[: len(counts)]
    return Redraws(image_units, torch.arange(num_texts), counts[: len(text_counts)], text_counts, False)


def _counts(num_units: int, num_resamples: int, seed: int) -> Tensor:
    if num_units < 2 or num_resamples == 0:
        return torch.zeros(0, num_units, dtype=torch.uint8)
    return resample_counts(num_units, num_resamples=num_resamples, seed=seed)
