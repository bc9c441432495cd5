"""The append-only store of descriptors: what was embedded once is not embedded again.

A *space* is everything that decides a descriptor beside the tile's bytes (engine action key, preprocessing, batch size,
dimension), as the SHA-256 of its canonical JSON. Inside a space a row is keyed by the tile's SHA-256. Rows live in
immutable segment files, grouped by block: 256 x 256 tiles of one zoom. A segment is the unit of commit and resume.

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
    Block,
    Segment,
    Space,
    encode_segment,
    is_segment_name,
    is_whole,
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
_OPEN_MAPS = 256  # a process may hold some 65,000 maps; each costs a system call to make again


class DescriptorStore:
    """One space of the store. Readers see whole segments only; one writer at a time (the build lock sees to it).

    root: the store's folder. space: 64 hex digits. dim: of a descriptor. write_file: writes a file atomically and
    durably from chunks; a file it leaves unfinished must not end in `.seg`.

    Raises:
        DescriptorBatchError: space or dim is none, or, on first use, a segment in the folder is not of this space.
    """

    def __init__(self, root: Path, space: str, dim: int, write_file: WriteFile) -> None:
        if re.fullmatch(r"[0-9a-f]{64}", space, re.ASCII) is None or dim < 1:
            raise DescriptorBatchError(f"Not a descriptor space: {space!r} with dimension {dim}.")
        self._folder = root / space[:16]
        self._space = Space(bytes.fromhex(space), dim)
        self._write_file = write_file
        self._known: dict[Block, list[Segment]] | None = None
        self._maps: OrderedDict[Path, NDArray[np.uint8]] = OrderedDict()

    def segments(self) -> list[Path]:
        """Every segment file of the space, sorted. A file under another name is none."""
        if not self._folder.is_dir():
            return []
        return sorted(path for path in self._folder.iterdir() if is_segment_name(path.name))

    def check(self, path: Path) -> bool:
        """Whether a segment is whole, of this space and under its own name. Reads all of it."""
        return is_whole(path, self._space)

    def forget(self) -> None:
        """Look at the folder afresh: segments were removed."""
        self._known = None
        self._maps.clear()

    def lookup(self, block: Block, keys: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Which tiles of a block are there. keys: (N, 32) bytes of SHA-256 -> (N,).

        Raises:
            DescriptorBatchError: a segment of the block is damaged or foreign.
        """
        segments, _ = self._find(block, _as_keys(keys))
        return segments >= 0

    def append(
        self, block: Block, keys: NDArray[np.uint8], thumbs: NDArray[np.uint8], vectors: NDArray[np.float32]
    ) -> Path | None:
        """Commit rows of one block as a segment; returns its path, None for no rows.

        keys: (N, 32). thumbs: (N, 256) or (N, 16, 16). vectors: (N, dim). Of rows with one key the first is kept: two
        tiles with the same bytes have the same descriptor. The same rows give the same file, in whatever order.

        Raises:
            DescriptorBatchError: the arrays do not have these shapes and types.
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
            raise DescriptorBatchError(f"Rows for the descriptor store have the shapes {shapes} and types {types}.")
        known = self._scanned().setdefault(block, [])
        _, order = np.unique(_as_keys(keys), return_index=True)
        name, content = encode_segment(self._space, block, keys[order], thumbs[order], vectors[order])
        path = self._folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write_file(path, content)
        if all(segment.path != path for segment in known):
            known.append(Segment(path, block, len(order), self._space.dim))
            known.sort(key=lambda segment: segment.path)
        return path

    def gather(
        self, blocks: NDArray[np.integer], keys: NDArray[np.uint8], chunk_rows: int = _CHUNK_ROWS
    ) -> Iterator[NDArray[np.float32]]:
        """Descriptors in the order given, in chunks of at most `chunk_rows`, each (n, dim), the caller's own.

        blocks: (N, 3) rows of zoom, x >> 8, y >> 8. keys: (N, 32). Memory: one chunk, and 12 bytes a row.

        Raises:
            DescriptorBatchError: before the first chunk, when a row is not in the store or a segment is damaged.
        """
        import numpy as np  # noqa: PLC0415 - heavy

        return self._gathered(_codes(blocks), _as_keys(keys), chunk_rows, np.empty((0, self._space.dim), np.float32))

    def gather_thumbs(
        self, blocks: NDArray[np.integer], keys: NDArray[np.uint8], chunk_rows: int = _CHUNK_ROWS
    ) -> Iterator[NDArray[np.uint8]]:
        """Thumbnails as `gather` gives descriptors: chunks of (n, 256) uint8."""
        import numpy as np  # noqa: PLC0415 - heavy

        return self._gathered(_codes(blocks), _as_keys(keys), chunk_rows, np.empty((0, THUMB), np.uint8))

    def _gathered(
        self, codes: NDArray[np.int64], keys: NDArray[np.bytes_], chunk_rows: int, like: NDArray[ScalarT]
    ) -> Iterator[NDArray[ScalarT]]:
        import numpy as np  # noqa: PLC0415 - heavy

        table, segment_of, row_of = self._resolve(codes, keys)
        del codes, keys  # what is made of the chunks may need the memory
        for at in range(0, len(row_of), chunk_rows):
            wanted = slice(at, at + chunk_rows)
            segments, rows = segment_of[wanted], row_of[wanted]
            chunk = np.empty((len(rows), like.shape[1]), like.dtype)
            for segment in np.unique(segments):
                here = segments == segment
                chunk[here] = self._part(table[segment], like)[rows[here]]
            yield chunk

    def _resolve(
        self, codes: NDArray[np.int64], keys: NDArray[np.bytes_]
    ) -> tuple[list[Segment], NDArray[np.int32], NDArray[np.int64]]:
        """Every row's segment, as an index into the list returned, and its place in it."""
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
            segments, places = self._find(block, keys[rows])
            if (segments < 0).any():
                missing = keys[rows][int(np.argmax(segments < 0))].ljust(KEY, b"\0").hex()
                raise DescriptorBatchError(
                    f"The tile with SHA-256 {missing} in block {tuple(block)} has no descriptor in {self._folder}. "
                    "Run `doit provision` again."
                )
            segment_of[rows] = segments + len(table)
            row_of[rows] = places
            table += self._scanned().get(block, [])
        return table, segment_of, row_of

    def _find(self, block: Block, keys: NDArray[np.bytes_]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """For each key the number of its segment in the block, -1 for none, and its row there."""
        import numpy as np  # noqa: PLC0415 - heavy

        stored, owners, places = self._merged(block)
        if not len(stored):
            return np.full(len(keys), -1, np.int32), np.zeros(len(keys), np.int64)
        last = len(stored) - 1
        heads, wanted = _heads(stored), _heads(keys)
        # Whole numbers, asked for in their order, are found twenty times as fast as keys of 32 bytes in any order.
        order = np.argsort(wanted)
        at = np.empty(len(keys), np.int64)
        at[order] = np.searchsorted(heads, wanted[order]).clip(max=last)
        hit = stored[at] == keys
        alike = np.flatnonzero(~hit & (heads[at] == wanted))
        at[alike] = np.searchsorted(stored, keys[alike]).clip(max=last)
        hit[alike] = stored[at[alike]] == keys[alike]
        return np.where(hit, owners[at], np.int32(-1)), np.where(hit, places[at], np.int64(0))

    def _merged(self, block: Block) -> tuple[NDArray[np.bytes_], NDArray[np.int32], NDArray[np.int64]]:
        """The keys of all segments of a block, ascending, each with its segment's number and its row there.

        One search among them all, instead of one a segment: a block filled over many runs has many.
        """
        import numpy as np  # noqa: PLC0415 - heavy

        segments = self._scanned().get(block, [])
        if not segments:
            return np.empty(0, "S32"), np.empty(0, np.int32), np.empty(0, np.int64)
        parts = [
            _as_keys(self._bytes(segment)[segment.keys_at : segment.thumbs_at].reshape(-1, KEY)) for segment in segments
        ]
        owners = np.repeat(np.arange(len(parts), dtype=np.int32), [len(part) for part in parts])
        places = np.concatenate([np.arange(len(part), dtype=np.int64) for part in parts])
        joined = np.concatenate(parts)
        # Stable: of a key that lies in two segments the first is taken.
        order = np.argsort(joined, kind="stable")
        return joined[order], owners[order], places[order]

    def _scanned(self) -> dict[Block, list[Segment]]:
        if self._known is None:
            known: dict[Block, list[Segment]] = {}
            for path in self.segments():
                segment = open_segment(path, self._space)
                known.setdefault(segment.block, []).append(segment)
            self._known = known
        return self._known

    def _bytes(self, segment: Segment) -> NDArray[np.uint8]:
        """A segment as a read-only memory map; the least recently used are let go."""
        import numpy as np  # noqa: PLC0415 - heavy

        mapped = self._maps.get(segment.path)
        if mapped is None:
            try:
                mapped = np.memmap(segment.path, np.uint8, mode="r")
            except (OSError, ValueError) as error:
                raise DescriptorBatchError(f"The descriptor segment {segment.path} cannot be read: {error}.") from error
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
    """(N, 32) bytes as N values that numpy sorts and compares; of one length, so zeros at the end do no harm."""
    import numpy as np  # noqa: PLC0415 - heavy

    if keys.ndim != 2 or keys.shape[1] != KEY or keys.dtype != np.uint8:
        raise DescriptorBatchError(f"Keys of the descriptor store are (N, 32) uint8, not {keys.shape} {keys.dtype}.")
    return np.ascontiguousarray(keys).view(f"S{KEY}").reshape(-1)


def _codes(blocks: NDArray[np.integer]) -> NDArray[np.int64]:
    """Each block as one number, which sorts faster than three."""
    import numpy as np  # noqa: PLC0415 - heavy

    codes: NDArray[np.int64] = blocks[:, 0].astype(np.int64) << 48
    codes |= blocks[:, 1].astype(np.int64) << 24
    codes |= blocks[:, 2]
    return codes


def _heads(keys: NDArray[np.bytes_]) -> NDArray[np.uint64]:
    """The first 8 bytes of each key as a number, in the same order as the keys. They are not distinct by necessity."""
    import numpy as np  # noqa: PLC0415 - heavy

    heads: NDArray[np.uint64] = keys.view(">u8").reshape(-1, KEY // 8)[:, 0].astype(np.uint64)
    return heads
