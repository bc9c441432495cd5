"""Tiles: seals the tile set of the area into one small file with one digest, and draws the sample the gates use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

from preflight.area import cover
from preflight.coverage import CoverageWalk, check
from preflight.errors import InputChangedError
from preflight.journal import Journal
from preflight.mission import Job
from preflight.ports import Clock, ImageCodec, TileMetadataStore, TilePixelStore
from preflight.records import TileRow
from preflight.stages.reading import read_tile
from preflight.store.atomic import atomic_path, atomic_write
from preflight.store.layout import CacheLayout
from preflight.tileset import Inventory, choose_sources, rows_of_cover, seal
from preflight.trace.record import canonical_json
from preflight.trace.rule import Step

SEAL_VERSION = 1
SAMPLE_VERSION = 1
SAMPLE_SIZE = 32
SAMPLE_PIXELS = 256


def seal_step(
    job: Job, layout: CacheLayout, store: Callable[[], TileMetadataStore], clock: Clock, journal: Journal
) -> Step:
    """The inventory of the area's tiles. O(1) to judge: the store's revision stands for its rows."""

    def components() -> Mapping[str, str]:
        revision = store().revision()
        return {
            "area": job.area.digest(),
            "zoom_levels": ",".join(map(str, job.zoom_levels)),
            "source_order": json.dumps(job.source_order),
            "allow_missing": repr(job.allow_missing),
            "max_tile_age_days": str(job.max_tile_age.days),
            "tile_store": revision.store_id,
            "tile_store_revision": str(revision.revision),
        }

    def build() -> Iterable[Path]:
        metadata = store()
        before = metadata.revision()
        tiles = cover(job.area, job.zoom_levels)
        walk = CoverageWalk(tiles, now=clock(), max_age=job.max_tile_age)
        ages = _Oldest()
        rows = ages.through(walk.through(choose_sources(rows_of_cover(metadata, tiles), job.source_order)))
        with atomic_path(layout.inventory) as temporary:
            with temporary.open("wb") as out:
                header = seal(rows, out)
            report = walk.report()
            check(report, job.area, job.zoom_levels, allow_missing=job.allow_missing, max_age=job.max_tile_age)
            if metadata.revision() != before:
                raise InputChangedError("the tile store changed while its tiles were sealed; run the command again")
        summary = {
            "expected": report.expected,
            "present": report.present,
            "missing": report.missing,
            "oldest_captured_at": ages.oldest.isoformat(),
            "sources": dict(report.sources),
            "aggregate": header.aggregate,
        }
        atomic_write(layout.coverage, canonical_json(summary))
        journal.counts["tiles_sealed"] = header.count
        return ()

    def doubt() -> str | None:
        oldest = datetime.fromisoformat(json.loads(layout.coverage.read_bytes())["oldest_captured_at"])
        age = clock() - oldest
        return f"a tile is {age.days} days old, {job.max_tile_age.days} are allowed" if age > job.max_tile_age else None

    reads = () if job.area_file is None else (job.area_file,)
    return Step("tiles", SEAL_VERSION, reads, components, (layout.inventory, layout.coverage), build, doubt)


class _Oldest:
    """The earliest capture time of the rows that pass."""

    def __init__(self) -> None:
        self.oldest = datetime.max.replace(tzinfo=timezone.utc)

    def through(self, rows: Iterable[TileRow]) -> Iterator[TileRow]:
        for row in rows:
            self.oldest = min(self.oldest, row.captured_at)
            yield row


def sample_step(
    layout: CacheLayout,
    pixels: Callable[[], TilePixelStore],
    images: Callable[[], ImageCodec],
    *,
    recalibrate: bool,
) -> Step:
    """Tiles drawn once for the parity gate and kept when tiles change, until `recalibrate=1` asks for new ones."""
    asked = [recalibrate]

    def components() -> Mapping[str, str]:
        return {"size": str(SAMPLE_SIZE), "pixels": str(SAMPLE_PIXELS)}

    def build() -> Iterable[Path]:
        import numpy as np  # noqa: PLC0415 - heavy

        inventory = Inventory.open(layout.inventory)
        # The smallest hashes: a draw that needs no seed and does not follow the ground.
        order = np.argsort(inventory.rows["sha256"][:, :8].copy().view(">u8")[:, 0], kind="stable")
        chosen = sorted(int(number) for number in order[:SAMPLE_SIZE])
        tiles = [read_tile(inventory, number, pixels(), images(), SAMPLE_PIXELS) for number in chosen]
        with atomic_path(layout.parity_sample) as temporary, temporary.open("wb") as out:
            np.save(out, np.stack(tiles), allow_pickle=False)
        asked[0] = False
        return ()

    def doubt() -> str | None:
        return "recalibrate=1" if asked[0] else None

    return Step("sample", SAMPLE_VERSION, (), components, (layout.parity_sample,), build, doubt)
