"""Reading a sealed tile: its bytes are hashed as they are read and must be those that were sealed."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from preflight.errors import TileContentError
from preflight.ports import ImageCodec, TilePixelStore
from preflight.tileset.inventory import Inventory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def intact(pixels: TilePixelStore, path: str, sha256: str) -> bool:
    """Whether a tile's file is there and holds the bytes its row records."""
    try:
        with pixels.open_tile(path) as file:
            return hashlib.sha256(file.read()).hexdigest() == sha256
    except (TileContentError, OSError):
        # OSError: it opens, but the medium does not give its bytes.
        return False


def read_tile(
    inventory: Inventory, number: int, pixels: TilePixelStore, images: ImageCodec, size: int | tuple[int, int] | None
) -> NDArray[np.uint8]:
    """The tile in row `number` as (height, width, 3) uint8 RGB, resized to `size` (side, or height and width).

    Raises:
        TileContentError: the file is missing, its bytes are not those sealed, or it does not decode; names the tile.
    """
    row = inventory.rows[number]
    path = inventory.path(number)
    name = f"tile {row['zoom']}/{row['x']}/{row['y']} of {inventory.source(number)} ({path})"
    shape = (size, size) if isinstance(size, int) else size
    try:
        with pixels.open_tile(path) as file:
            content = file.read()
        if hashlib.sha256(content).hexdigest() != inventory.sha256(number):
            raise TileContentError("its bytes are not those its row records")
        return images.decode_rgb(content, shape)
    except TileContentError as error:
        raise TileContentError(f"{name}: {error}; import it again with `doit import SOURCE --update`") from error
    except OSError as error:
        # Reading, unlike opening, does not say of which file.
        raise TileContentError(
            f"{name} cannot be read ({error.strerror or error}). Check the disk the tile store lies on, then import the "
            "tile again with `doit import SOURCE --update`"
        ) from error
