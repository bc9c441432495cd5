"""A segment of the descriptor store: rows of one block, in a file that is written once and never changed.

    <zoom>-<x >> 8>-<y >> 8>-<content hash, 16 hex>.seg

    header     128 bytes, little endian: magic, version, dim, zoom, x >> 8, y >> 8, count, space; then zeros
    keys       count x 32 bytes, ascending, distinct
    thumbnails count x 256 bytes: 16 x 16 luminance, row by row
    vectors    count x dim float32, little endian
    trailer    SHA-256 of all before it; its first 16 hex digits are in the file name

What a block and a space are says `preflight.descriptors.descriptor_store`, which reads the rows.
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
    "Block",
    "Segment",
    "Space",
    "block_of",
    "encode_segment",
    "is_segment_name",
    "is_whole",
    "open_segment",
]

KEY, THUMB = 32, 256
"""Bytes of a key, and of a thumbnail."""

_HEADER = struct.Struct("<8sIIIIIQ32s")
_HEADER_SIZE = 128  # the vectors stay aligned for a memory map
_MAGIC = b"PFDESCR\0"
_VERSION = 1
_TRAILER = 32
_NAME = re.compile(r"([0-9]+)-([0-9]+)-([0-9]+)-([0-9a-f]{16})\.seg", re.ASCII)


class Block(NamedTuple):
    """256 x 256 tiles of one zoom: x and y are the tiles' own, shifted right by 8."""

    zoom: int
    x: int
    y: int


def block_of(zoom: int, x: int, y: int) -> Block:
    """The block a tile lies in."""
    return Block(zoom, x >> 8, y >> 8)


class Space(NamedTuple):
    """What all descriptors of a store's folder share. digest: 32 bytes, of everything that decides a descriptor."""

    digest: bytes
    dim: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment's place and size; its parts lie at offsets that follow from them."""

    path: Path
    block: Block
    count: int
    dim: int

    @property
    def keys_at(self) -> int:
        """Where the keys begin."""
        return _HEADER_SIZE

    @property
    def thumbs_at(self) -> int:
        """Where the keys end and the thumbnails begin."""
        return self.keys_at + self.count * KEY

    @property
    def vectors_at(self) -> int:
        """Where the thumbnails end and the vectors begin."""
        return self.thumbs_at + self.count * THUMB

    @property
    def trailer_at(self) -> int:
        """Where the vectors end and the trailer begins."""
        return self.vectors_at + self.count * self.dim * 4


def is_segment_name(name: str) -> bool:
    """Whether a file of this name is a segment; files that were never finished have other names."""
    return _NAME.fullmatch(name) is not None


def encode_segment(
    space: Space, block: Block, keys: NDArray[np.uint8], thumbs: NDArray[np.uint8], vectors: NDArray[np.float32]
) -> tuple[str, list[bytes | memoryview]]:
    """A segment's file name and content. keys: (N, 32), ascending, distinct. thumbs: (N, 256). vectors: (N, dim)."""
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
    """A segment whose header and size fit a space and its own name; no more of it is read.

    Raises:
        DescriptorBatchError: it cannot be read, or does not fit.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
        size = path.stat().st_size
    except OSError as error:
        raise DescriptorBatchError(f"The descriptor segment {path} cannot be read: {error}.") from error
    if len(header) == _HEADER.size:
        magic, version, dim, zoom, x, y, count, digest = _HEADER.unpack(header)
        segment = Segment(path, Block(zoom, x, y), count, dim)
        fits = (magic, version, dim, digest) == (_MAGIC, _VERSION, space.dim, space.digest)
        named = path.name.startswith(f"{zoom}-{x}-{y}-")
        if fits and named and count > 0 and size == segment.trailer_at + _TRAILER:
            return segment
    raise DescriptorBatchError(
        f"{path} is damaged or belongs to another descriptor space. Remove it: its tiles are embedded again."
    )


def is_whole(path: Path, space: Space) -> bool:
    """Whether a segment is what was written, of this space and under its own name. Reads all of it."""
    try:
        segment = open_segment(path, space)
        with path.open("rb", buffering=0) as file:
            digest, trailer = hashlib.sha256(), b""
            left = segment.trailer_at
            while left and (part := file.read(min(left, 1 << 18))):
                digest.update(part)
                left -= len(part)
            trailer = file.read(_TRAILER)
    except (DescriptorBatchError, OSError):
        return False
    name = _NAME.fullmatch(path.name)
    return trailer == digest.digest() and name is not None and name[4] == trailer.hex()[:16]


def _raw(array: NDArray[np.generic]) -> memoryview:
    """An array's bytes, without a copy."""
    return array.data.cast("B")
