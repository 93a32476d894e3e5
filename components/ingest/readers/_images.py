"""Encoding pictures so that equal pixels are equal bytes on every machine."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["encode_png"]


def encode_png(grey_HW: NDArray[np.uint8]) -> bytes:
    """Encode an H × W picture of grey levels as PNG.

    Not by Pillow: its compressed bytes depend on the zlib it was built with, and an item's identity is its bytes. Stored
    (uncompressed) blocks are the same everywhere, and a line of text is small.
    """
    height, width = grey_HW.shape
    raw = b"".join(b"\0" + row.tobytes() for row in grey_HW)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", _stored(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def _stored(raw: bytes) -> bytes:
    """Wrap bytes as a zlib stream of stored blocks (RFC 1950, RFC 1951 section 3.2.4)."""
    pieces = [raw[start : start + 65535] for start in range(0, len(raw), 65535)] or [b""]
    blocks = [
        struct.pack("<BHH", number == len(pieces) - 1, len(piece), len(piece) ^ 0xFFFF) + piece for number, piece in enumerate(pieces)
    ]
    return b"\x78\x01" + b"".join(blocks) + struct.pack(">I", zlib.adler32(raw))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
