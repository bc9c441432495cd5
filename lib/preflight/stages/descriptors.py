"""Descriptors: every sealed tile embedded once, whatever the number of builds it is part of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from preflight.batcher import DescriptorBatcher
from preflight.descriptor_store import Block, DescriptorStore, block_of
from preflight.journal import Journal
from preflight.mission import Job
from preflight.ports import Engine, ImageCodec, TilePixelStore
from preflight.records import TileRow
from preflight.stages.engines import EngineCompiler, descriptor_dim, image_size, preprocessing_text
from preflight.stages.reading import read_tile
from preflight.store.atomic import atomic_write, remove_file
from preflight.store.layout import CacheLayout
from preflight.tileset import Inventory, read_header
from preflight.trace.digests import DigestCache
from preflight.trace.record import canonical_json, read_record, record_of, record_path
from preflight.trace.rule import Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from preflight.tileset import Block as TileBlock

DESCRIPTORS_VERSION = 1
# Inferences a kill may cost at most; also the rows of the largest segment.
COMMIT_ROWS = 2048

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class DescriptorSet:
    """What was embedded: count vectors of dim numbers, in the inventory's order, in one space of the store."""

    space: str
    count: int
    dim: int
    ids_sha256: str
    matrix_sha256: str

    @classmethod
    def read(cls, path: Path) -> DescriptorSet:
        """The set a finished stage left at `path`. Raises FileNotFoundError."""
        return cls(**json.loads(path.read_bytes()))

    def encode(self) -> bytes:
        """Its file's content."""
        return canonical_json({name: getattr(self, name) for name in self.__slots__})


class DescriptorStage:
    """Embeds what a tile set lacks in the store, with the descriptor backbone's engine."""

    def __init__(
        self,
        job: Job,
        layout: CacheLayout,
        compiler: EngineCompiler,
        digests: DigestCache,
        pixels: Callable[[], TilePixelStore],
        images: Callable[[], ImageCodec],
        batcher: Callable[[Engine, int], DescriptorBatcher],
        journal: Journal,
    ) -> None:
        self._job = job
        self._spec = job.descriptor
        self._layout = layout
        self._compiler = compiler
        self._digests = digests
        self._pixels = pixels
        self._images = images
        self._journal = journal
        self._batcher = batcher

    @property
    def _engine(self) -> Path:
        return self._layout.engines / str(self._compiler.name(self._spec))

    def _space_parts(self) -> dict[str, str]:
        """Everything that decides a descriptor beside the tile's bytes."""
        return {
            "engine": record_of(self._engine).action_key,
            "preprocessing": preprocessing_text(self._spec),
            "batch_size": str(self._job.config.descriptors.batch_size),
            "dim": str(descriptor_dim(self._spec, self._layout)),
        }

    def components(self) -> Mapping[str, str]:
        """Of the action key."""
        return {**self._space_parts(), "tiles": read_header(self._layout.inventory).aggregate}

    def store(self) -> DescriptorStore:
        """The store in this build's space."""
        parts = self._space_parts()
        space = hashlib.sha256(canonical_json(parts)).hexdigest()
        return DescriptorStore(self._layout.descriptors, space, int(parts["dim"]), atomic_write)

    def count_missing(self, rows: Iterable[TileRow]) -> int:
        """How many of these tiles would be embedded now. Raises FileNotFoundError before the engine was built."""
        import numpy as np  # noqa: PLC0415 - heavy

        store = self.store()
        blocks: dict[Block, set[bytes]] = {}
        for row in rows:
            blocks.setdefault(block_of(row.zoom, row.x, row.y), set()).add(bytes.fromhex(row.sha256))
        missing = 0
        for block, keys in blocks.items():
            table = np.frombuffer(b"".join(sorted(keys)), np.uint8).reshape(-1, 32)
            missing += int((~store.lookup(block, table)).sum())
        return missing

    def build(self) -> Iterable[Path]:
        """Embed the missing tiles and write the set; returns the segments it lies in."""
        inventory = Inventory.open(self._layout.inventory, vouched=True)
        store = self.store()
        recorded = self._recorded()
        for path in store.segments():
            # Damaged, it is embedded again. What no record vouches for is checked by its own hash.
            if self._digests.sha256(path) != recorded.get(path) and not store.check(path):
                remove_file(path)
        store.forget()
        missing = [
            (block, block.indices[~store.lookup(_block(block), keys_of(inventory)[block.indices])])
            for block in inventory.blocks()
        ]
        total = sum(len(rows) for _, rows in missing)
        if total:
            self._embed(inventory, store, missing, total)
        atomic_write(self._layout.descriptor_set, self._describe(inventory, store).encode())
        return store.segments()

    def _recorded(self) -> dict[Path, str]:
        """The segments of the last finished run and their digests."""
        record = read_record(record_path(self._layout.descriptor_set))
        return (
            {}
            if record is None
            else {self._layout.descriptors / name: sha256 for name, sha256 in record.outputs.items()}
        )

    def _embed(
        self,
        inventory: Inventory,
        store: DescriptorStore,
        missing: list[tuple[TileBlock, NDArray[np.int64]]],
        total: int,
    ) -> None:
        spec, images, pixels = self._spec, self._images(), self._pixels()
        size = image_size(spec)
        pending = _Pending(store, inventory)

        def load(row: int) -> Callable[[], NDArray[np.uint8]]:
            return lambda: read_tile(inventory, row, pixels, images, size)

        def items() -> Iterator[tuple[tuple[Block, int], Callable[[], NDArray[np.uint8]]]]:
            for block, rows in missing:
                for row in rows.tolist():
                    yield (_block(block), row), load(row)

        with self._compiler.load(spec, self._engine) as engine:
            batcher = self._batcher(engine, descriptor_dim(spec, self._layout))
            try:
                for batch in batcher.embed(items(), total):
                    pending.add(batch.keys, batch.thumbs, batch.vectors)
                    self._journal.counts["descriptors_generated"] += len(batch.keys)
            finally:
                # What was embedded before an error or a signal is kept.
                pending.commit()
            asked = self._job.config.descriptors.batch_size
            if batcher.effective_batch_size != asked:
                self._journal.warn(
                    "descriptor_batch_halved",
                    f"memory ran out: embedded in batches of {batcher.effective_batch_size} instead of {asked}; "
                    "set descriptors.batch_size so, to have the same last bits on each build",
                )

    def _describe(self, inventory: Inventory, store: DescriptorStore) -> DescriptorSet:
        matrix = hashlib.sha256()
        for chunk in store.gather(blocks_of(inventory), keys_of(inventory)):
            matrix.update(chunk.data)
        parts = self._space_parts()
        return DescriptorSet(
            space=hashlib.sha256(canonical_json(parts)).hexdigest(),
            count=len(inventory),
            dim=int(parts["dim"]),
            ids_sha256=hashlib.sha256(inventory.rows["id"].tobytes()).hexdigest(),
            matrix_sha256=matrix.hexdigest(),
        )

    def step(self) -> Step:
        """As the rule judges it."""
        reads = (self._layout.inventory, self._engine)
        return Step(
            "descriptors", DESCRIPTORS_VERSION, reads, self.components, (self._layout.descriptor_set,), self.build
        )


class _Pending:
    """Rows embedded and not yet committed: at most COMMIT_ROWS, all of one block."""

    def __init__(self, store: DescriptorStore, inventory: Inventory) -> None:
        self._store = store
        self._keys = inventory.rows["sha256"]
        self._block: Block | None = None
        self._rows: list[int] = []
        self._thumbs: list[NDArray[np.uint8]] = []
        self._vectors: list[NDArray[np.float32]] = []

    def add(self, keys: list[tuple[Block, int]], thumbs: NDArray[np.uint8], vectors: NDArray[np.float32]) -> None:
        for (block, row), thumb, vector in zip(keys, thumbs, vectors, strict=True):
            if block != self._block or len(self._rows) >= COMMIT_ROWS:
                self.commit()
                self._block = block
            self._rows.append(row)
            self._thumbs.append(thumb)
            self._vectors.append(vector)

    def commit(self) -> None:
        import numpy as np  # noqa: PLC0415 - heavy

        if self._block is not None and self._rows:
            keys = np.ascontiguousarray(self._keys[self._rows])
            self._store.append(self._block, keys, np.stack(self._thumbs), np.stack(self._vectors))
        self._rows, self._thumbs, self._vectors = [], [], []


def _block(block: TileBlock) -> Block:
    return Block(block.zoom, block.block_x, block.block_y)


def keys_of(inventory: Inventory) -> NDArray[np.uint8]:
    """(N, 32): the tiles' SHA-256, in the inventory's order."""
    import numpy as np  # noqa: PLC0415 - heavy

    return np.ascontiguousarray(inventory.rows["sha256"])


def blocks_of(inventory: Inventory) -> NDArray[np.int64]:
    """(N, 3): each tile's zoom, x >> 8, y >> 8, in the inventory's order."""
    import numpy as np  # noqa: PLC0415 - heavy

    rows = inventory.rows
    return np.stack([rows["zoom"].astype(np.int64), rows["x"] >> 8, rows["y"] >> 8], axis=1)
