"""Tiles: seals the tile set of the area into one small file with one digest."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from preflight.area.area import Cover, cover
from preflight.errors import CoverageError, InputChangedError
from preflight.mission.job import Job
from preflight.ports import Clock, TileMetadataStore, TilePixelStore
from preflight.records import MOST_AHEAD, TileRow
from preflight.report.run_log import RunLog
from preflight.stages.reading import intact
from preflight.store.atomic import atomic_path, atomic_write
from preflight.store.cache_layout import CacheLayout
from preflight.tileset.coverage import CoverageWalk, check
from preflight.tileset.findings import FindingCollector, Findings, Kind
from preflight.tileset.inventory import Inventory, SealedHeader
from preflight.tileset.mapped import columns_of, row_blocks
from preflight.tileset.sealing import Companions, seal
from preflight.tileset.source_choice import choose_sources, rows_of_cover
from preflight.trace.digests import DigestCache
from preflight.trace.record import BuildRecord, canonical_json, read_record, record_path
from preflight.trace.rule import Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEAL_VERSION = 4
# Tiles that a thread checks in one task.
CHECKED = 512
# Paths that are held in memory at a time.
PATHS = 1 << 14
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class Preview:
    """What a plan knows about the tiles before they are sealed.

    expected: tiles of the area. present: tiles that the store has; None until the rows are counted.
    rows: tiles that may need embedding.
    changed: the (zoom, x, y) of the last seal that `rows` replace; None if `rows` are the whole set.
    """

    expected: int
    present: int | None
    rows: Iterable[TileRow]
    changed: tuple[tuple[int, int, int], ...] | None = None


class SealStage:
    """Writes the inventory of the area's tiles. Judging it is O(1): the store's revision stands for its rows."""

    def __init__(
        self,
        job: Job,
        layout: CacheLayout,
        store: Callable[[], TileMetadataStore],
        pixels: Callable[[], TilePixelStore],
        clock: Clock,
        digests: DigestCache,
        run_log: RunLog,
    ) -> None:
        self._job = job
        self._layout = layout
        self._store = store
        self._pixels = pixels
        self._clock = clock
        self._digests = digests
        self._run_log = run_log
        self._outputs = (layout.inventory, layout.coverage, layout.tile_lines, layout.tile_times, layout.tile_findings)

    def components(self) -> Mapping[str, str]:
        """Returns the components of the action key."""
        job, revision = self._job, self._store().revision()
        return {
            "area": job.area.digest(),
            "zoom_levels": ",".join(map(str, job.zoom_levels)),
            "source_order": json.dumps(job.source_order),
            "allow_missing": repr(job.allow_missing),
            "max_tile_age_days": str(job.max_tile_age.days),
            "tile_store": revision.store_id,
            "tile_store_revision": str(revision.revision),
        }

    def rerun_reason(self) -> str | None:
        """Returns why to seal again with an equal key: a tile became too old, or its date lies in the future.

        The second happens when the clock ran ahead at the last seal and was corrected since.
        """
        allowed, now, summary = self._job.max_tile_age, self._clock(), self._sealed()
        if (age := now - _moment(summary["oldest_captured_us"])) > allowed:
            return f"a tile is {age.days} days old, {allowed.days} are allowed"
        newest = _moment(summary["newest_captured_us"])
        return f"a tile is dated {newest:%Y-%m-%d}, in the future" if newest > now + MOST_AHEAD else None

    def _sealed(self) -> dict[str, Any]:
        """Returns coverage.json of the last seal. Raises FileNotFoundError."""
        found: dict[str, Any] = json.loads(self._layout.coverage.read_bytes())
        return found

    def build(self) -> Iterable[Path]:
        """Seals the tile set. Reads only the changed tiles if the store can name them, else every row of the area.

        Raises:
            CoverageError: tiles are missing, too old, dated in the future, or corrupt.
            TileContentError: a row cannot be sealed.
            InputChangedError: the store changed meanwhile.
        """
        metadata = self._store()
        before = metadata.revision()
        tiles = cover(self._job.area, self._job.zoom_levels)
        changed = self._changed(metadata)
        header, findings = (changed is not None and self._patch(metadata, tiles, changed)) or self._walk(
            metadata, tiles, changed or ()
        )
        if metadata.revision() != before:
            raise InputChangedError("the tile store changed while its tiles were sealed; run the command again")
        # The aggregate is the hash of exactly these lines, computed as they were written.
        self._digests.adopt(self._layout.tile_lines, header.aggregate)
        atomic_write(self._layout.tile_findings, findings.records.tobytes())
        summary = _summary(self._layout, header, findings, len(tiles))
        atomic_write(self._layout.coverage, canonical_json(summary))
        self._warn(summary["poor_texture"], header.count)
        return ()

    def _warn(self, poor: int, count: int) -> None:
        if poor:
            self._run_log.warn(
                "c10.tiles.low_texture",
                f"{poor} of {count} tiles have little texture (water, sand, fog): the aircraft will rarely find its place there",
                tiles=poor,
            )

    def preview(self) -> Preview:
        """Returns what sealing now would find. Writes nothing. Reads only the changed tiles if the store can name them."""
        from preflight.tileset.resealing import places_of  # noqa: PLC0415 - loads numpy

        metadata = self._store()
        tiles = cover(self._job.area, self._job.zoom_levels)
        changed = self._changed(metadata)
        if changed is None:
            return Preview(len(tiles), None, choose_sources(rows_of_cover(metadata, tiles), self._job.source_order))
        inside = [tile for tile in changed if tile in tiles]
        rows = list(choose_sources(metadata.rows_of_tiles(inside), self._job.source_order))
        inventory = Inventory.open(self._layout.inventory, vouched=True)
        return Preview(len(tiles), len(inventory) - len(places_of(inventory, inside)) + len(rows), rows, tuple(inside))

    def _walk(
        self, metadata: TileMetadataStore, tiles: Cover, changed: Iterable[tuple[int, int, int]]
    ) -> tuple[SealedHeader, Findings]:
        job = self._job
        walk = CoverageWalk(tiles, now=self._clock(), max_age=job.max_tile_age)
        rows = walk.through(choose_sources(rows_of_cover(metadata, tiles), job.source_order, walk.passed_over))
        rows = self._cancellable(rows)
        with _writing(self._layout) as (out, companions):
            header = seal(rows, out, companions)
            out.flush()
            for tile in self._corrupt(Inventory.open(Path(out.name), vouched=True), changed):
                walk.corrupt(tile)
            report = walk.report()
            check(report, job.area, job.zoom_levels, allow_missing=job.allow_missing, max_age=job.max_tile_age)
        return header, walk.findings()

    def _corrupt(self, inventory: Inventory, changed: Iterable[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
        """Yields the tiles whose file does not hold the bytes that were imported.

        Reads each tile once, when it becomes part of the set: tiles that the last seal did not have, and changed tiles.
        So every corrupt tile is known before the first hour of work.
        """
        import numpy as np  # noqa: PLC0415 - heavy

        from preflight.tileset.resealing import places_of  # noqa: PLC0415 - loads numpy

        fresh = np.ones(len(inventory), bool)
        record = read_record(record_path(self._layout.inventory))
        if record is not None and record.version == SEAL_VERSION and self._as_recorded(record, self._layout.inventory):
            last = Inventory.open(self._layout.inventory, vouched=True)
            # A tile whose path changed counts as new: its row may name a file that does not exist.
            fresh = ~np.isin(_files(inventory), _files(last))
            # A changed tile may have the bytes of another tile of the last seal.
            fresh[places_of(inventory, changed)] = True
        pixels = self._pixels()

        def bad(numbers: NDArray[np.int64]) -> list[int]:
            return [
                number
                for number in numbers.tolist()
                if not intact(pixels, inventory.path(number), inventory.sha256(number))
            ]

        numbers = np.flatnonzero(fresh)
        pool = ThreadPoolExecutor(2, "hash")
        try:
            for found in pool.map(bad, np.split(numbers, range(CHECKED, len(numbers), CHECKED))):
                self._run_log.checkpoint()
                for row in inventory.rows[found]:
                    yield int(row["zoom"]), int(row["x"]), int(row["y"])
        finally:
            # If the caller stops early, drop the waiting tasks.
            pool.shutdown(cancel_futures=True)

    def _cancellable(self, rows: Iterable[TileRow]) -> Iterator[TileRow]:
        for number, row in enumerate(rows):
            if number % CHECKED == 0:
                self._run_log.checkpoint()
            yield row

    def _changed(self, metadata: TileMetadataStore) -> frozenset[tuple[int, int, int]] | None:
        """Returns the tiles that changed since the last seal of the same area; None if that cannot be known."""
        record = read_record(record_path(self._layout.inventory))
        if record is None or record.version != SEAL_VERSION:
            return None
        asked = self.components()
        if {name for name, value in asked.items() if record.components.get(name) != value} != {"tile_store_revision"}:
            return None
        if not all(self._as_recorded(record, path) for path in self._outputs):
            return None
        return metadata.changed_since(int(record.components["tile_store_revision"]))

    def _as_recorded(self, record: BuildRecord, path: Path) -> bool:
        return path.is_file() and self._digests.sha256(path) == record.outputs.get(path.name)

    def _patch(
        self, metadata: TileMetadataStore, tiles: Cover, changed: Iterable[tuple[int, int, int]]
    ) -> tuple[SealedHeader, Findings] | None:
        """Seals the last set again with the changed tiles. Returns None if the set would be refused; the walk says why."""
        from preflight.tileset.resealing import SealedFiles, reseal  # noqa: PLC0415 - loads numpy

        job, layout = self._job, self._layout
        inside = [tile for tile in changed if tile in tiles]
        latest: dict[tuple[int, int, int], TileRow | None] = dict.fromkeys(inside)
        taker, pixels = FindingCollector(), self._pixels()
        newest, summary = self._clock() + MOST_AHEAD, self._sealed()
        if _moment(summary["newest_captured_us"]) > newest:
            return None
        for row in choose_sources(metadata.rows_of_tiles(inside), job.source_order, taker.passed_over):
            latest[row.zoom, row.x, row.y] = row
            taker.sealed(row)
            if row.captured_at > newest or not intact(pixels, row.path, row.sha256):
                return None
        findings = Findings.read(layout.tile_findings.read_bytes(), summary["passed_over"]).replaced(
            inside, taker.findings()
        )
        files = SealedFiles(layout.inventory, layout.tile_lines, layout.tile_times)
        try:
            with _writing(layout) as (out, companions):
                header, oldest_us = reseal(files, latest, out, companions)
                missing = len(tiles) - header.count
                old = oldest_us is None or self._clock() - _moment(oldest_us) > job.max_tile_age
                if old or missing > job.allow_missing * len(tiles):
                    raise CoverageError("refused by the walk that follows")
        except CoverageError:
            return None
        return header, findings

    def step(self) -> Step:
        """Returns the step for the up-to-date rule."""
        reads = () if self._job.area_file is None else (self._job.area_file,)
        return Step("tiles", SEAL_VERSION, reads, self.components, self._outputs, self.build, self.rerun_reason)


@contextmanager
def _writing(layout: CacheLayout) -> Iterator[tuple[BinaryIO, Companions]]:
    """Opens the inventory and its companion files. Replaces all of them when the block ends without an error."""
    with ExitStack() as stack:
        paths = (layout.inventory, layout.tile_lines, layout.tile_times)
        places = [stack.enter_context(atomic_path(path)) for path in paths]
        with ExitStack() as files:
            inventory, lines, times = (files.enter_context(place.open("wb")) for place in places)
            yield inventory, Companions(lines, times)


def hash_heads(inventory: Inventory) -> NDArray[np.uint64]:
    """Returns the first 8 bytes of each tile's hash: (N,) uint64."""
    heads: NDArray[np.uint64] = columns_of(inventory.rows, "sha256")[0][:, :8].copy().view(">u8")[:, 0]
    return heads


def _files(inventory: Inventory) -> NDArray[np.uint64]:
    """Returns one number for each tile's hash and path: (N,) uint64. Two pairs collide with probability 2^-64.

    The numbers are valid in this process only.
    """
    import numpy as np  # noqa: PLC0415 - heavy

    offsets, blob = inventory.path_table()
    numbers = np.empty(len(inventory), np.int64)
    for start in range(0, len(inventory), PATHS):
        ends = offsets[start : start + PATHS + 1].tolist()
        text = blob[ends[0] : ends[-1]].tobytes()
        numbers[start : start + PATHS] = [hash(text[one - ends[0] : end - ends[0]]) for one, end in pairwise(ends)]
    return hash_heads(inventory) ^ numbers.view(np.uint64)


def _summary(layout: CacheLayout, header: SealedHeader, findings: Findings, expected: int) -> dict[str, Any]:
    """Returns the content of coverage.json."""
    import numpy as np  # noqa: PLC0415 - heavy

    inventory = Inventory.open(layout.inventory, vouched=True)
    counts = np.zeros(len(header.sources), np.int64)
    for _, block in row_blocks(inventory.rows):
        counts += np.bincount(block["source"], minlength=len(counts))
    times = np.fromfile(layout.tile_times, "<i8")
    return {
        "expected": expected,
        "present": header.count,
        "missing": expected - header.count,
        "oldest_captured_us": int(times.min()),
        "newest_captured_us": int(times.max()),
        "sources": dict(zip(header.sources, counts.tolist(), strict=True)),
        "passed_over": findings.passed_over(),
        "poor_texture": findings.count(Kind.POOR),
        "unmeasured_texture": findings.count(Kind.UNMEASURED),
        "aggregate": header.aggregate,
    }


def _moment(microseconds: int) -> datetime:
    return EPOCH + timedelta(microseconds=microseconds)
