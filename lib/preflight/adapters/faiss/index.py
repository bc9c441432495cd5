"""C6's descriptor index with FAISS: an HNSW graph over L2-normalised vectors, with the ids of the tiles.

The bytes of an index depend on the SIMD level, because rounding decides between near neighbours. So each architecture
has a fixed level. It is set before FAISS is imported, and read back: if FAISS was not compiled for a level, it silently
uses no SIMD at all. The bytes do not depend on the number of threads, or on the chunks in which the caller passes the
vectors.
"""

from __future__ import annotations

import os
import platform
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight.errors import IndexBuildError
from preflight.ports import DescriptorIndex
from preflight.records import IndexParameters

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FaissIndexFactory"]

_LEVELS = {"x86_64": "AVX2", "aarch64": "ARM_NEON"}
_ROWS_PER_ADD = 16_384  # FAISS reorders the vectors of one `add`, so a fixed number gives all callers the same bytes
_NORM_TOLERANCE = 1e-3
_NO_ID = -1  # FAISS returns this id for no result


class FaissIndexFactory:
    """The `DescriptorIndexFactory` of FAISS."""

    def __init__(self, machine: str | None = None) -> None:
        """Store the architecture, which decides the SIMD level. machine: None stands for platform.machine()."""
        self._machine = platform.machine() if machine is None else machine

    def identity(self) -> dict[str, str]:
        """Return what decides the bytes of an index besides its inputs: FAISS's version and the SIMD level.

        Raises:
            IndexBuildError: FAISS does not run at the fixed level of this architecture.
        """
        library = self._library()
        return {"faiss": str(library.__version__), "simd": _LEVELS[self._machine]}

    def build(
        self,
        ids: NDArray[np.int64],
        chunks: Iterable[NDArray[np.float32]],
        dim: int,
        parameters: IndexParameters,
        target: Path,
    ) -> None:
        """Build an HNSW index of vectors, in the given order, and write it when it is complete.

        Args:
            ids: (N,) int64, distinct, without -1.
            chunks: (n, dim) float32, L2-normalised, N rows in all.
            dim: length of a vector.
            parameters: parameters of the index.
            target: the file to write.

        Raises:
            IndexBuildError: ids, vectors or parameters are invalid, or `target` cannot be written.
        """
        library = self._library()
        _check_parameters(parameters, dim)
        _check_ids(ids)
        graph = library.IndexHNSWFlat(dim, parameters.m, library.METRIC_INNER_PRODUCT)
        graph.hnsw.efConstruction = parameters.ef_construction
        graph.hnsw.efSearch = parameters.ef_search
        index = library.IndexIDMap2(graph)
        done = 0
        for block in _fixed_blocks(chunks, dim):
            if done + len(block) > len(ids):
                break
            graph.add(block)
            done += len(block)
        else:
            if done == len(ids):
                # This does what `add_with_ids` does, without its table from ids to rows. The file does not contain that
                # table, and for short vectors it is larger than the vectors.
                library.copy_array_to_vector(ids, index.id_map)
                index.ntotal = graph.ntotal
                _write(library, index, target)
                return
        raise IndexBuildError(f"The index {target} got {len(ids)} ids, but another number of vectors.")

    def retune(self, source: Path, ef_search: int, target: Path) -> None:
        """Write an existing index with another ef_search. The bytes are those of a new build.

        Args:
            source: the index file to read.
            ef_search: the search depth to store; at least 1.
            target: the file to write.

        Raises:
            IndexBuildError: `source` is no index of this factory, ef_search is below 1, or `target` cannot be written.
        """
        if ef_search < 1:
            raise IndexBuildError(f"ef_search must be at least 1, but is {ef_search}.")
        library = self._library()
        index = self._read(library, source)
        library.downcast_index(index.index).hnsw.efSearch = ef_search
        _write(library, index, target)

    def open(self, path: Path) -> DescriptorIndex:
        """Memory-map an index file. A search reads the vectors that it needs.

        Raises:
            IndexBuildError: the file is missing or truncated, or is no index with ids.
        """
        return _FaissIndex(self._read(self._library(), path), path)

    @staticmethod
    def _read(library: Any, path: Path) -> Any:  # noqa: ANN401 - FAISS ships no types
        try:
            index = library.read_index(str(path), library.IO_FLAG_MMAP_IFC)
        except (RuntimeError, OSError, MemoryError) as error:
            raise IndexBuildError(
                f"{path} cannot be opened as a FAISS index: {_reason(error)} Run `doit provision repair=1`."
            ) from error
        if not isinstance(index, library.IndexIDMap2):
            raise IndexBuildError(
                f"{path} holds a {type(index).__name__}, not an index with tile ids (IndexIDMap2). Run `doit provision "
                "repair=1`."
            )
        _check_end(index, path)
        return index

    def _library(self) -> Any:  # noqa: ANN401 - FAISS ships no types
        if self._machine not in _LEVELS:
            raise IndexBuildError(
                f"An index cannot be built on {self._machine}, which has no fixed SIMD level. Build it on one of "
                f"{', '.join(_LEVELS)}."
            )
        level = _LEVELS[self._machine]
        if "faiss" not in sys.modules:
            os.environ["FAISS_SIMD_LEVEL"] = level
            # By default waiting threads spin, and on a shared machine they take cores from threads that work.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import faiss  # noqa: PLC0415 - FAISS reads these variables when it is imported

        actual = faiss.SIMDConfig.get_level_name()
        if actual != level:
            raise IndexBuildError(
                f"FAISS runs at SIMD level {actual}, but indexes on {self._machine} need {level}. Import faiss after "
                f"the first use of this factory, or set FAISS_SIMD_LEVEL={level} before the start."
            )
        return faiss


class _FaissIndex:
    """An opened index."""

    def __init__(self, index: Any, path: Path) -> None:  # noqa: ANN401 - FAISS ships no types
        self._index = index
        self._path = path

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the k nearest vectors of each query.

        Args:
            queries: (Q, dim) float32, L2-normalised.
            k: the number of results for each query.

        Returns:
            Scores (Q, k) float32, descending, and ids (Q, k) int64. The id -1 means no result.

        Raises:
            IndexBuildError: the queries have another dimension or type, or k is below 1.
        """
        import numpy as np  # noqa: PLC0415 - heavy

        if queries.ndim != 2 or queries.shape[1] != self._index.d or queries.dtype != np.float32 or k < 1:
            raise IndexBuildError(
                f"{self._path} needs float32 queries of shape (Q, {self._index.d}) and k of at least 1, but got "
                f"{queries.dtype} queries of shape {queries.shape} and k = {k}."
            )
        scores, ids = self._index.search(np.ascontiguousarray(queries), k)
        return scores, ids


def _check_parameters(parameters: IndexParameters, dim: int) -> None:
    supported = parameters.metric == "inner_product" and parameters.storage == "float32"
    if not supported or min(parameters.ef_construction, parameters.ef_search, dim) < 1 or parameters.m < 2:
        raise IndexBuildError(
            f"{parameters} with dimension {dim} is not supported. Set metric inner_product, storage float32, m of at "
            "least 2 and positive numbers for the rest."
        )


def _check_ids(ids: NDArray[np.int64]) -> None:
    import numpy as np  # noqa: PLC0415 - heavy

    if ids.ndim != 1 or ids.dtype != np.int64:
        raise IndexBuildError(f"Tile ids must be int64 of shape (N,), but are {ids.dtype} of shape {ids.shape}.")
    if (ids == _NO_ID).any():
        raise IndexBuildError(
            "The id of a tile is -1, which FAISS uses for no result. Leave that tile out of the area."
        )
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise IndexBuildError(
            f"Two tiles have the same id {int(values[counts > 1][0])}. In all, {len(ids) - len(values)} of {len(ids)} "
            "ids repeat another. Leave one tile of each pair out of the area."
        )


def _fixed_blocks(chunks: Iterable[NDArray[np.float32]], dim: int) -> Iterator[NDArray[np.float32]]:
    """Check the rows and yield them in blocks of `_ROWS_PER_ADD`. Each block is valid until the next one."""
    import numpy as np  # noqa: PLC0415 - heavy

    block = np.empty((_ROWS_PER_ADD, dim), np.float32)
    filled = row = 0
    for chunk in chunks:
        _check_vectors(chunk, dim, row)
        row += len(chunk)
        start = 0
        while start < len(chunk):
            count = min(len(chunk) - start, _ROWS_PER_ADD - filled)
            block[filled : filled + count] = chunk[start : start + count]
            filled, start = filled + count, start + count
            if filled == _ROWS_PER_ADD:
                yield block
                filled = 0
    if filled:
        yield block[:filled]


def _check_vectors(chunk: NDArray[np.float32], dim: int, first_row: int) -> None:
    import numpy as np  # noqa: PLC0415 - heavy

    if chunk.ndim != 2 or chunk.shape[1] != dim or chunk.dtype != np.float32:
        raise IndexBuildError(
            f"Descriptors must be float32 of shape (n, {dim}), but are {chunk.dtype} of shape {chunk.shape}."
        )
    norms = np.linalg.norm(chunk, axis=1)
    wrong = ~(np.abs(norms - 1.0) <= _NORM_TOLERANCE)  # in this form NaN counts as wrong
    if wrong.any():
        row = int(np.argmax(wrong))
        raise IndexBuildError(
            f"The descriptor in row {first_row + row} has the length {norms[row]} instead of 1, so it is not finite or "
            "not L2-normalised. Use a backbone that ends with an L2 normalisation."
        )


def _check_end(index: Any, path: Path) -> None:  # noqa: ANN401 - FAISS ships no types
    """Check that the file ends with the number of ids and the ids.

    A memory-mapped read does not notice up to seven missing bytes, or additional bytes.
    """
    count = int(index.ntotal)
    if count == 0:
        return
    try:
        with path.open("rb") as file:
            file.seek(-8 * (count + 1), os.SEEK_END)
            (stored,) = struct.unpack("<Q", file.read(8))
            file.seek(-8, os.SEEK_END)
            (last,) = struct.unpack("<q", file.read(8))
    except OSError as error:
        raise IndexBuildError(f"{path} cannot be read: {error}. Run `doit provision repair=1`.") from error
    if (stored, last) != (count, index.id_map.at(count - 1)):
        raise IndexBuildError(
            f"{path} is truncated, or has bytes after the end of the index. Run `doit provision repair=1`."
        )


def _write(library: Any, index: Any, target: Path) -> None:  # noqa: ANN401 - FAISS ships no types
    """Write an index through a Python file. FAISS's own writer does not raise if its last bytes are not written."""
    try:
        with target.open("wb") as file:
            library.write_index(index, library.PyCallbackIOWriter(file.write))
    except (OSError, RuntimeError) as error:
        raise IndexBuildError(
            f"The index cannot be written to {target}: {_reason(error)} Free disk space, or make the folder writable."
        ) from error


def _reason(error: BaseException) -> str:
    """Return an error's message as a sentence, without FAISS's source file and line."""
    text = str(error).rsplit("Error: ", 1)[-1].strip() or type(error).__name__
    return text if text.endswith(".") else f"{text}."
