"""What a C6 object looks like: protocols with the methods that C6 promises and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from preflight.records import BoundingBox, HnswParams


class TileIdShape(Protocol):
    """The identity of a tile. lat and lon are the tile's centre in WGS84 degrees."""

    @property
    def zoom_level(self) -> int:
        """The zoom."""

    @property
    def lat(self) -> float:
        """The latitude of the centre."""

    @property
    def lon(self) -> float:
        """The longitude of the centre."""


class TileMetadataShape(Protocol):
    """A row of the tile store. source: text, or an enum with `.value`. content_sha256_hex: 64 hex digits."""

    @property
    def tile_id(self) -> TileIdShape:
        """Which tile it is."""

    @property
    def source(self) -> Any:  # noqa: ANN401 - text or an enum of the caller's
        """Where the tile comes from."""

    @property
    def content_sha256_hex(self) -> str:
        """SHA-256 of the file."""


class C6TileMetadataStore(Protocol):
    """C6's rows. A store may also take `zoom_levels` and `sector_class` instead of `zoom`."""

    def query_by_bbox(self, *, bbox: BoundingBox, zoom: int) -> Iterable[TileMetadataShape]:
        """Returns the rows of one zoom whose tiles share interior with the box."""


class C6TileStore(Protocol):
    """C6's pixels."""

    def read_tile_pixels(self, tile_id: TileIdShape) -> AbstractContextManager[BinaryIO | bytes]:
        """Opens the encoded image of a tile: a context manager over the file's bytes."""


class C6DescriptorIndex(Protocol):
    """C6's index."""

    def rebuild_from_descriptors(
        self, *, descriptors: NDArray[np.float32], tile_ids: Sequence[TileIdShape], hnsw_params: HnswParams
    ) -> object:
        """Builds the index from (N, dim) float32 descriptors; tile_ids in the same order."""
