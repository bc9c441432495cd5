"""Reads sealed tiles. Hashes the bytes as it reads them: they must be the bytes that were sealed."""

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
    """Returns whether a tile's file exists and has the digest `sha256`."""
    try:
        with pixels.open_tile(path) as file:
            return hashlib.sha256(file.read()).hexdigest() == sha256
    except (TileContentError, OSError):
        # OSError: the file opens, but the medium does not return its bytes.
        return False


def read_tile(
    inventory: Inventory, number: int, pixels: TilePixelStore, images: ImageCodec, size: int | tuple[int, int] | None
) -> NDArray[np.uint8]:
    """Returns the tile in row `number` as (height, width, 3) uint8 RGB.

    size: the wanted side, or (height, width), in pixels; None keeps the tile's own size.

    Raises:
        TileContentError: the file is missing, its bytes are not the sealed bytes, or it cannot be decoded. Names the tile.
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
        # An error while reading does not name the file, unlike an error while opening.
        raise TileContentError(
            f"{name} cannot be read ({error.strerror or error}). Check the disk the tile store lies on, then import the "
            "tile again with `doit import SOURCE --update`"
        ) from error
