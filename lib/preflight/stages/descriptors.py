"""The descriptors: embeds each unit (a sealed tile or a window) once, however many builds use it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from preflight.descriptors.batcher import EngineBatcher
from preflight.descriptors.descriptor_store import DescriptorStore
from preflight.descriptors.segment import Block, block_of
from preflight.engine.model_input import image_size
from preflight.mission.job import Job
from preflight.ports import Engine, ImageCodec, TilePixelStore
from preflight.report.run_log import RunLog
from preflight.stages.embedding import Embedding
from preflight.stages.tiles import Preview
from preflight.stages.unit_images import unit_images
from preflight.stages.units import Units, open_units, steps_of, units_file
from preflight.store.atomic import atomic_write, remove_file
from preflight.store.cache_layout import CacheLayout
from preflight.tileset.inventory import Inventory, read_header
from preflight.tileset.mapped import columns_of
from preflight.trace.digests import DigestCache
from preflight.trace.record import canonical_json, read_record, record_path
from preflight.trace.rule import Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DESCRIPTORS_VERSION = 1
# A killed run loses at most so many inferences. Also the rows of the largest segment.
COMMIT_ROWS = 2048

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class DescriptorSet:
    """The finished set: `count` vectors of `dim` numbers, in the order of the inventory, in one space of the store."""

    space: str
    count: int
    dim: int
    ids_sha256: str
    matrix_sha256: str

    @classmethod
    def read(cls, path: Path) -> DescriptorSet:
        """Reads the set that a finished stage left at `path`. Raises FileNotFoundError."""
        return cls(**json.loads(path.read_bytes()))

    def encode(self) -> bytes:
        """Returns the content of its file."""
        return canonical_json({name: getattr(self, name) for name in self.__slots__})


class Forecast(NamedTuple):
    """Number of present tiles, of their units, and of units that would be embedded."""

    tiles: int
    units: int
    to_embed: int


class DescriptorStage:
    """Embeds the units that the descriptor store lacks."""

    def __init__(
        self,
        job: Job,
        layout: CacheLayout,
        embedding: Embedding,
        digests: DigestCache,
        pixels: Callable[[], TilePixelStore],
        images: Callable[[], ImageCodec],
        batcher: Callable[[Engine, int], EngineBatcher],
        run_log: RunLog,
    ) -> None:
        self._job = job
        self._spec = job.descriptor
        self._layout = layout
        self._embedding = embedding
        self._digests = digests
        self._pixels = pixels
        self._images = images
        self._run_log = run_log
        self._batcher = batcher

    def _space_parts(self) -> dict[str, str]:
        """Returns everything that decides a descriptor, except the bytes of the tile."""
        return {
            **self._embedding.components(),
            "batch_size": str(self._job.config.descriptors.batch_size),
            "dim": str(self._embedding.dim()),
        }

    def components(self) -> Mapping[str, str]:
        """Returns the components of the action key."""
        return {
            **self._space_parts(),
            "tiles": read_header(self._layout.inventory).aggregate,
            "overlap": str(self._job.config.descriptors.overlap),
        }

    def store(self) -> DescriptorStore:
        """Returns the descriptor store, in the space of this build."""
        parts = self._space_parts()
        space = hashlib.sha256(canonical_json(parts)).hexdigest()
        return DescriptorStore(self._layout.descriptors, space, int(parts["dim"]), atomic_write)

    def forecast(self, preview: Preview, *, embedded: bool) -> Forecast:
        """Returns what a build with these tiles would embed.

        embedded: whether the existing descriptors come from the engine that the build would use.

        Raises:
            FileNotFoundError: `embedded` is true and no engine was built.
        """
        store = self.store() if embedded else None
        whole = preview.changed is None or not self._settled()
        if steps_of(self._job) > 1 or (store is not None and preview.changed is not None and whole):
            return self._forecast_units(preview, store, whole=whole)
        blocks: dict[Block, set[bytes]] = {}
        count = 0
        for row in preview.rows:
            count += 1
            blocks.setdefault(block_of(row.zoom, row.x, row.y), set()).add(bytes.fromhex(row.sha256))
        present = count if preview.present is None else preview.present
        if store is None:
            return Forecast(present, present, present)
        return Forecast(present, present, sum(_missing(store, block, sorted(keys)) for block, keys in blocks.items()))

    def _settled(self) -> bool:
        """Returns whether every unit of the last seal has a descriptor that is still valid.

        If not, units lack a descriptor beyond those that changed.
        """
        record = read_record(record_path(self._layout.descriptor_set))
        return (
            record is not None
            and record.version == DESCRIPTORS_VERSION
            and dict(record.components) == dict(self.components())
            and all(path.is_file() and self._digests.sha256(path) == made for path, made in self._recorded().items())
        )

    def _forecast_units(self, preview: Preview, store: DescriptorStore | None, *, whole: bool) -> Forecast:
        """Counts windows. whole: look up every unit, not only those on changed tiles."""
        from preflight.tileset.windows import SealedTiles, count_windows, cut  # noqa: PLC0415 - loads numpy

        steps, tiles = steps_of(self._job), SealedTiles.of_rows(preview.rows)
        if preview.changed is not None:
            sealed = SealedTiles.of_inventory(Inventory.open(self._layout.inventory, vouched=True))
            tiles = sealed.without(preview.changed).joined(tiles)
        count = count_windows(tiles, steps)
        if store is None:
            return Forecast(len(tiles), count, count)
        fresh = Units(cut(tiles, steps, None if whole else preview.changed), steps)
        return Forecast(len(tiles), count, len(_not_embedded(fresh, store)))

    def build(self) -> Iterable[Path]:
        """Embeds the missing units and writes the set. Returns the segments that hold it."""
        units = open_units(self._job, self._layout)
        store = self.store()
        recorded = self._recorded()
        for path in store.segments():
            # Remove a damaged segment: its rows are embedded again. A segment without a record is checked by its own hash.
            if self._digests.sha256(path) != recorded.get(path) and not store.check(path):
                remove_file(path)
        store.forget()
        missing = _not_embedded(units, store)
        if len(missing):
            self._embed(units, store, missing)
        atomic_write(self._layout.descriptor_set, self._describe(units, store).encode())
        return store.segments()

    def _recorded(self) -> dict[Path, str]:
        """Returns the segments of the last finished run and their digests."""
        record = read_record(record_path(self._layout.descriptor_set))
        return (
            {}
            if record is None
            else {self._layout.descriptors / name: sha256 for name, sha256 in record.outputs.items()}
        )

    def _embed(self, units: Units, store: DescriptorStore, missing: NDArray[np.int64]) -> None:
        """Embeds these rows of the units and commits them in pieces."""
        spec, total = self._spec, len(missing)
        inventory = Inventory.open(self._layout.inventory, vouched=True)
        rows, image = unit_images(units, missing, inventory, self._pixels(), self._images(), image_size(spec))
        pending = _Pending(store, units)

        def items() -> Iterator[tuple[int, Callable[[], NDArray[np.uint8]]]]:
            for position, row in enumerate(rows.tolist()):
                self._run_log.checkpoint()
                yield row, partial(image, position)

        with self._embedding.open() as engine:
            batcher = self._batcher(engine, self._embedding.dim())
            try:
                for batch in batcher.embed(items(), total):
                    pending.add(batch.keys, batch.thumbs, batch.vectors)
                    self._run_log.counts["descriptors_generated"] += len(batch.keys)
            finally:
                # Keep what was embedded before an error or a signal.
                pending.commit()
            asked = self._job.config.descriptors.batch_size
            if batcher.effective_batch_size != asked:
                self._run_log.warn(
                    "c10.descriptor.batch_reduced",
                    f"memory ran out: embedded in batches of {batcher.effective_batch_size} instead of {asked}; "
                    f"set descriptors.batch_size to {batcher.effective_batch_size}, so that each build gives the same last bits",
                )

    def _describe(self, units: Units, store: DescriptorStore) -> DescriptorSet:
        matrix = hashlib.sha256()
        for chunk in store.gather(units.blocks(), units.keys()):
            matrix.update(chunk.data)
        parts = self._space_parts()
        return DescriptorSet(
            space=hashlib.sha256(canonical_json(parts)).hexdigest(),
            count=len(units.rows),
            dim=int(parts["dim"]),
            ids_sha256=hashlib.sha256(columns_of(units.rows, "id")[0].data).hexdigest(),
            matrix_sha256=matrix.hexdigest(),
        )

    def step(self) -> Step:
        """Returns the step for the up-to-date rule."""
        reads = (self._layout.inventory, units_file(self._job, self._layout), *self._embedding.reads)
        return Step(
            "descriptors", DESCRIPTORS_VERSION, reads, self.components, (self._layout.descriptor_set,), self.build
        )


def _missing(store: DescriptorStore, block: Block, keys: list[bytes]) -> int:
    import numpy as np  # noqa: PLC0415 - heavy

    table = np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 32)
    return int((~store.lookup(block, table)).sum())


def _not_embedded(units: Units, store: DescriptorStore) -> NDArray[np.int64]:
    """Returns the row numbers that the store lacks, block by block.

    If rows of a block have equal content (open sea), only the first is returned.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    keys = units.keys()
    found = []
    for block, rows in units.by_block():
        missing = rows[~store.lookup(block, keys[rows])]
        _, first = np.unique(np.ascontiguousarray(keys[missing]).view("S32")[:, 0], return_index=True)
        found.append(missing[np.sort(first)])
    return np.concatenate(found) if found else np.empty(0, np.int64)


class _Pending:
    """Rows that are embedded and not committed, at most COMMIT_ROWS. Each block becomes a segment."""

    def __init__(self, store: DescriptorStore, units: Units) -> None:
        self._store = store
        self._units = units
        self._rows: list[int] = []
        self._thumbs: list[NDArray[np.uint8]] = []
        self._vectors: list[NDArray[np.float32]] = []

    def add(self, rows: list[int], thumbs: NDArray[np.uint8], vectors: NDArray[np.float32]) -> None:
        for row, thumb, vector in zip(rows, thumbs, vectors, strict=True):
            self._rows.append(row)
            self._thumbs.append(thumb)
            self._vectors.append(vector)
            if len(self._rows) >= COMMIT_ROWS:
                self.commit()

    def commit(self) -> None:
        import numpy as np  # noqa: PLC0415 - heavy

        if self._rows:
            units = Units(self._units.rows[self._rows], self._units.steps)
            keys, thumbs, vectors = units.keys(), np.stack(self._thumbs), np.stack(self._vectors)
            for block, here in units.by_block():
                self._store.append(block, keys[here], thumbs[here], vectors[here])
        self._rows, self._thumbs, self._vectors = [], [], []
