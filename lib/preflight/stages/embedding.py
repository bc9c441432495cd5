"""How the descriptor backbone embeds images: with its compiled engine, or with an embedder that the caller brings."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from preflight.engine.compiler import EngineCompiler
from preflight.engine.model_input import image_size, preprocessing_text
from preflight.errors import DescriptorBatchError, PreflightError
from preflight.ports import BackboneEmbedder, Engine, ImageCodec, OutOfDeviceMemory
from preflight.records import PREPROCESSING_VERSION, BackboneSpec
from preflight.stages.engines import descriptor_dim
from preflight.store.cache_layout import CacheLayout
from preflight.trace.record import record_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["CallerEmbedding", "Embedding", "EngineEmbedding"]


class Embedding(Protocol):
    """What the stages need to embed images and to know whether descriptors are still valid."""

    @property
    def input_name(self) -> str:
        """The input under which `Engine.run` takes a batch."""

    @property
    def reads(self) -> tuple[Path, ...]:
        """The files that decide the descriptors."""

    def components(self) -> Mapping[str, str]:
        """Returns what decides the descriptors beside the pixels, for action keys. Raises FileNotFoundError."""

    def dim(self) -> int:
        """Returns the length of a descriptor. Raises FileNotFoundError, BackboneError."""

    def open(self) -> AbstractContextManager[Engine]:
        """Opens the engine, or the embedder in the form of an engine. Raises EngineBuildError."""

    def batch(self, images: NDArray[np.uint8], codec: ImageCodec) -> NDArray[np.generic]:
        """Returns (N, height, width, 3) uint8 images in the form that `Engine.run` takes."""


@dataclass(frozen=True)
class EngineEmbedding:
    """The compiled engine of the descriptor backbone."""

    spec: BackboneSpec
    layout: CacheLayout
    compiler: EngineCompiler

    @property
    def _engine(self) -> Path:
        return self.layout.engines / str(self.compiler.name(self.spec))

    @property
    def input_name(self) -> str:
        """As `Embedding`."""
        return next(iter(self.spec.inputs))

    @property
    def reads(self) -> tuple[Path, ...]:
        """As `Embedding`."""
        return (self._engine,)

    def components(self) -> Mapping[str, str]:
        """As `Embedding`. An engine counts by its action key, because its bytes need not be reproducible."""
        return {"engine": record_of(self._engine).action_key, "preprocessing": preprocessing_text(self.spec)}

    def dim(self) -> int:
        """As `Embedding`."""
        return descriptor_dim(self.spec, self.layout)

    def open(self) -> AbstractContextManager[Engine]:
        """As `Embedding`."""
        return self.compiler.load(self.spec, self._engine)

    def batch(self, images: NDArray[np.uint8], codec: ImageCodec) -> NDArray[np.generic]:
        """As `Embedding`."""
        return codec.to_batch(images, self.spec.preprocessing)


@dataclass(frozen=True)
class CallerEmbedding:
    """An embedder of the caller's. It gets images of the spec's size and does the rest of the preprocessing itself."""

    embedder: BackboneEmbedder
    spec: BackboneSpec

    @property
    def input_name(self) -> str:
        """As `Embedding`."""
        return "images"

    @property
    def reads(self) -> tuple[Path, ...]:
        """As `Embedding`."""
        return ()

    def components(self) -> Mapping[str, str]:
        """As `Embedding`. Raises DescriptorBatchError if the embedder states no identity."""
        identity = self.embedder.identity
        if not isinstance(identity, str) or not identity:
            raise DescriptorBatchError(
                f"the embedder {type(self.embedder).__name__} states no identity: give it a text that changes with its model"
            )
        return {"embedder": identity, "images": f"version {PREPROCESSING_VERSION} size {image_size(self.spec)}"}

    def dim(self) -> int:
        """As `Embedding`. Raises DescriptorBatchError for a length that is not a positive number."""
        dim = self.embedder.descriptor_dim
        if isinstance(dim, bool) or not isinstance(dim, Integral) or dim < 1:
            raise DescriptorBatchError(
                f"the embedder says that a descriptor has {dim!r} numbers: give a positive number"
            )
        return int(dim)

    def open(self) -> AbstractContextManager[Engine]:
        """As `Embedding`."""
        return _EmbedderEngine(self.embedder)

    def batch(self, images: NDArray[np.uint8], codec: ImageCodec) -> NDArray[np.generic]:  # noqa: ARG002 - the port's signature
        """As `Embedding`."""
        return images


class _EmbedderEngine:
    """An embedder in the form of an engine. Translates its errors. The caller owns it: it is not closed."""

    def __init__(self, embedder: BackboneEmbedder) -> None:
        self._embedder = embedder

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        import numpy as np  # noqa: PLC0415 - heavy

        name = type(self._embedder).__name__
        try:
            found: object = self._embedder.embed(inputs["images"])  # type: ignore[arg-type] # uint8, see `batch`
        except (PreflightError, OutOfDeviceMemory):
            raise
        except Exception as error:
            raise DescriptorBatchError(f"the embedder {name} failed: {type(error).__name__}: {error}") from error
        if not isinstance(found, np.ndarray) or found.dtype != np.float32:
            given = f"an array of {found.dtype}" if isinstance(found, np.ndarray) else f"a {type(found).__name__}"
            raise DescriptorBatchError(
                f"the embedder {name} returns {given}: return an (N, descriptor_dim) array of float32"
            )
        return {"descriptors": found}

    def close(self) -> None:
        """The caller closes it."""

    def __enter__(self) -> _EmbedderEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
