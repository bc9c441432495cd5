"""The ports: Protocols through which the stages reach the outside world.

A port declares only the methods that its callers use. tests/contracts holds one suite for each port, and every adapter
runs it. An adapter turns each failure of its library into an error of `preflight.errors`, raised `from` its cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, runtime_checkable

from preflight.records import (
    BackboneSpec,
    BoundingBox,
    IndexParameters,
    ModelSummary,
    Precision,
    Preprocessing,
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


class Clock(Protocol):
    """The wall clock, or a clock that replays a flight log."""

    def __call__(self) -> datetime:
        """Return the current time as timezone-aware UTC."""


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


class BackboneEmbedder(Protocol):
    """Embeds images. It replaces the engine of the descriptor backbone while a cache is built."""

    @property
    def descriptor_dim(self) -> int:
        """The length of a descriptor."""

    @property
    def identity(self) -> str:
        """A text that changes when the descriptors would change: model, weights, version. Part of the action key."""

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embeds (N, height, width, 3) uint8 RGB images. Returns (N, descriptor_dim) float32, L2-normalised."""


class TileMetadataStore(Protocol):
    """C6: the rows of the tile store."""

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


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """A request to compile an ONNX file into an engine.

    inputs: input name -> shape, batch dimension first. workspace_mb: limit of the builder's working memory, in MB.
    batch_size: the largest batch that the engine must accept.
    """

    onnx_path: Path
    inputs: Mapping[str, tuple[int, ...]]
    precision: Precision
    workspace_mb: int
    batch_size: int


class Engine(Protocol):
    """A loaded engine. It is not thread-safe. Close it, or use it as a context manager."""

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """Run one forward pass; arrays are batch first. Raises OutOfDeviceMemory, or EngineBuildError otherwise."""

    def close(self) -> None:
        """Release the device memory. Idempotent."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class QueueingEngine(Engine, Protocol):
    """An engine that computes several batches concurrently. The results are bit-identical to those of `run`."""

    @property
    def depth(self) -> int:
        """The largest number of submitted batches that are not collected yet; 1 if more would not be faster."""

    def submit(self, inputs: Mapping[str, NDArray[np.generic]]) -> None:
        """Start a batch. Fewer than `depth` batches may be pending.

        The caller must not change the arrays before the batch is collected. Raises as `run` does.
        """

    def collect(self) -> dict[str, NDArray[np.float32]]:
        """Wait for the oldest pending batch and return its results. Raises as `run` does."""

    def discard(self) -> None:
        """Wait for all pending batches and drop their results."""


class OutOfDeviceMemory(Exception):  # noqa: N818 - a signal between runtime and batcher, never shown to an operator
    """The batch does not fit into the device's memory. The batcher may try a smaller one."""


class InferenceRuntime(Protocol):
    """C7: compiles ONNX files into engines and loads engines.

    A runtime never falls back to another precision or device: it raises an error.
    """

    @property
    def name(self) -> str:
        """The name in the mission: a name of `engine.runtimes.RUNTIMES`."""

    @property
    def version(self) -> str:
        """The version, digits and dots only. It is part of the engine's file name and action key."""

    def compile(self, request: CompileRequest, target: Path) -> None:
        """Write the engine to `target`. The write is not atomic, so the caller gives a temporary file.

        Raises:
            EngineBuildError: the engine cannot be built.
            OSError: the disk has no space for it.
        """

    def load(self, engine: Path, request: CompileRequest) -> Engine:
        """Load an engine file and check that it has the precision of the request. Raises EngineBuildError."""


class Compilation(Protocol):
    """A compilation that is running."""

    def wait(self) -> None:
        """Wait until the engine is written. Raises as `InferenceRuntime.compile` does."""

    def stop(self) -> None:
        """Cancel the compilation. It writes nothing after this call. Idempotent."""


@runtime_checkable
class ConcurrentRuntime(Protocol):
    """An `InferenceRuntime` that can run several compilations in parallel, each in its own process.

    Parallel compilations give the same engines as sequential ones.
    """

    def start(self, request: CompileRequest, target: Path, *, slot: int) -> Compilation:
        """Start what `compile` does. slot: number among the running compilations, from 0. Raises EngineBuildError."""


class DescriptorIndex(Protocol):
    """An opened index; read-only."""

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest descriptors of (Q, dim) L2-normalised queries.

        Returns scores (Q, k), descending, and ids (Q, k). The id -1 stands for "no result".
        """


class DescriptorIndexFactory(Protocol):
    """C6 `DescriptorIndex`: builds and opens index files."""

    def identity(self) -> dict[str, str]:
        """Return what decides the bytes besides the parameters: library version and SIMD level. Imports the library."""

    def build(
        self,
        ids: NDArray[np.int64],
        chunks: Iterable[NDArray[np.float32]],
        dim: int,
        parameters: IndexParameters,
        target: Path,
    ) -> None:
        """Write an HNSW index to `target`. ids: (N,). chunks: the N vectors in the same order, as arrays (n, dim).

        The bytes depend on the vectors, their order, the parameters and `identity()`. They do not depend on the number
        of threads or on the chunk size. Raises IndexBuildError.
        """

    def retune(self, source: Path, ef_search: int, target: Path) -> None:
        """Write an index with another ef_search, in the bytes of a fresh build. Raises IndexBuildError."""

    def open(self, path: Path) -> DescriptorIndex:
        """Memory-map an index file. Raises IndexBuildError."""


class ImageCodec(Protocol):
    """Decodes and converts images. One image is (height, width, 3) uint8 RGB; several are (N, height, width, 3)."""

    def decode_rgb(self, content: bytes, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Decode one image and resize it to `size` (height, width) if given. Raises TileContentError."""

    def to_batch(self, images: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
        """Normalise N images to (N, 3, height, width) float32: (pixel - mean) / std."""

    def thumbnail16(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the mean luminance of 16 x 16 equal areas of one image, as (256,) uint8."""

    def resize(self, image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """Resize one image to (height, width, 3), with the same filter as `decode_rgb`."""


class OnnxModels(Protocol):
    """Reads ONNX files."""

    def inspect(self, spec: BackboneSpec) -> ModelSummary:
        """Return what a model declares. Raises BackboneError if it is invalid or differs from the spec."""

    def join(self, onnx: Path, target: Path) -> None:
        """Write a model and its external data into one file. Raises BackboneError if one file cannot hold them."""

    def reference(self, onnx: Path) -> Engine:
        """Load the ONNX file itself in ONNX Runtime, in fp32. Raises EngineBuildError."""


class PrecisionTools(Protocol):
    """Converts ONNX files to a precision, for runtimes that take it from the file. A model may exclude layers."""

    def probe(self, spec: BackboneSpec, target: Path) -> None:
        """Write a model whose outputs are the value ranges of the spec's fp32 tensors.

        Raises:
            BackboneError: an override names no node that can have its precision.
            EngineBuildError: the model is already quantised, or too large.
        """

    def ranges(self, outputs: Mapping[str, NDArray[np.float32]]) -> dict[str, tuple[float, float]]:
        """Read the outputs of one run of a probe. Returns tensor name -> (minimum, maximum)."""

    def prepare(
        self, spec: BackboneSpec, ranges: Mapping[str, tuple[float, float]], target: Path, *, symmetric: bool
    ) -> None:
        """Write the spec's model in its precision. symmetric: int8 activations are signed, else have a zero point.

        Raises:
            CalibrationCacheError: a tensor has no range.
            BackboneError, EngineBuildError: as `probe`, or no part of the model can have the precision.
        """


class Signer(Protocol):
    """Signs statements with one key, on this machine or on another one."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key's SPKI DER, hex."""

    def waiting(self) -> bytes | None:
        """Return the exported statement that waits for its signature; None without one, or if the key is here."""

    def sign(self, statement: bytes) -> bytes:
        """Return the DSSE envelope over exactly these bytes.

        Raises SigningKeyError, or SignatureAwaitedError after it exported the statement.
        """
