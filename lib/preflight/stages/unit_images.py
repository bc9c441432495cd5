"""The pixels of retrieval units, at the size that the model takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from preflight.ports import ImageCodec, TilePixelStore
from preflight.stages.reading import read_tile
from preflight.stages.units import Units
from preflight.tileset.inventory import Inventory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class UnitImages(NamedTuple):
    """Images of some units, in the order that decodes each tile once.

    rows: (M,) row numbers of the units, in that order.
    image: position in `rows` -> (height, width, 3) uint8 RGB. Ask for each position once, in ascending order.
    """

    rows: NDArray[np.int64]
    image: Callable[[int], NDArray[np.uint8]]


def unit_images(
    units: Units,
    rows: NDArray[np.int64],
    inventory: Inventory,
    pixels: TilePixelStore,
    images: ImageCodec,
    size: tuple[int, int] | None,
) -> UnitImages:
    """Prepares the images of the units in `rows`. Reads nothing before the first image is asked for.

    size: (height, width) of the model's input in pixels, or None for the tile's own size.

    Raises:
        TileContentError: a window does not belong to the sealed tiles; from `image`, a tile cannot be read.
    """
    if units.steps == 1:
        return UnitImages(rows, lambda position: read_tile(inventory, int(rows[position]), pixels, images, size))
    from preflight.tileset.mosaic import window_mosaic  # noqa: PLC0415 - loads numpy
    from preflight.tileset.windows import SealedTiles  # noqa: PLC0415 - loads numpy

    order, mosaic = window_mosaic(
        SealedTiles.of_inventory(inventory),
        units.rows[rows],
        units.steps,
        read=lambda number: read_tile(inventory, number, pixels, images, None),
        resize=images.resize,
    )

    def image(position: int) -> NDArray[np.uint8]:
        window = mosaic.window(position)
        return window if size is None else images.resize(window, size)

    return UnitImages(rows[order], image)
