"""The append-only store of descriptors. A unit that was embedded once is not embedded again.

A *space* is everything besides the tile's bytes that decides a descriptor: engine action key, preprocessing, batch size
and dimension. It is identified by the SHA-256 of its canonical JSON. Inside a space, the key of a row is the SHA-256 of
the tile. Rows are grouped by block (256 x 256 tiles of one zoom) and lie in immutable segment files. A segment is the
unit of commit and of resuming.

    <root>/<space, 16 hex>/<segment>        see `preflight.descriptors.segment`
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from preflight.descriptors.segment import (
    KEY,
    THUMB,
    UNREADABLE,
    Block,
    Segment,
    Space,
    encode_segment,
    is_intact,
    is_segment_name,
    open_segment,
)
from preflight.errors import DescriptorBatchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DescriptorStore"]

ScalarT = TypeVar("ScalarT", bound="np.generic")
WriteFile = Callable[[Path, "Iterable[bytes | memoryview]"], object]

_CHUNK_ROWS = 4096
_OPEN_MAPS = 256  # a process may hold about 65,000 mappings; mapping a file again costs one system call


class DescriptorStore:
    """One space of the store. Readers see complete segments only. The build lock ensures that there is one writer.

    Args:
        root: the folder of the store.
        space: 64 hex digits.
        dim: length of a descriptor.
        write_file: writes a file atomically and durably from chunks. The name of an unfinished file must not end in
            `.seg`.

    Raises:
        DescriptorBatchError: space or dim is invalid. Also raised on first use if a segment in the folder is damaged or
            belongs to another space.
    """

    def __init__(self, root: Path, space: str, dim: int, write_file: WriteFile) -> None:
        if re.fullmatch(r"[0-9a-f]{64}", space, re.ASCII) is None or dim < 1:
            raise DescriptorBatchError(f"{space!r} with dimension {dim} is no valid descriptor space.")
        self._folder = root / space[:16]
        self._space = Space(bytes.fromhex(space), dim)
        self._write_file = write_file
        self._by_block: dict[Block, list[Segment]] | None = None
        self._maps: OrderedDict[Path, NDArray[np.uint8]] = OrderedDict()

    def segments(self) -> list[Path]:
        """Return the segment files of the space, sorted. Files with other names are ignored."""
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if is_segment_name(path.name))

    def check(self, path: Path) -> bool:
        """Return whether a segment is undamaged, belongs to this space and has the right name. Reads the whole file."""
        return is_intact(path, self._space)

    def forget(self) -> None:
        """Read the folder again at the next use, because segments were removed."""
        self._by_block = None
        self._maps.clear()

    def lookup(self, block: Block, keys: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which tiles of a block have a descriptor: (N,). keys: (N, 32), the bytes of SHA-256.

        Raises:
            DescriptorBatchError: a segment is damaged or belongs to another space.
        """
        segments, _ = self._find(block, _as_keys(keys))
        return segments >= 0

    def append(
        self, block: Block, keys: NDArray[np.uint8], thumbs: NDArray[np.uint8], vectors: NDArray[np.float32]
    ) -> Path | None:
        """Commit rows of one block as a segment.

        If several rows have the same key, the first is kept: tiles with the same bytes have the same descriptor. The
        same rows give the same file in any order.

        Args:
            block: the block.
            keys: (N, 32) uint8.
            thumbs: (N, 256) or (N, 16, 16) uint8.
            vectors: (N, dim) float32.

        Returns:
            The path of the segment; None if there are no rows.

        Raises:
            DescriptorBatchError: an array has another shape or type.
        """
        import numpy as np  # noqa: PLC0415 - heavy

        count = len(keys)
        if not count:
            return None
        thumbs = thumbs.reshape(len(thumbs), -1) if len(thumbs) else thumbs
        shapes = (keys.shape, thumbs.shape, vectors.shape)
        types = [str(array.dtype) for array in (keys, thumbs, vectors)]
        wanted = ((count, KEY), (count, THUMB), (count, self._space.dim))
        if shapes != wanted or types != ["uint8", "uint8", "float32"]:
            raise DescriptorBatchError(
                f"Rows for the descriptor store must have the shapes {wanted} and the types uint8, uint8 and float32; "
                f"they have the shapes {shapes} and the types {types}."
            )
        segments = self._scanned().setdefault(block, [])
        _, order = np.unique(_as_keys(keys), return_index=True)
        name, content = encode_segment(self._space, block, keys[order], thumbs[order], vectors[order])
        path = self._folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write_file(path, content)
        if all(segment.path != path for segment in segments):
            segments.append(Segment(path, block, len(order), self._space.dim))
            segments.sort(key=lambda segment: segment.path)
        return path

    def gather(
        self, blocks: NDArray[np.integer], keys: NDArray[np.uint8], chunk_rows: int = _CHUNK_ROWS
    ) -> Iterator[NDArray[np.float32]]:
        """Read descriptors in the given order. Memory holds one chunk and 12 bytes for each row.

        Args:
            blocks: (N, 3), zoom, x >> 8 and y >> 8 of each row.
            keys: (N, 32) uint8.
            chunk_rows: the largest number of rows in a chunk.

        Returns:
            An iterator over chunks (n, dim) float32. The caller may change them.

        Raises:
            DescriptorBatchError: a row is not in the store, or a segment is damaged. It is raised before the first
                chunk.
        """
        import numpy as np  # noqa: PLC0415 - heavy

        return self._gathered(_codes(blocks), _as_keys(keys), chunk_rows, np.empty((0, self._space.dim), np.float32))

    def gather_thumbs(
        self, blocks: NDArray[np.integer], keys: NDArray[np.uint8], chunk_rows: int = _CHUNK_ROWS
    ) -> Iterator[NDArray[np.uint8]]:
        """Read thumbnails as `gather` reads descriptors, in chunks (n, 256) uint8."""
        import numpy as np  # noqa: PLC0415 - heavy

        return self._gathered(_codes(blocks), _as_keys(keys), chunk_rows, np.empty((0, THUMB), np.uint8))

    def _gathered(
        self, codes: NDArray[np.int64], keys: NDArray[np.bytes_], chunk_rows: int, like: NDArray[ScalarT]
    ) -> Iterator[NDArray[ScalarT]]:
        import numpy as np  # noqa: PLC0415 - heavy

        table, segment_of, row_of = self._resolve(codes, keys)
        del codes, keys  # free the memory: the consumer of the chunks may need it
        for first in range(0, len(row_of), chunk_rows):
            wanted = slice(first, first + chunk_rows)
            segments, rows = segment_of[wanted], row_of[wanted]
            chunk = np.empty((len(rows), like.shape[1]), like.dtype)
            for segment in np.unique(segments):
                of_segment = segments == segment
                chunk[of_segment] = self._part(table[segment], like)[rows[of_segment]]
            yield chunk

    def _resolve(
        self, codes: NDArray[np.int64], keys: NDArray[np.bytes_]
    ) -> tuple[list[Segment], NDArray[np.int32], NDArray[np.int64]]:
        """Locate each key. Returns a list of segments, and for each key the index of its segment and its row there."""
        import numpy as np  # noqa: PLC0415 - heavy

        if len(codes) != len(keys):
            raise DescriptorBatchError(f"{len(codes)} blocks were given for {len(keys)} keys.")
        table: list[Segment] = []
        segment_of = np.empty(len(keys), np.int32)
        row_of = np.empty(len(keys), np.int64)
        by_block = np.argsort(codes, kind="stable")
        ordered = codes[by_block]
        borders = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
        del ordered
        for rows in np.split(by_block, borders) if len(codes) else []:
            code = int(codes[rows[0]])
            block = Block(code >> 48, code >> 24 & 0xFFFFFF, code & 0xFFFFFF)
            segments, segment_rows = self._find(block, keys[rows])
            if (segments < 0).any():
                missing = keys[rows][int(np.argmax(segments < 0))].ljust(KEY, b"\0").hex()
                raise DescriptorBatchError(
                    f"The tile with SHA-256 {missing} in block {tuple(block)} has no descriptor in {self._folder}. "
                    "Run `doit provision` again."
                )
            segment_of[rows] = segments + len(table)
            row_of[rows] = segment_rows
            table += self._scanned().get(block, [])
        return table, segment_of, row_of

    def _find(self, block: Block, keys: NDArray[np.bytes_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return for each key the number of its segment in the block and its row there; -1 if it is not stored."""
        import numpy as np  # noqa: PLC0415 - heavy

        stored, segments, rows = self._merged(block)
        if not len(stored):
            return np.full(len(keys), -1, np.int32), np.zeros(len(keys), np.int64)
        last = len(stored) - 1
        prefixes, wanted = _prefixes(stored), _prefixes(keys)
        # A sorted search for integers is 20 times as fast as an unsorted search for keys of 32 bytes.
        order = np.argsort(wanted)
        index = np.empty(len(keys), np.int64)
        index[order] = np.searchsorted(prefixes, wanted[order]).clip(max=last)
        hit = stored[index] == keys
        same_prefix = np.flatnonzero(~hit & (prefixes[index] == wanted))
        index[same_prefix] = np.searchsorted(stored, keys[same_prefix]).clip(max=last)
        hit[same_prefix] = stored[index[same_prefix]] == keys[same_prefix]
        return np.where(hit, segments[index], np.int32(-1)), np.where(hit, rows[index], np.int64(0))

    def _merged(self, block: Block) -> tuple[NDArray[np.bytes_], NDArray[np.int32], NDArray[np.int64]]:
        """Return the keys of all segments of a block, ascending, with the number of the segment and the row there.

        A block that was filled over many runs has many segments. One search in the merged keys replaces one for each.
        """
        import numpy as np  # noqa: PLC0415 - heavy

        segments = self._scanned().get(block, [])
        if not segments:
            return np.empty(0, "S32"), np.empty(0, np.int32), np.empty(0, np.int64)
        parts = [
            _as_keys(self._bytes(segment)[segment.keys_at : segment.thumbs_at].reshape(-1, KEY)) for segment in segments
        ]
        numbers = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        rows = np.concatenate([np.arange(len(part), dtype=np.int64) for part in parts])
        joined = np.concatenate(parts)
        # The sort is stable: if two segments hold a key, the first one counts.
        order = np.argsort(joined, kind="stable")
        return joined[order], numbers[order], rows[order]

    def _scanned(self) -> dict[Block, list[Segment]]:
        if self._by_block is None:
            by_block: dict[Block, list[Segment]] = {}
            for path in self.segments():
                segment = open_segment(path, self._space)
                by_block.setdefault(segment.block, []).append(segment)
            self._by_block = by_block
        return self._by_block

    def _bytes(self, segment: Segment) -> NDArray[np.uint8]:
        """Return a segment as a read-only memory map. Keeps the _OPEN_MAPS last used maps open."""
        import numpy as np  # noqa: PLC0415 - heavy

        mapped = self._maps.get(segment.path)
        if mapped is None:
            try:
                mapped = np.memmap(segment.path, np.uint8, mode="r")
            except (OSError, ValueError) as error:
                raise DescriptorBatchError(
                    f"The descriptor segment {segment.path} cannot be read: {error}. {UNREADABLE}"
                ) from error
            self._maps[segment.path] = mapped
            if len(self._maps) > _OPEN_MAPS:
                self._maps.popitem(last=False)
        self._maps.move_to_end(segment.path)
        return mapped

    def _part(self, segment: Segment, like: NDArray[ScalarT]) -> NDArray[ScalarT]:
        start, end = (
            (segment.thumbs_at, segment.vectors_at)
            if like.dtype == "uint8"
            else (segment.vectors_at, segment.trailer_at)
        )
        stored: NDArray[ScalarT] = self._bytes(segment)[start:end].view(like.dtype.newbyteorder("<"))
        return stored.reshape(segment.count, like.shape[1])


def _as_keys(keys: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    """View (N, 32) bytes as N values that numpy can sort and compare.

    numpy drops zeros at the end of such values. This is harmless because all keys have the same length.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    if keys.ndim != 2 or keys.shape[1] != KEY or keys.dtype != np.uint8:
        raise DescriptorBatchError(
            f"Keys of the descriptor store must be (N, {KEY}) uint8; they are {keys.shape} {keys.dtype}."
        )
    return np.ascontiguousarray(keys).view(f"S{KEY}").reshape(-1)


def _codes(blocks: NDArray[np.integer]) -> NDArray[np.int64]:
    """Encode each block as one number, which sorts faster than three."""
    import numpy as np  # noqa: PLC0415 - heavy

    codes: NDArray[np.int64] = blocks[:, 0].astype(np.int64) << 48
    codes |= blocks[:, 1].astype(np.int64) << 24
    codes |= blocks[:, 2]
    return codes


def _prefixes(keys: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """Return the first 8 bytes of each key as a number that sorts like the key. Different keys may share a prefix."""
    import numpy as np  # noqa: PLC0415 - heavy

    prefixes: NDArray[np.uint64] = keys.view(">u8").reshape(-1, KEY // 8)[:, 0].astype(np.uint64)
    return prefixes
