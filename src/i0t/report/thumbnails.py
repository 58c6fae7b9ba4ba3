"""Small copies of images that stand inside the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

ImageSource = Sequence[np.ndarray] | np.ndarray | Callable[[int], np.ndarray]
_PIXEL_ART = 64  # images up to this size keep every pixel; the page enlarges them without smoothing
_PHOTO = 144


def read_image(images: ImageSource, row: int) -> np.ndarray:
    """Image ``row`` of a sequence or a function.

    Args:
        images: Sequence of images, or a function from the row to the image.
        row: Row of the image.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ValueError: If the source gives anything else.
    """
    image = np.asarray(images(row) if callable(images) else images[row])
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image {row} must be (height, width, 3) uint8, got {image.shape} {image.dtype}")
    return image


def thumbnail_uri(image: np.ndarray) -> str:
    """A ``data:`` address that holds the image: small images exactly, as PNG; photographs reduced, as JPEG.

    Args:
        image: ``(H, W, 3)`` uint8.
    """
    picture = Image.fromarray(image)
    data = io.BytesIO()
    if max(picture.size) <= _PIXEL_ART:
        picture.save(data, format="PNG")
        return data_uri("image/png", data.getvalue())
    picture.thumbnail((_PHOTO, _PHOTO))
    picture.save(data, format="JPEG", quality=82)
    return data_uri("image/jpeg", data.getvalue())


def data_uri(media_type: str, data: bytes) -> str:
    """Bytes as an address that needs neither network nor file."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
