"""Checks of what the metrics are given: unit rows, matching shapes, indices and labels in range."""

# N images, M texts, D feature width.
import torch
from torch import Tensor

NORM_TOLERANCE = 1e-2


def check_unit_rows(features: Tensor, name: str) -> Tensor:
    """Check that every row is a finite unit vector and return the rows ready for arithmetic.

    Args:
        features: ``(N, D)`` float, L2-normalised, at least one row.
        name: What to call the tensor in an error.

    Returns:
        ``(N, D)`` the same rows, detached, on the same device; half precision becomes float32.

    Raises:
        ValueError: If the tensor is not a non-empty float matrix, or a row is not finite or its norm is more than
            1e-2 away from 1.
    """
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{name} must be a non-empty (rows, width) matrix, got shape {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {features.dtype}; convert it with .float()")
    rows = features.detach()
    rows = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
    norms = torch.linalg.vector_norm(rows, dim=1)
    wrong = ~((norms - 1).abs() <= NORM_TOLERANCE)  # written so that NaN is wrong as well
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        if not bool(rows[row].isfinite().all()):
            raise ValueError(f"{name}: row {row} contains NaN or infinity; look at the encoder that produced it")
        raise ValueError(
            f"{name}: row {row} has norm {float(norms[row]):.4g}, not 1;"
            " normalise the rows first: torch.nn.functional.normalize(features, dim=-1)"
        )
    return rows


def check_both(image_features: Tensor, text_features: Tensor) -> tuple[Tensor, Tensor]:
    """Check both modalities and bring them to one precision.

    Args:
        image_features: ``(N, D)`` float, L2-normalised.
        text_features: ``(M, D)`` float, L2-normalised.

    Returns:
        ``(N, D)`` and ``(M, D)`` in the wider of the two precisions, float32 at least.

    Raises:
        ValueError: If either is not made of unit rows, or their widths or devices differ.
    """
    image, text = check_unit_rows(image_features, "image_features"), check_unit_rows(text_features, "text_features")
    if image.shape[1] != text.shape[1]:
        raise ValueError(
            f"image_features have width {image.shape[1]} and text_features {text.shape[1]};"
            " both must come from one joint space"
        )
    if image.device != text.device:
        raise ValueError(f"image_features are on {image.device} and text_features on {text.device}; move one of them")
    dtype = torch.promote_types(image.dtype, text.dtype)
    return image.to(dtype), text.to(dtype)


def check_matches(text_image_index: Tensor | None, image: Tensor, text: Tensor) -> Tensor:
    """The image row of every text row.

    Args:
        text_image_index: ``(M,)`` integers in ``[0, N)``, or None: row i belongs with row i.
        image: ``(N, D)``.
        text: ``(M, D)``.

    Returns:
        ``(M,)`` int64 on the device of the features.

    Raises:
        ValueError: If the index is None and N != M, or its shape, type or range is wrong.
    """
    num_images, num_texts = len(image), len(text)
    if text_image_index is None:
        if num_images != num_texts:
            raise ValueError(
                f"{num_images} image rows and {num_texts} text rows cannot be matched row by row;"
                " give text_image_index, the image row of every text"
            )
        return torch.arange(num_texts, device=text.device)
    if tuple(text_image_index.shape) != (num_texts,):
        raise ValueError(
            f"text_image_index must have shape ({num_texts},), one entry per text row,"
            f" got {tuple(text_image_index.shape)}"
        )
    return check_row_numbers(text_image_index, num_images, "text_image_index").to(text.device)


def check_row_numbers(index: Tensor, num_rows: int, name: str) -> Tensor:
    """Check that an integer tensor of any shape points at existing rows.

    Args:
        index: Integers of any shape.
        num_rows: How many rows there are.
        name: What to call the tensor in an error.

    Returns:
        The same, int64.

    Raises:
        ValueError: If it is not an integer tensor or an entry is outside ``[0, num_rows)``.
    """
    check_integers(index, name)
    outside = (index < 0) | (index >= num_rows)
    if bool(outside.any()):
        position = tuple(outside.nonzero()[0].tolist())
        place = position[0] if len(position) == 1 else position
        raise ValueError(f"{name}[{place}] is {int(index[position])}, outside the rows 0 … {num_rows - 1}")
    return index.detach().long()


def check_integers(values: Tensor, name: str) -> None:
    """Refuse a tensor that does not hold integers.

    Args:
        values: Any tensor.
        name: What to call the tensor in an error.

    Raises:
        ValueError: If the type is floating, complex or boolean.
    """
    if values.is_floating_point() or values.is_complex() or values.dtype == torch.bool:
        raise ValueError(f"{name} must hold integers, got {values.dtype}; convert it with .long()")


def check_labels(labels: Tensor, num_rows: int, name: str) -> tuple[Tensor, int]:
    """Number the distinct labels from 0.

    Args:
        labels: ``(N,)`` integers, any values.
        num_rows: N.
        name: What to call the tensor in an error.

    Returns:
        ``(N,)`` int64 class of every row in ``[0, C)``, and C.

    Raises:
        ValueError: If the shape or the type is wrong.
    """
    if tuple(labels.shape) != (num_rows,):
        raise ValueError(f"{name} must have shape ({num_rows},), one label per row, got {tuple(labels.shape)}")
    check_integers(labels, name)
    values, classes = torch.unique(labels, return_inverse=True)
    return classes, len(values)
