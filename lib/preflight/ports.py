"""What the stages need from the world, as Protocols with the fewest methods their callers use.

Each port has a contract suite under tests/contracts that every adapter runs. An adapter turns every foreign failure into
an error of `preflight.errors`, raised `from` its cause.
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
    """The wall clock, or one derived from a flight log in replay."""

    def __call__(self) -> datetime:
        """Now, timezone-aware UTC."""


class TileHashesByBbox(Protocol):
    """C6: the tile set of a box with hashes, for the aggregate (SPEC.md)."""

    def tile_hashes_by_bbox(
        self, bbox: BoundingBox, zoom_levels: Sequence[int], sector_class: SectorClass
    ) -> Iterator[TileHashRecord]:
        """Every tile that shares interior with the box, one snapshot, ordered by (zoom, lat, lon, source)."""


class TilesByBbox(Protocol):
    """C6: the tile set of a box, for batching (SPEC.md)."""

    def tiles_by_bbox(
        self, bbox: BoundingBox, zoom_levels: Sequence[int], sector_class: SectorClass
    ) -> Iterator[TileBboxRecord]:
        """Every tile that shares interior with the box, one snapshot, ordered by (zoom, lat, lon, source)."""


class TileMetadataStore(TileHashesByBbox, TilesByBbox, Protocol):
    """C6: the rows of the tile store."""

    def revision(self) -> StoreRevision:
        """The state the store is in. O(1)."""

    def changed_since(self, revision: int) -> frozenset[tuple[int, int, int]] | None:
        """(zoom, x, y) of every tile changed after a revision of this store; None where that is too long ago or too much."""

    def rows_of_tiles(self, tiles: Iterable[tuple[int, int, int]]) -> list[TileRow]:
        """The rows of a few tiles, all their sources, ordered by (zoom, lat, lon, source)."""

    def rows_in_box(self, zoom: int, x_range: tuple[int, int], y_range: tuple[int, int]) -> Iterator[TileRow]:
        """Rows of one zoom with x, y in the closed ranges, streamed, ordered by (lat, lon, source), one snapshot."""

    def upsert(self, rows: Iterable[TileRow], *, replace: bool) -> int:
        """Insert rows in one transaction; returns how many were new or replaced.

        A row whose (zoom, x, y, source) is there with the same sha256 is left as it is, but for a texture nobody had
        measured: that is filled in, which is a change like any other, though not counted. So it is if `replace` where
        the row has another path, which becomes the one given, or a later captured_at, which becomes the earlier one.
        With other bytes the row is replaced if `replace`, else ImportSourceError is raised and nothing of the call is kept.
        """

    def count(self) -> int:
        """Rows in the store."""

    def record_source(self, record: SourceRecord) -> None:
        """Insert or update the provenance of one source (key: name and origin). The revision stays."""

    def sources(self) -> list[SourceRecord]:
        """The provenance of every source, by (name, origin)."""

    def record_manifest(self, row: ManifestRow) -> None:
        """Insert or update the row of one generation (key: cache_root and generation)."""

    def manifests(self, cache_root: str) -> list[ManifestRow]:
        """The rows of one cache root, by generation, ascending."""


@dataclass(frozen=True, slots=True)
class ManifestRow:
    """A row of the `manifests` table. status: pending, active, retired."""

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
        """Open a tile by its row's path. Raises TileContentError when the file is not there, or larger than any tile."""

    def folder(self) -> str | None:
        """Below which each tile is a file under its row's path: absolute, no link in it; None where tiles are no files."""

    def put(self, content: bytes, sha256: str, suffix: str) -> tuple[str, bool]:
        """Store bytes durably under their hash; returns the path for the row, and whether they had to be written.

        Idempotent: where exactly these bytes lie already, nothing is written. Spoilt ones are replaced.
        """


@dataclass(frozen=True, slots=True)
class CompileRequest:
    """ONNX to engine: what a runtime is asked to build.

    inputs: name -> shape with the batch dimension first; batch_size is the largest batch the engine must accept.
    """

    onnx_path: Path
    inputs: Mapping[str, tuple[int, ...]]
    precision: Precision
    workspace_mb: int
    batch_size: int


class Engine(Protocol):
    """A loaded engine. Not thread-safe. Close it, or use it as a context manager."""

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """One forward pass; arrays are batch first. Raises OutOfDeviceMemory, or EngineBuildError on any other failure."""

    def close(self) -> None:
        """Release the device memory. Idempotent."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class QueueingEngine(Engine, Protocol):
    """An engine that computes several batches at a time; what it computes is what `run` gives, to the last bit."""

    @property
    def depth(self) -> int:
        """How many batches may be under way; 1 where nothing is won by more."""

    def submit(self, inputs: Mapping[str, NDArray[np.generic]]) -> None:
        """Start a batch, while fewer than `depth` are under way. The arrays must not change until it is collected.

        Raises as `run` does.
        """

    def collect(self) -> dict[str, NDArray[np.float32]]:
        """The results of the batch submitted first, which is then no longer under way. Raises as `run` does."""

    def discard(self) -> None:
        """Wait for what is under way and forget it."""


class OutOfDeviceMemory(Exception):  # noqa: N818 - a signal between runtime and batcher, never shown to an operator
    """The batch did not fit; the batcher may try a smaller one."""


class InferenceRuntime(Protocol):
    """C7: compiles ONNX files into engines and runs them. Nothing falls back: what cannot be done is raised."""

    @property
    def name(self) -> str:
        """As in the mission."""

    @property
    def version(self) -> str:
        """Digits and dots only; goes into the engine's file name and action key."""

    def compile(self, request: CompileRequest, target: Path) -> None:
        """Write the engine to `target` (not yet atomic: the caller hands a temporary).

        Raises EngineBuildError; OSError where there is no space for it.
        """

    def load(self, engine: Path, request: CompileRequest) -> Engine:
        """Load the exported bytes again, at the request's precision, read back and compared. Raises EngineBuildError."""


class Compilation(Protocol):
    """An engine that is being compiled."""

    def wait(self) -> None:
        """Until the engine is written. Raises as `InferenceRuntime.compile` does."""

    def stop(self) -> None:
        """Give it up: nothing is written from here on. Idempotent."""


@runtime_checkable
class ConcurrentRuntime(Protocol):
    """An `InferenceRuntime` whose compilations may run beside each other, each in its own process, without changing a result."""

    def start(self, request: CompileRequest, target: Path, *, slot: int) -> Compilation:
        """Begin what `compile` does. slot: which of the compilations under way this is, from 0. Raises EngineBuildError."""


class DescriptorIndex(Protocol):
    """An opened, read-only index."""

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(Q, dim) L2-normalised -> scores (Q, k) descending and ids (Q, k); id -1 means none."""


class DescriptorIndexFactory(Protocol):
    """C6 `DescriptorIndex`: builds and opens index files."""

    def identity(self) -> dict[str, str]:
        """What decides the bytes beside the parameters: library version, SIMD level. Imports the library."""

    def build(
        self,
        ids: NDArray[np.int64],
        chunks: Iterable[NDArray[np.float32]],
        dim: int,
        parameters: IndexParameters,
        target: Path,
    ) -> None:
        """Write an HNSW index of the vectors, in the order given, to `target`. Raises IndexBuildError.

        The bytes depend on the vectors, their order, the parameters and `identity()`, not on threads or chunk borders.
        """

    def retune(self, source: Path, ef_search: int, target: Path) -> None:
        """Write the index of `source` with another ef_search: the bytes a fresh build would give. Raises IndexBuildError."""

    def open(self, path: Path) -> DescriptorIndex:
        """Memory-map an index file. Raises IndexBuildError."""


class ImageCodec(Protocol):
    """Tile images in, pixels out. Arrays of images are (N, height, width, 3) uint8 RGB."""

    def decode_rgb(self, content: bytes, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Decode one image, resized to (height, width) if given. Raises TileContentError."""

    def to_batch(self, images: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
        """Images -> (N, 3, height, width) float32, (pixel - mean) / std."""

    def thumbnail16(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """One image -> (256,) luminance of 16 x 16 equal areas."""

    def resize(self, image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        """One image -> (height, width, 3), as `decode_rgb` resizes."""


class OnnxModels(Protocol):
    """Reads ONNX files: what they ask for, and what they are."""

    def inspect(self, spec: BackboneSpec) -> ModelSummary:
        """Refuse a file that does not load, fails the checker, or differs from the spec. Raises BackboneError."""

    def join(self, onnx: Path, target: Path) -> None:
        """Write a model with its external data in the file. Raises BackboneError: it is more than one file can hold."""

    def reference(self, onnx: Path) -> Engine:
        """ONNX Runtime fp32 on the model itself. Raises EngineBuildError."""


class PrecisionTools(Protocol):
    """Brings ONNX files to a precision, for runtimes that read it there. A model may name layers that stay out of it."""

    def probe(self, spec: BackboneSpec, target: Path) -> None:
        """Write a model that tells, instead of the spec's outputs, how far its fp32 tensors reach.

        Raises:
            BackboneError: an override names no node that could be of its precision.
            EngineBuildError: the model is quantised already, or too large.
        """

    def ranges(self, outputs: Mapping[str, NDArray[np.float32]]) -> dict[str, tuple[float, float]]:
        """What one run of a probe told: tensor -> its least and greatest value."""

    def prepare(
        self, spec: BackboneSpec, ranges: Mapping[str, tuple[float, float]], target: Path, *, symmetric: bool
    ) -> None:
        """Write the spec's model in its precision.

        symmetric: int8 values lie around zero; else they are unsigned with a zero point.

        Raises:
            CalibrationCacheError: a tensor has no range.
            BackboneError, EngineBuildError: as `probe`, or nothing of the model can be of the precision.
        """


class Signer(Protocol):
    """Signs statements with one key, here or elsewhere."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key's SPKI DER, hex."""

    def waiting(self) -> bytes | None:
        """The statement that was handed out to be signed elsewhere; None where there is none, or the key is here."""

    def sign(self, statement: bytes) -> bytes:
        """The DSSE envelope over exactly these bytes.

        Raises SigningKeyError, or SignatureAwaitedError after the statement was handed out.
        """
