"""C6's descriptor index by FAISS: an HNSW graph over L2-normalised vectors, with the tiles' own ids.

The bytes of an index depend on the SIMD level (rounding decides between near neighbours), so the level is fixed for an
architecture, set before FAISS is imported, and read back: FAISS replaces a level it was not compiled for by none at
all, without a word. They do not depend on the number of threads, nor here on how the caller cuts the vectors.
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
_ROWS_AN_ADD = 16_384  # FAISS orders insertions inside one add: a fixed size keeps the bytes the same for all callers
_NORM_TOLERANCE = 1e-3
_NO_ID = -1  # what FAISS returns where it found nothing


class FaissIndexFactory:
    """The `DescriptorIndexFactory` of FAISS.

    machine: as platform.machine() says; decides the SIMD level.
    """

    def __init__(self, machine: str | None = None) -> None:
        self._machine = platform.machine() if machine is None else machine

    def identity(self) -> dict[str, str]:
        """What decides the bytes beside the parameters: FAISS's version and the SIMD level.

        Raises:
            IndexBuildError: FAISS does not run at the level this architecture is fixed to.
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
        """Write an HNSW index of the vectors, in the order given, to `target`.

        ids: (N,) int64, distinct, none of them -1. chunks: (n, dim) float32, L2-normalised, N rows in all.

        Raises:
            IndexBuildError: ids or vectors that are none, parameters this factory does not know, or a `target` that
                cannot be written. Nothing is written before all vectors are in.
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
                # What `add_with_ids` leaves, but for the table of where each id is: it has no place in the file, and is
                # larger than the vectors where these are short.
                library.copy_array_to_vector(ids, index.id_map)
                index.ntotal = graph.ntotal
                _write(library, index, target)
                return
        raise IndexBuildError(f"The index of {target} was given {len(ids)} ids, but not as many vectors.")

    def retune(self, source: Path, ef_search: int, target: Path) -> None:
        """Write the index of `source` with another ef_search to `target`: the bytes a fresh build would give.

        Raises:
            IndexBuildError: `source` is no index of this factory, ef_search below 1, or `target` cannot be written.
        """
        if ef_search < 1:
            raise IndexBuildError(f"ef_search is at least 1, not {ef_search}.")
        library = self._library()
        index = self._read(library, source)
        library.downcast_index(index.index).hnsw.efSearch = ef_search
        _write(library, index, target)

    def open(self, path: Path) -> DescriptorIndex:
        """Memory-map an index file: its vectors are read when a search needs them.

        Raises:
            IndexBuildError: absent, truncated, or no index with ids.
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
            raise IndexBuildError(f"{path} holds a {type(index).__name__}, not an index with tile ids (IndexIDMap2).")
        _check_end(index, path)
        return index

    def _library(self) -> Any:  # noqa: ANN401 - FAISS ships no types
        if self._machine not in _LEVELS:
            raise IndexBuildError(f"No SIMD level is fixed for {self._machine}; indexes are built on {list(_LEVELS)}.")
        level = _LEVELS[self._machine]
        if "faiss" not in sys.modules:
            os.environ["FAISS_SIMD_LEVEL"] = level
            # Waiting threads that spin take the cores from those that work where the machine is shared.
            os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        import faiss  # noqa: PLC0415 - only after the line above

        actual = faiss.SIMDConfig.get_level_name()
        if actual != level:
            raise IndexBuildError(
                f"FAISS runs at SIMD level {actual}, but indexes of {self._machine} are built at {level}. Import faiss "
                f"after this factory's first use, or start with FAISS_SIMD_LEVEL={level}."
            )
        return faiss


class _FaissIndex:
    """One opened index."""

    def __init__(self, index: Any, path: Path) -> None:  # noqa: ANN401 - FAISS ships no types
        self._index = index
        self._path = path

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(Q, dim) L2-normalised -> scores (Q, k) descending and ids (Q, k); id -1 means none.

        Raises:
            IndexBuildError: queries of another dimension or type, or k below 1.
        """
        import numpy as np  # noqa: PLC0415 - heavy

        if queries.ndim != 2 or queries.shape[1] != self._index.d or queries.dtype != np.float32 or k < 1:
            raise IndexBuildError(
                f"{self._path} takes float32 queries of shape (Q, {self._index.d}) and k of at least 1, but was given "
                f"{queries.dtype} {queries.shape} and {k}."
            )
        scores, ids = self._index.search(np.ascontiguousarray(queries), k)
        return scores, ids


def _check_parameters(parameters: IndexParameters, dim: int) -> None:
    known = parameters.metric == "inner_product" and parameters.storage == "float32"
    if not known or min(parameters.ef_construction, parameters.ef_search, dim) < 1 or parameters.m < 2:
        raise IndexBuildError(
            f"{parameters} with dimension {dim}: FAISS indexes here take metric inner_product, storage float32, m of at "
            "least 2 and positive numbers otherwise."
        )


def _check_ids(ids: NDArray[np.int64]) -> None:
    import numpy as np  # noqa: PLC0415 - heavy

    if ids.ndim != 1 or ids.dtype != np.int64:
        raise IndexBuildError(f"Tile ids are one row of int64, not {ids.dtype} {ids.shape}.")
    if (ids == _NO_ID).any():
        raise IndexBuildError("A tile's id is -1, which FAISS keeps for `none`. Leave that tile out of the area.")
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise IndexBuildError(
            f"Two tiles have the same id, {int(values[counts > 1][0])}: {len(ids) - len(values)} ids of {len(ids)} are "
            "not distinct. Leave one of them out of the area."
        )


def _fixed_blocks(chunks: Iterable[NDArray[np.float32]], dim: int) -> Iterator[NDArray[np.float32]]:
    """The same rows, checked, cut every `_ROWS_AN_ADD` whatever the borders they came with."""
    import numpy as np  # noqa: PLC0415 - heavy

    block = np.empty((_ROWS_AN_ADD, dim), np.float32)
    filled = row = 0
    for chunk in chunks:
        _check_vectors(chunk, dim, row)
        row += len(chunk)
        at = 0
        while at < len(chunk):
            taken = min(len(chunk) - at, _ROWS_AN_ADD - filled)
            block[filled : filled + taken] = chunk[at : at + taken]
            filled, at = filled + taken, at + taken
            if filled == _ROWS_AN_ADD:
                yield block
                filled = 0
    if filled:
        yield block[:filled]


def _check_vectors(chunk: NDArray[np.float32], dim: int, first_row: int) -> None:
    import numpy as np  # noqa: PLC0415 - heavy

    if chunk.ndim != 2 or chunk.shape[1] != dim or chunk.dtype != np.float32:
        raise IndexBuildError(f"Descriptors are float32 (n, {dim}), but were given {chunk.dtype} {chunk.shape}.")
    norms = np.linalg.norm(chunk, axis=1)
    wrong = ~(np.abs(norms - 1.0) <= _NORM_TOLERANCE)  # written so that NaN is wrong
    if wrong.any():
        at = int(np.argmax(wrong))
        raise IndexBuildError(
            f"The descriptor in row {first_row + at} has the length {norms[at]}, not 1: it is not finite or not "
            "L2-normalised. The backbone must end in an L2 normalisation."
        )


def _check_end(index: Any, path: Path) -> None:  # noqa: ANN401 - FAISS ships no types
    """The file ends with the number of ids and the ids: a mapped read overlooks up to seven missing bytes, or added ones."""
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
        raise IndexBuildError(f"{path} cannot be read: {error}.") from error
    if (stored, last) != (count, index.id_map.at(count - 1)):
        raise IndexBuildError(f"{path} is shorter or longer than the index in it. Run `doit provision repair=1`.")


def _write(library: Any, index: Any, target: Path) -> None:  # noqa: ANN401 - FAISS ships no types
    """Through a Python file: FAISS's own only prints when its last bytes do not reach the disk."""
    try:
        with target.open("wb") as file:
            library.write_index(index, library.PyCallbackIOWriter(file.write))
    except (OSError, RuntimeError) as error:
        raise IndexBuildError(f"The index cannot be written to {target}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """FAISS's message without the place in its source code."""
    text = str(error)
    return text.rsplit("Error: ", 1)[-1].strip() if text else type(error).__name__
