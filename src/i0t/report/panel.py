"""A drawn picture of a report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Panel:
    """One drawn picture.

    Attributes:
        file: Its file name below ``figures/``.
        png: Its bytes.
        alt: What it shows, in words.
        wide: Whether it holds several pictures side by side, and takes the whole width of the page.
    """

    file: str
    png: bytes
    alt: str
    wide: bool = False
