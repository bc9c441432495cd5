"""Retrieval units: the index holds one descriptor for each. They are sealed tiles or, with overlap, windows over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from preflight.descriptors.segment import Block
from preflight.mission.job import Job
from preflight.records import STEPS
from preflight.store.atomic import atomic_path
from preflight.store.cache_layout import CacheLayout
from preflight.tileset.inventory import Inventory, read_header
from preflight.tileset.mapped import columns_of, row_blocks
from preflight.trace.rule import Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WINDOWS_VERSION = 1


class Units(NamedTuple):
    """The units of a sealed tile set.

    rows: a structured array with the fields id, zoom, x, y, lat, lon and sha256, ascending by (zoom, lat, lon).
    steps: units along a tile's side; x and y count in these steps.
    """

    rows: NDArray[np.void]
    steps: int

    def keys(self) -> NDArray[np.uint8]:
        """Returns (N, 32) uint8: the key of each unit in the descriptor store."""
        keys: NDArray[np.uint8] = columns_of(self.rows, "sha256")[0]
        return keys

    def blocks(self) -> NDArray[np.int32]:
        """Returns (N, 3) int32: the block of the descriptor store for each unit, given by its north-western tile."""
        import numpy as np  # noqa: PLC0415 - heavy

        blocks, side = np.empty((len(self.rows), 3), np.int32), 256 * self.steps
        for at, rows in row_blocks(self.rows):
            here = blocks[at : at + len(rows)]
            here[:, 0], here[:, 1], here[:, 2] = rows["zoom"], rows["x"] // side, rows["y"] // side
        return blocks

    def by_block(self) -> Iterator[tuple[Block, NDArray[np.int64]]]:
        """Yields each block with the row numbers of its units, ascending."""
        import numpy as np  # noqa: PLC0415 - heavy

        blocks = self.blocks()
        codes = blocks[:, 0].astype(np.int64) << 48 | blocks[:, 1].astype(np.int64) << 24 | blocks[:, 2]
        order = np.argsort(codes, kind="stable")
        codes = codes[order]
        starts = np.flatnonzero(codes[1:] != codes[:-1]) + 1
        for rows in np.split(order, starts) if len(order) else []:
            yield Block(*blocks[rows[0]].tolist()), rows


def steps_of(job: Job) -> int:
    """Returns the number of units along a tile's side that the mission asks for."""
    return STEPS[job.config.descriptors.overlap]


def units_file(job: Job, layout: CacheLayout) -> Path:
    """Returns the path of the file that lists the units."""
    return layout.inventory if steps_of(job) == 1 else layout.windows


def open_units(job: Job, layout: CacheLayout) -> Units:
    """Maps the units of the last seal. The up-to-date rule has checked the files before. Raises TileContentError."""
    steps = steps_of(job)
    if steps == 1:
        return Units(Inventory.open(layout.inventory, vouched=True).rows, 1)
    from preflight.tileset.windows import Windows  # noqa: PLC0415 - loads numpy

    return Units(Windows.open(layout.windows, vouched=True).rows, steps)


def units_step(job: Job, layout: CacheLayout) -> Step:
    """Returns the step that cuts windows over the sealed tiles. It raises TileContentError if two windows have one id."""
    steps = steps_of(job)

    def components() -> Mapping[str, str]:
        return {"overlap": str(job.config.descriptors.overlap), "tiles": read_header(layout.inventory).aggregate}

    def build() -> Iterable[Path]:
        from preflight.tileset.windows import SealedTiles, cut, write_windows  # noqa: PLC0415 - loads numpy

        inventory = Inventory.open(layout.inventory, vouched=True)
        rows = cut(SealedTiles.of_inventory(inventory), steps)
        with atomic_path(layout.windows) as temporary, temporary.open("wb") as out:
            write_windows(out, rows, steps, inventory.header.aggregate)
        return ()

    return Step("windows", WINDOWS_VERSION, (layout.inventory,), components, (layout.windows,), build)
