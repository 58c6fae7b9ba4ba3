"""Image files to what the image tower takes: exactly for what is measured, as fast as can be for what is trained on.

The reference is ``transform(Image.open(path).convert("RGB"))``, the way in which torchvision's data sets and
open_clip's shards feed a transform; EXIF orientation is therefore not applied. Evaluation does just that: a split is
encoded once, and its features are those that open_clip alone would give. Training, where the crop is random anyway,
takes a faster way. Half of the reference's time goes into PIL's resizing, so the first step of open_clip's transforms
(``Resize`` or ``RandomResizedCrop``) is done by torch's vectorised uint8 kernel, which has the same arithmetic with
shorter weights (on average .005 of 255 levels apart, up to .25 at some ratios of sizes). A JPEG more than four times as
large as needed, in both directions, is decoded at a half, a quarter or an eighth of its size (below 1 of 255 levels on
average). Tested, and measured by ``benchmarks/image_decode.py``.

Shapes: H, W of an image.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as resizing

# A reduced decoding must stay so many times larger than its target; at 1 the difference becomes visible.
_REDUCED_AT_LEAST = 2.0
_REDUCTIONS = (8, 4, 2)  # what libjpeg offers through PIL
_PIL_FILTER = {
    InterpolationMode.BICUBIC: Image.Resampling.BICUBIC,
    InterpolationMode.BILINEAR: Image.Resampling.BILINEAR,
}
# What PIL raises for a damaged, truncated, oversized or absent file, by format.
_READ_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


class UnreadableImage(ValueError):  # noqa: N818 - named for what it says of the file
    """An image that cannot be decoded; the message is one line with the file's name, in worker processes too.

    Args:
        message: The line. PyTorch raises an error of a worker process again with the worker's traceback in front of it;
            only the line is kept.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def read_image(path: str | Path) -> Image.Image:
    """Decodes a file to an RGB image of its full size.

    Args:
        path: JPEG, PNG, WebP or whatever PIL reads; greyscale, palette, CMYK and alpha become RGB.

    Raises:
        UnreadableImage: If the file is missing, truncated, no image, or over PIL's limit of 179 million pixels.
    """
    return decode_image(_read_bytes(path), name=str(path))


def decode_image(data: bytes, *, name: str) -> Image.Image:
    """Decodes the bytes of a file, such as a member of a tar, to an RGB image.

    Args:
        data: The bytes.
        name: What to call them when they cannot be decoded.

    Raises:
        UnreadableImage: As in :func:`read_image`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except _READ_ERRORS as error:
        raise _unreadable(name, error) from error


class ImageReader:
    """A transform that takes a file instead of an image: the same result, sooner.

    Args:
        transform: Of a PIL image. Where it is a ``torchvision.transforms.Compose`` that begins with a bicubic or
            bilinear ``Resize`` or ``RandomResizedCrop``, that step is done while decoding; any other gets the decoded
            image.
        exact: Leave it to the transform all the same: the pixels are open_clip's own, to the last bit.
    """

    def __init__(self, transform: Callable[[Any], Tensor], *, exact: bool = False) -> None:
        self.transform = transform
        first_and_rest: tuple[Any, Any] = (None, transform) if exact else _split_first_step(transform)
        self._first, self._rest = first_and_rest

    def __call__(self, path: str | Path) -> Tensor:
        """Reads a file.

        Returns:
            What the transform makes of it, ``(3, H, W)``.

        Raises:
            UnreadableImage: As in :func:`read_image`.
        """
        return self.decode(_read_bytes(path), name=str(path))

    def decode(self, data: bytes, *, name: str) -> Tensor:
        """The same for the bytes of a file, such as a member of a tar.

        Args:
            data: The bytes.
            name: What to call them when they cannot be decoded.
        """
        if self._first is None:
            return self.transform(decode_image(data, name=name))
        try:
            image = _decode_resized(data, self._first)
        except _READ_ERRORS as error:
            raise _unreadable(name, error) from error
        return self._rest(image)


class _Resizing(NamedTuple):
    """The part of an image that is kept, ``(left, top, width, height)``, and the ``(height, width)`` it gets."""

    box: tuple[int, int, int, int]
    size: tuple[int, int]


def _split_first_step(transform: Any) -> tuple[Any, Any]:
    """The step that can be done while decoding and what comes after it; ``None`` and all where there is none."""
    if not isinstance(transform, transforms.Compose) or not transform.transforms:
        return None, transform
    first, *rest = transform.transforms
    is_known = type(first) is transforms.Resize and first.max_size is None
    is_known = is_known or type(first) is transforms.RandomResizedCrop
    if not is_known or first.interpolation not in _PIL_FILTER or first.antialias is False:
        return None, transform
    return first, transforms.Compose(rest)


def _resizing(step: transforms.Resize | transforms.RandomResizedCrop, width: int, height: int) -> _Resizing:
    """What a step does to an image of this size; a random one draws as it would itself."""
    if isinstance(step, transforms.RandomResizedCrop):
        # Only the size of the image is looked at, so none has to be decoded to draw the crop.
        blank = torch.empty(1, 1, 1, dtype=torch.uint8).expand(3, height, width)
        top, left, crop_height, crop_width = step.get_params(blank, list(step.scale), list(step.ratio))
        return _Resizing((left, top, crop_width, crop_height), _height_and_width(step.size))
    whole = (0, 0, width, height)
    if not isinstance(step.size, int) and len(step.size) == 2:
        return _Resizing(whole, _height_and_width(step.size))
    short = step.size if isinstance(step.size, int) else step.size[0]
    # torchvision truncates the longer side.
    if width <= height:
        return _Resizing(whole, (int(short * height / width), short))
    return _Resizing(whole, (short, int(short * width / height)))


def _height_and_width(size: Any) -> tuple[int, int]:
    height, width = size
    return int(height), int(width)


def _decode_resized(data: bytes, step: transforms.Resize | transforms.RandomResizedCrop) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        resizing_ = _resizing(step, *image.size)
        left, top, width, height = resizing_.box
        reduction = _reduction(image, resizing_)
        if reduction > 1:
            image.draft(None, (image.width // reduction, image.height // reduction))
            corners = (left, top, left + width, top + height)
            # The box keeps the geometry of the full size where that is not a multiple of the reduction.
            return image.convert("RGB").resize(
                resizing_.size[::-1], _PIL_FILTER[step.interpolation], box=tuple(x / reduction for x in corners)
            )
        rgb = image if image.mode == "RGB" else image.convert("RGB")
        # Cut out before resizing, as torchvision's resized_crop does; a copy, since PIL's memory is read-only.
        pixels = np.array(np.asarray(rgb)[top : top + height, left : left + width])
    planes = torch.from_numpy(pixels).permute(2, 0, 1)
    resized = resizing.resize(planes, list(resizing_.size), interpolation=step.interpolation, antialias=True)
    return Image.fromarray(resized.permute(1, 2, 0).numpy())


def _reduction(image: Image.Image, resizing_: _Resizing) -> int:
    """By how much a JPEG may be reduced while decoding."""
    if image.format != "JPEG":
        return 1
    _, _, width, height = resizing_.box
    spare = min(width / resizing_.size[1], height / resizing_.size[0]) / _REDUCED_AT_LEAST
    return next((reduction for reduction in _REDUCTIONS if spare >= reduction), 1)


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(str(path), error) from error


def _unreadable(name: str, error: BaseException) -> UnreadableImage:
    if isinstance(error, Image.UnidentifiedImageError):
        reason = "not an image"  # PIL's message shows an object in memory
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    return UnreadableImage(f"cannot read image {name}: {reason}")
