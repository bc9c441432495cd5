"""Ports onto C7, C2 and the other libraries: runtimes, engines, embedders, images, models, the index, the signer, the clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from preflight.records import (
    BackboneSpec,
    IndexParameters,
    ModelSummary,
    Precision,
    Preprocessing,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Clock(Protocol):
    """The wall clock, or a clock that replays a flight log."""

    def __call__(self) -> datetime:
        """Return the current time as timezone-aware UTC."""


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
