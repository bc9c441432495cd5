"""Adapters from the shapes of C6 to the ports of this package. C6 owns the tile store and the descriptor index.

queries   the ports that list tiles; checks of the rows
store     a whole tile store over a C6 metadata store that can only be queried
pixels    the pixels of tiles
index     the descriptor index
"""

from preflight.adapters.c6.index import c6_descriptor_index_to_rebuilder
from preflight.adapters.c6.pixels import c6_tile_store_to_pixel_opener
from preflight.adapters.c6.queries import (
    c6_tile_metadata_store_to_tiles_batch_query,
    c6_tile_metadata_store_to_tiles_query,
)

__all__ = [
    "c6_descriptor_index_to_rebuilder",
    "c6_tile_metadata_store_to_tiles_batch_query",
    "c6_tile_metadata_store_to_tiles_query",
    "c6_tile_store_to_pixel_opener",
]
