"""Small copies of images that stand inside the page itself."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

ImageSource = Sequence[np.ndarray] | np.ndarray | Callable[[int], np.ndarray]
_PIXEL_ART = 64  # images up to this size keep every pixel; the page enlarges them without smoothing
_PHOTO = 144
_TILE = 32
_QUALITIES = (80, 65, 50, 35, 20)  # of WebP, tried in this order until the sprite is small enough


@dataclass(frozen=True)
class Sprite:
    """Many small images as the tiles of one, row by row.

    Attributes:
        webp: The image's bytes.
        columns: Tiles side by side.
        rows: Tiles below each other.
        tile: Width and height of a tile, in pixels.
        pixelated: Whether every image fits on its tile as it is.
    """

    webp: bytes
    columns: int
    rows: int
    tile: int
    pixelated: bool


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


def picture_uri(png: bytes) -> str:
    """A ``data:`` address of a drawn figure in 256 colours: a third of the bytes, and no eye tells."""
    data = io.BytesIO()
    few = (
        Image.open(io.BytesIO(png))
        .convert("RGB")
        .quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    )
    few.save(data, format="PNG")
    return data_uri("image/png", data.getvalue())


def data_uri(media_type: str, data: bytes) -> str:
    """Bytes as an address that needs neither network nor file."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"


def make_sprite(images: ImageSource, rows: Sequence[int], *, max_bytes: int = 1_200_000) -> Sprite:
    """Thumbnails of some images, each within 32 x 32 pixels, centred on its transparent tile.

    Args:
        images: Sequence of images, or a function from the row to the image.
        rows: Rows of the images, one or more.
        max_bytes: The quality is lowered until the sprite is this small, as far as there is one so low.

    Raises:
        ValueError: If the source gives anything but ``(H, W, 3)`` uint8.
    """
    columns = math.ceil(math.sqrt(len(rows)))
    lines = math.ceil(len(rows) / columns)
    sheet = Image.new("RGBA", (columns * _TILE, lines * _TILE))
    largest = 0
    for place, row in enumerate(rows):
        picture = Image.fromarray(read_image(images, row))
        largest = max(largest, *picture.size)
        picture.thumbnail((_TILE, _TILE), reducing_gap=2.0)
        left, top = ((_TILE - size) // 2 for size in picture.size)
        sheet.paste(picture, (place % columns * _TILE + left, place // columns * _TILE + top))
    for quality in _QUALITIES:
        data = io.BytesIO()
        sheet.save(data, format="WEBP", quality=quality, method=2)
        if data.tell() <= max_bytes:
            break
    return Sprite(data.getvalue(), columns=columns, rows=lines, tile=_TILE, pixelated=largest <= _TILE)
