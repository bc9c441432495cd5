"""How many bytes a build writes, known before it writes them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from preflight.errors import CacheRootError

# Bytes a tile in tiles.inventory: the packed row, its offset, and a path such as objects/ab/<64 hex>.jpg.
INVENTORY_ROW = 67 + 4 + 80
# Bytes a window in windows.inventory.
WINDOW_ROW = 65
# Bytes a row of a descriptor segment beside its vector: key and thumbnail.
SEGMENT_ROW = 32 + 256
# Bytes a vector of the index beside its numbers and its links on the ground level: level, offset, id, links above (mean).
INDEX_ROW = 4 + 8 + 8 + 16
# Left free whatever is built: the database, records, logs.
RESERVE = 64 << 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of what a build leaves behind. inventory: with the windows, where there are any."""

    inventory: int
    descriptors: int
    index: int
    engines: int

    @property
    def work(self) -> int:
        """In work/."""
        return self.inventory + self.descriptors + self.index + self.engines

    @property
    def generation(self) -> int:
        """Copied into a generation."""
        return self.inventory + self.index + self.engines


def expected_sizes(tiles: int, windows: int | None, dim: int, m: int, engines: int) -> Sizes:
    """Sizes for so many tiles, with descriptors of `dim` float32 in an HNSW graph of `m` links, and these bytes of engines.

    windows: how many of them have the descriptors, None where the tiles themselves do.
    """
    units = tiles if windows is None else windows
    return Sizes(
        inventory=tiles * INVENTORY_ROW + (windows or 0) * WINDOW_ROW,
        descriptors=units * (4 * dim + SEGMENT_ROW),
        index=units * (4 * dim + 8 * m + INDEX_ROW),
        engines=engines,
    )


def bytes_below(paths: Iterable[Path]) -> int:
    """Bytes of the files at or below the paths that exist."""
    files = (file for path in paths for file in ([path] if path.is_file() else path.rglob("*")))
    return sum(file.stat().st_size for file in files if file.is_file())


def still_needed(sizes: Sizes, there: int) -> int:
    """Bytes a build writes when `there` of those in work/ are written: the rest, and a generation with it.

    What lies there may differ from the estimate a little; that alone is no build, and must not refuse a run with nothing to do.
    """
    rest = sizes.work - there
    return 0 if rest <= sizes.work // 100 else rest + sizes.generation


def check_space(place: Path, needed: int, free: int) -> None:
    """Refuse a build that would fill the disk. Raises CacheRootError with both figures."""
    if needed + RESERVE > free:
        raise CacheRootError(
            f"{place} has {free / 1e6:,.0f} MB free, this build needs about {needed / 1e6:,.0f} MB and a reserve of "
            f"{RESERVE / 1e6:,.0f} MB: free space, set cache_root to a larger disk, or keep fewer generations"
        )
