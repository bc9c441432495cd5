"""A segment of the descriptor store: a file with rows of one block, which is written once and never changed.

    <zoom>-<x >> 8>-<y >> 8>-<content hash, 16 hex>.seg

    header     128 bytes, little endian: magic, version, dim, zoom, x >> 8, y >> 8, count, space; then zeros
    keys       count x 32 bytes, ascending, distinct
    thumbnails count x 256 bytes: 16 x 16 luminance, row by row
    vectors    count x dim float32, little endian
    trailer    SHA-256 of everything before it; its first 16 hex digits are in the file name

`preflight.descriptors.descriptor_store` reads the rows and explains blocks and spaces.
"""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from preflight.errors import DescriptorBatchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "KEY",
    "THUMB",
    "UNREADABLE",
    "Block",
    "Segment",
    "Space",
    "block_of",
    "encode_segment",
    "is_intact",
    "is_segment_name",
    "open_segment",
]

KEY, THUMB = 32, 256
"""Bytes of a key and of a thumbnail."""
UNREADABLE = "Check its permissions and the disk; if you remove the file, `doit provision` embeds its tiles again."
"""The remedy in messages about a segment that cannot be read."""

_HEADER = struct.Struct("<8sIIIIIQ32s")
_HEADER_SIZE = 128  # keeps the vectors aligned in a memory map
_MAGIC = b"PFDESCR\0"
_VERSION = 1
_TRAILER = 32
_NAME = re.compile(r"([0-9]+)-([0-9]+)-([0-9]+)-([0-9a-f]{16})\.seg", re.ASCII)


class Block(NamedTuple):
    """A block of 256 x 256 tiles of one zoom. x and y are those of the tiles, shifted right by 8 bits."""

    zoom: int
    x: int
    y: int


def block_of(zoom: int, x: int, y: int) -> Block:
    """Return the block that contains a tile."""
    return Block(zoom, x >> 8, y >> 8)


class Space(NamedTuple):
    """The descriptor space of a folder. digest: 32 bytes, hash of everything that decides a descriptor."""

    digest: bytes
    dim: int


@dataclass(frozen=True, slots=True)
class Segment:
    """The path, block and size of a segment. The offsets of its parts follow from the size."""

    path: Path
    block: Block
    count: int
    dim: int

    @property
    def keys_at(self) -> int:
        """The offset of the keys."""
        return _HEADER_SIZE

    @property
    def thumbs_at(self) -> int:
        """The offset of the thumbnails, which is the end of the keys."""
        return self.keys_at + self.count * KEY

    @property
    def vectors_at(self) -> int:
        """The offset of the vectors, which is the end of the thumbnails."""
        return self.thumbs_at + self.count * THUMB

    @property
    def trailer_at(self) -> int:
        """The offset of the trailer, which is the end of the vectors."""
        return self.vectors_at + self.count * self.dim * 4


def is_segment_name(name: str) -> bool:
    """Return whether a file of this name is a segment. Unfinished files have other names."""
    return _NAME.fullmatch(name) is not None


def encode_segment(
    space: Space, block: Block, keys: NDArray[np.uint8], thumbs: NDArray[np.uint8], vectors: NDArray[np.float32]
) -> tuple[str, list[bytes | memoryview]]:
    """Return the file name and the content of a segment.

    Args:
        space: the descriptor space.
        block: the block of all rows.
        keys: (N, 32) uint8, ascending and distinct.
        thumbs: (N, 256) uint8.
        vectors: (N, dim) float32.
    """
    header = _HEADER.pack(_MAGIC, _VERSION, space.dim, *block, len(keys), space.digest)
    parts: list[bytes | memoryview] = [
        header.ljust(_HEADER_SIZE, b"\0"),
        _raw(keys),
        _raw(thumbs),
        _raw(vectors.astype("<f4", copy=False)),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    name = f"{block.zoom}-{block.x}-{block.y}-{digest.hexdigest()[:16]}.seg"
    return name, [*parts, digest.digest()]


def open_segment(path: Path, space: Space) -> Segment:
    """Open a segment. Compares its header with its size, its name and the space, and reads nothing else.

    Raises:
        DescriptorBatchError: the file cannot be read, is damaged, or belongs to another space.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
        size = path.stat().st_size
    except OSError as error:
        raise DescriptorBatchError(f"The descriptor segment {path} cannot be read: {error}. {UNREADABLE}") from error
    if len(header) == _HEADER.size:
        magic, version, dim, zoom, x, y, count, digest = _HEADER.unpack(header)
        segment = Segment(path, Block(zoom, x, y), count, dim)
        fits = (magic, version, dim, digest) == (_MAGIC, _VERSION, space.dim, space.digest)
        named = path.name.startswith(f"{zoom}-{x}-{y}-")
        if fits and named and count > 0 and size == segment.trailer_at + _TRAILER:
            return segment
    raise DescriptorBatchError(
        f"{path} is damaged or belongs to another descriptor space. Remove it and run `doit provision`, which embeds "
        "its tiles again."
    )


def is_intact(path: Path, space: Space) -> bool:
    """Return whether a segment is undamaged, belongs to this space and has the right name. Reads the whole file."""
    try:
        segment = open_segment(path, space)
        with path.open("rb", buffering=0) as file:
            digest, trailer = hashlib.sha256(), b""
            remaining = segment.trailer_at
            while remaining and (part := file.read(min(remaining, 1 << 18))):
                digest.update(part)
                remaining -= len(part)
            trailer = file.read(_TRAILER)
    except (DescriptorBatchError, OSError):
        return False
    name = _NAME.fullmatch(path.name)
    return trailer == digest.digest() and name is not None and name[4] == trailer.hex()[:16]


def _raw(array: NDArray[np.generic]) -> memoryview:
    """Return the bytes of an array without a copy."""
    return array.data.cast("B")
