"""The index: every descriptor, in the order of the inventory, in one deterministic HNSW graph."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from preflight.descriptors.descriptor_store import DescriptorStore
from preflight.errors import IndexBuildError
from preflight.mission.job import Job
from preflight.ports import DescriptorIndexFactory, DescriptorIndexRebuilder
from preflight.records import TileBboxRecord
from preflight.report.run_log import RunLog
from preflight.stages.descriptors import DescriptorSet
from preflight.stages.units import Units, open_units, steps_of, units_file
from preflight.store.atomic import atomic_path, atomic_write
from preflight.store.cache_layout import CacheLayout
from preflight.store.sidecar import Sha256Sidecar
from preflight.tileset.inventory import Inventory, read_header
from preflight.tileset.mapped import columns_of
from preflight.trace.digests import DigestCache, hash_file
from preflight.trace.record import read_record, record_of, record_path
from preflight.trace.rule import Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INDEX_VERSION = 1


def index_step(
    job: Job,
    layout: CacheLayout,
    store: Callable[[], DescriptorStore],
    factory: Callable[[], DescriptorIndexFactory],
    identity: Mapping[str, str],
    digests: DigestCache,
    run_log: RunLog,
) -> Step:
    """Returns the step that writes the index and its sidecar.

    identity: what decides the bytes beside vectors and parameters. It is known without importing FAISS.
    """
    parameters = job.index_parameters
    sidecar = Sha256Sidecar(layout.index)

    def components() -> Mapping[str, str]:
        descriptors = DescriptorSet.read(layout.descriptor_set)
        return {
            # The engine is not a component: if a new engine gives equal vectors, the index stays.
            "ids": descriptors.ids_sha256,
            "vectors": descriptors.matrix_sha256,
            "m": str(parameters.m),
            "ef_construction": str(parameters.ef_construction),
            "ef_search": str(parameters.ef_search),
            "metric": parameters.metric,
            "storage": parameters.storage,
            **identity,
        }

    def build() -> Iterable[Path]:
        library = factory()
        if library.identity() != dict(identity):
            raise IndexBuildError(
                f"FAISS reports {library.identity()}, but {dict(identity)} is installed: reinstall FAISS"
            )
        with atomic_path(layout.index) as temporary:
            if _retunable(layout.index, components(), digests):
                library.retune(layout.index, parameters.ef_search, temporary)
            else:
                _build_anew(job, layout, store(), library, temporary, run_log)
                run_log.counts["indexes_built"] += 1
            digest = hash_file(temporary)
        sidecar.write(digest)
        return ()

    reads = (units_file(job, layout), layout.descriptor_set)
    return Step("index", INDEX_VERSION, reads, components, (layout.index, sidecar.path), build)


def hand_over_step(
    job: Job,
    layout: CacheLayout,
    store: Callable[[], DescriptorStore],
    rebuilder: DescriptorIndexRebuilder,
) -> Step:
    """Returns the step that gives the descriptors to an index of the caller's.

    It is a step of its own, so that a caller's index is also filled when the index file is current already.
    """

    def components() -> Mapping[str, str]:
        return {
            "index": record_of(layout.index).action_key,
            "tiles": read_header(layout.inventory).aggregate,
        }

    def build() -> Iterable[Path]:
        _hand_over(job, layout, store(), rebuilder)
        count = DescriptorSet.read(layout.descriptor_set).count
        atomic_write(layout.handed_over, json.dumps({"descriptors": count}).encode() + b"\n")
        return ()

    reads = (layout.inventory, units_file(job, layout), layout.descriptor_set, layout.index)
    return Step("index:hand_over", 1, reads, components, (layout.handed_over,), build)


def _retunable(index: Path, components: Mapping[str, str], digests: DigestCache) -> bool:
    """Returns whether the existing index is intact and differs from the wanted one in ef_search only."""
    record = read_record(record_path(index))
    if record is None or record.version != INDEX_VERSION or not index.is_file():
        return False
    differing = {name for name, value in components.items() if record.components.get(name) != value}
    return differing == {"ef_search"} and digests.sha256(index) == record.outputs.get(index.name)


def _build_anew(
    job: Job,
    layout: CacheLayout,
    store: DescriptorStore,
    library: DescriptorIndexFactory,
    target: Path,
    run_log: RunLog,
) -> None:
    """Builds a new graph from the id and descriptor of every unit. Raises IndexBuildError."""
    descriptors = DescriptorSet.read(layout.descriptor_set)
    units = open_units(job, layout)
    vectors = _proved(_cancellable(store.gather(units.blocks(), units.keys()), run_log), descriptors.matrix_sha256)
    library.build(columns_of(units.rows, "id")[0], vectors, descriptors.dim, job.index_parameters, target)


def _proved(chunks: Iterable[NDArray[np.float32]], expected: str) -> Iterator[NDArray[np.float32]]:
    """Passes the chunks on, and checks at the end that together they are the recorded matrix. Raises IndexBuildError."""
    import hashlib  # noqa: PLC0415 - with the only function that needs it

    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk.data)
        yield chunk
    if digest.hexdigest() != expected:
        raise IndexBuildError("a descriptor segment was edited after it was written; run doit provision repair=1")


def _cancellable(chunks: Iterable[NDArray[np.float32]], run_log: RunLog) -> Iterator[NDArray[np.float32]]:
    for chunk in chunks:
        run_log.checkpoint()
        yield chunk


def _hand_over(job: Job, layout: CacheLayout, store: DescriptorStore, rebuilder: DescriptorIndexRebuilder) -> None:
    """Gives the caller's index the (N, dim) matrix. It is filled once, after the index file was written and let go."""
    import numpy as np  # noqa: PLC0415 - heavy

    descriptors, units = DescriptorSet.read(layout.descriptor_set), open_units(job, layout)
    matrix, at = np.empty((descriptors.count, descriptors.dim), np.float32), 0
    for chunk in _proved(store.gather(units.blocks(), units.keys()), descriptors.matrix_sha256):
        matrix[at : at + len(chunk)] = chunk
        at += len(chunk)
    parameters = job.index_parameters
    rebuilder.rebuild(
        descriptors=matrix,
        tile_records=_records(job, layout, units),
        hnsw_m=parameters.m,
        hnsw_ef_construction=parameters.ef_construction,
        hnsw_ef_search=parameters.ef_search,
        hnsw_metric=parameters.metric,
    )


def _records(job: Job, layout: CacheLayout, units: Units) -> list[TileBboxRecord]:
    """Returns a record of each unit, in the order of the matrix. A window has no source: its text is empty."""
    zooms, lats, lons = columns_of(units.rows, "zoom", "lat", "lon")
    sources = [""] * len(zooms)
    if steps_of(job) == 1:
        inventory = Inventory.open(layout.inventory, vouched=True)
        sources = [inventory.source(number) for number in range(len(zooms))]
    rows = zip(zooms.tolist(), lats.tolist(), lons.tolist(), sources, strict=True)
    return [TileBboxRecord(zoom, lat, lon, source) for zoom, lat, lon, source in rows]
