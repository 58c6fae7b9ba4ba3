"""Reader of MNIST's IDX files (http://yann.lecun.com/exdb/mnist), plain or gzipped.

Own code because torchvision's reader takes seconds to import and gives no size check that says what to do.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np

_UNSIGNED_BYTE = 8
_GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of unsigned bytes.

    Args:
        path: Plain or gzipped file; its content decides, not its name.

    Returns:
        uint8 array of the shape that the header gives.

    Raises:
        ValueError: If the file is not IDX, or is shorter or longer than its header says.
    """
    data = path.read_bytes()
    if data[:2] == _GZIP_MAGIC:
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError) as error:
            raise ValueError(f"{path} is a damaged gzip file ({error}); delete it and download it again") from error
    if len(data) < 4 or data[:3] != bytes([0, 0, _UNSIGNED_BYTE]) or len(data) < 4 + 4 * data[3]:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes; delete it and download it again")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    body = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * data[3])
    if body.size != math.prod(shape):
        raise ValueError(
            f"{path} holds {body.size} bytes where its header says {math.prod(shape)}; delete it and download it again"
        )
    return body.reshape(shape)
