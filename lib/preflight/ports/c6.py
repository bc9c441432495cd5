"""Ports onto C6, which owns the tile store and the descriptor index: rows, pixels, the index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, runtime_checkable

from preflight.records import (
    BoundingBox,
    HnswParams,
    SectorClass,
    SourceRecord,
    StoreRevision,
    TileBboxRecord,
    TileHashRecord,
    TileRow,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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

    def read_tile_pixels(self, tile_id: Any) -> AbstractContextManager[BinaryIO | bytes]:  # noqa: ANN401 - C6's own type
        """Opens the encoded image of a tile: a context manager over the file's bytes.

        tile_id: the `tile_id` of a row, as `query_by_bbox` gave it.
        """


class C6DescriptorIndex(Protocol):
    """C6's index."""

    def rebuild_from_descriptors(
        self, *, descriptors: NDArray[np.float32], tile_ids: Sequence[Any], hnsw_params: HnswParams
    ) -> object:
        """Builds the index from (N, dim) float32 descriptors; tile_ids in the same order."""


class TilesByBboxQuery(Protocol):
    """C6: the tiles of a box with their hashes (SPEC.md)."""

    def query_by_bbox(
        self, *, bbox: BoundingBox, zoom_levels: Sequence[int], sector_class: SectorClass
    ) -> Iterator[TileHashRecord]:
        """Yields every tile that shares interior with the box, from one snapshot, ordered by (zoom, lat, lon, source)."""


class TilesByBboxBatchQuery(Protocol):
    """C6: the tiles of a box, for batching (SPEC.md)."""

    def query_by_bbox_batch(
        self, *, bbox: tuple[float, float, float, float], zoom_levels: Sequence[int], sector_class: SectorClass
    ) -> list[TileBboxRecord]:
        """Returns every tile that shares interior with the box, ordered by (zoom, lat, lon, source).

        bbox: (min_lat, min_lon, max_lat, max_lon) in WGS84 degrees.
        """


class TilePixelOpener(Protocol):
    """C6: the pixels of one tile (SPEC.md)."""

    def open_tile(self, *, zoom: int, lat: float, lon: float) -> AbstractContextManager[BinaryIO]:
        """Opens the encoded image of a tile, by its centre in WGS84 degrees. Raises TileContentError."""


class DescriptorIndexRebuilder(Protocol):
    """C6: the descriptor index (SPEC.md)."""

    def rebuild(
        self,
        *,
        descriptors: NDArray[np.float32],
        tile_records: Sequence[TileBboxRecord],
        hnsw_m: int,
        hnsw_ef_construction: int,
        hnsw_ef_search: int,
        hnsw_metric: str,
    ) -> None:
        """Builds the index from (N, dim) float32 descriptors; tile_records in the same order. Raises IndexBuildError."""


@runtime_checkable
class TileMetadataStore(Protocol):
    """C6: the rows of the tile store."""

    def query_by_bbox(
        self,
        *,
        bbox: BoundingBox,
        zoom: int | None = None,
        zoom_levels: Sequence[int] = (),
        sector_class: SectorClass | None = None,
    ) -> Iterator[TileRow]:
        """Yields the rows whose tiles share interior with the box, as C6 has it, ordered by (zoom, lat, lon, source)."""

    def revision(self) -> StoreRevision:
        """Return the current revision of the store. O(1)."""

    def changed_since(self, revision: int) -> frozenset[tuple[int, int, int]] | None:
        """Return (zoom, x, y) of the tiles changed after a revision; None if that is too long ago, or too many are."""

    def rows_of_tiles(self, tiles: Iterable[tuple[int, int, int]]) -> list[TileRow]:
        """Return the rows of a few tiles with all their sources, ordered by (zoom, lat, lon, source)."""

    def rows_in_box(self, zoom: int, x_range: tuple[int, int], y_range: tuple[int, int]) -> Iterator[TileRow]:
        """Stream the rows of one zoom with x and y in the closed ranges, from one snapshot, by (lat, lon, source)."""

    def upsert(self, rows: Iterable[TileRow], *, replace: bool) -> int:
        """Insert or update rows in one transaction. Rows match by (zoom, x, y, source).

        A stored row with the same sha256 is updated in these cases only. Each one advances the revision, and none is
        counted: its texture is missing and is filled in; with `replace`, it takes the given path; with `replace`, it
        takes the given captured_at if that is earlier.

        Returns:
            The number of rows that are new, or that replaced a row with another sha256.

        Raises:
            ImportSourceError: a stored row has another sha256, and `replace` is false. Nothing of the call is kept.
        """

    def count(self) -> int:
        """Return the number of rows in the store."""

    def record_source(self, record: SourceRecord) -> None:
        """Insert or update the provenance of one source (key: name and origin). The revision does not change."""

    def sources(self) -> list[SourceRecord]:
        """Return the provenance of every source, by (name, origin)."""

    def record_manifest(self, row: ManifestRow) -> None:
        """Insert or update the row of one generation (key: cache_root and generation)."""

    def manifests(self, cache_root: str) -> list[ManifestRow]:
        """Return the rows of one cache root, in ascending order of generation."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """A row of the `manifests` table. status is pending, active or retired."""

    cache_root: str
    generation: int
    manifest_hash: str
    manifest_sha256: str
    flight_id: str | None
    signer: str
    issued_at: datetime
    valid_until: datetime
    status: str


@runtime_checkable
class TilePixelStore(Protocol):
    """C6 `TileStore`: the pixels of tiles."""

    def open_tile(self, path: str) -> AbstractContextManager[BinaryIO]:
        """Open a tile by the path in its row. Raises TileContentError if it is missing or larger than any tile."""

    def folder(self) -> str | None:
        """Return the absolute folder, without symbolic links, of the tile files; None if tiles are no files."""

    def put(self, content: bytes, sha256: str, suffix: str) -> tuple[str, bool]:
        """Store bytes durably under their hash, and replace a damaged file. Writes nothing if they are stored already.

        Returns the path for the row, and whether the bytes had to be written.
        """
