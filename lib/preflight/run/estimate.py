"""Estimates how many bytes a build writes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from preflight.errors import CacheRootError

# Bytes of a tile in tiles.inventory: the packed row, its offset, and a path such as objects/ab/<64 hex>.jpg.
INVENTORY_ROW = 67 + 4 + 80
# Bytes of a window in windows.inventory.
WINDOW_ROW = 65
# Bytes of a row in a descriptor segment, without the vector: key and thumbnail.
SEGMENT_ROW = 32 + 256
# Bytes of a vector in the index, without its numbers and its links on level 0: level, offset, id, and the mean of the
# links on higher levels.
INDEX_ROW = 4 + 8 + 8 + 16
# Bytes that a build always leaves free, for the database, records and logs.
RESERVE = 64 << 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """The estimated sizes of a build's artifacts, in bytes. inventory: tiles, and windows if they overlap."""

    inventory: int
    descriptors: int
    index: int
    engines: int

    @property
    def work(self) -> int:
        """The bytes in work/."""
        return self.inventory + self.descriptors + self.index + self.engines

    @property
    def generation(self) -> int:
        """The bytes that are copied into a generation."""
        return self.inventory + self.index + self.engines


def expected_sizes(tiles: int, windows: int | None, dim: int, m: int, engines: int) -> Sizes:
    """Estimate the sizes of a build.

    Args:
        tiles: the number of tiles.
        windows: the number of windows; None if the tiles themselves are embedded.
        dim: the length of a descriptor, in float32 numbers.
        m: the parameter M of the HNSW index.
        engines: the bytes of all engines.
    """
    units = tiles if windows is None else windows
    return Sizes(
        inventory=tiles * INVENTORY_ROW + (windows or 0) * WINDOW_ROW,
        descriptors=units * (4 * dim + SEGMENT_ROW),
        index=units * (4 * dim + 8 * m + INDEX_ROW),
        engines=engines,
    )


def bytes_below(paths: Iterable[Path]) -> int:
    """Return the bytes of all files at or below the paths. Paths that do not exist count as 0."""
    files = (file for path in paths for file in ([path] if path.is_file() else path.rglob("*")))
    return sum(file.stat().st_size for file in files if file.is_file())


def still_needed(sizes: Sizes, written: int) -> int:
    """Return the bytes that a build still writes: the rest of work/, and a generation.

    written: the bytes that work/ holds already. They may differ from the estimate by up to 1 %. Such a difference alone
    counts as 0, because a run that has nothing to do must not be refused.
    """
    rest = sizes.work - written
    return 0 if rest <= sizes.work // 100 else rest + sizes.generation


def check_space(folder: Path, needed: int, free: int) -> None:
    """Refuse a build that would fill the disk. Raises CacheRootError with both figures, `needed` and `free` bytes."""
    if needed + RESERVE > free:
        raise CacheRootError(
            f"{folder} has {free / 1e6:,.0f} MB free, this build needs about {needed / 1e6:,.0f} MB and a reserve of "
            f"{RESERVE / 1e6:,.0f} MB: free space, set cache_root to a larger disk, or keep fewer generations"
        )
