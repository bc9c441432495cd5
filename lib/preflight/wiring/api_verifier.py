"""The verifier of the Python API: the shipped verifier, with the host compared and the tile set derived as a build derives it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, overload

from preflight.adapters.c6.queries import rows_of_boxes, source_name
from preflight.area.area import area_from_bbox, cover
from preflight.area.web_mercator import tile_at
from preflight.errors import PreflightError
from preflight.mission.config import Blocks, read_blocks
from preflight.ports import C6TileMetadataStore, Clock, TileMetadataShape
from preflight.records import BoundingBox, TileRow
from preflight.tileset.inventory import Inventory
from preflight.tileset.source_choice import choose_sources
from preflight.wiring.factories import clock_of
from preflight.wiring.verifying import flying_host
from takeoff.errors import VerificationError
from takeoff.manifest import Corpus, Manifest
from takeoff.policy import Expectations
from takeoff.tiles_coverage import TileHash
from takeoff.verdict import json_verdict
from takeoff.verify import ManifestVerifier, VerificationResult

__all__ = ["ManifestVerifierImpl", "build_manifest_verifier"]

log = logging.getLogger("c10_provisioning.verify")

_NO_DATE = datetime(1970, 1, 1, tzinfo=timezone.utc)


@overload
def build_manifest_verifier(
    config: object,
    *,
    clock: object,
    tile_metadata_store: C6TileMetadataStore | None = None,
    with_tile_store: Literal[False] = False,
) -> ManifestVerifierImpl: ...


@overload
def build_manifest_verifier(
    config: object, *, clock: object, tile_metadata_store: C6TileMetadataStore, with_tile_store: bool
) -> ManifestVerifierImpl: ...


def build_manifest_verifier(
    config: object,
    *,
    clock: object,
    tile_metadata_store: C6TileMetadataStore | None = None,
    with_tile_store: bool = False,
) -> ManifestVerifierImpl:
    """Returns the verifier. The trust directory comes from the configuration.

    Args:
        config: the configuration of the whole program.
        clock: a callable that returns an aware datetime, or an object with `now()`.
        tile_metadata_store: C6's rows, for the operator mode; ignored in airborne mode.
        with_tile_store: True: operator mode, which also derives the tile set from the store. False: airborne mode.

    Raises:
        MissionError: the configuration is refused.
        ValueError: operator mode without a store, or the clock does not give aware times.
    """
    if with_tile_store and tile_metadata_store is None:
        raise ValueError("tile_metadata_store: operator mode (with_tile_store=True) needs one")
    store = tile_metadata_store if with_tile_store else None
    return ManifestVerifierImpl(read_blocks(config), clock_of(clock), store)


class ManifestVerifierImpl:
    """Verifies caches. store: the tile store of operator mode; None for airborne mode."""

    def __init__(self, blocks: Blocks, clock: Clock, store: C6TileMetadataStore | None) -> None:
        self._blocks = blocks
        self._clock = clock
        self._store = store

    def verify_manifest(self, path: str | os.PathLike[str]) -> VerificationResult:
        """Verifies the cache at `path`: its directory, or the manifest.json in it. Logs the verdict.

        In airborne mode the engines must fit this machine. Every content failure is in `fail_reasons`.

        Raises:
            ManifestNotFoundError: there is no manifest.
        """
        root = Path(path)
        root = root.parent if root.name == "manifest.json" else root
        verifier = self._verifier(root)
        try:
            result = verifier.verify_manifest(path)
        except VerificationError as error:
            _log(str(path), None, (error,))
            raise
        _log(str(path), result, result.failures)
        return result

    def _verifier(self, root: Path) -> ManifestVerifier:
        trust, clock = self._blocks.trust, self._clock
        if self._store is None:
            return ManifestVerifier(trust=trust, now=clock, expect=Expectations(host=flying_host()))
        return ManifestVerifier(
            trust=trust, now=clock, mode="operator", tiles=lambda manifest: self._tiles(manifest, root)
        )

    def _tiles(self, manifest: Manifest, root: Path) -> Iterator[TileHash]:
        """Yields the tile set that a build would seal now, by the same choice of sources."""
        if self._store is None:
            return
        corpus, sector = manifest.identity.corpus, manifest.identity.sector_class
        boxes = [BoundingBox(*map(float, box)) for box in corpus.covered]
        try:
            found = rows_of_boxes(self._store, boxes, corpus.zoom_levels, sector)
        except PreflightError as error:
            # The verifier reports a ValueError of the tile store as a drift of the tiles.
            raise ValueError(str(error)) from error
        rows = map(_tile_row, found)
        inside = _inside(corpus, boxes, root)
        chosen = choose_sources((row for row in rows if inside(row)), self._blocks.source_order)
        for row in chosen:
            yield row.zoom, row.lat, row.lon, row.source, row.sha256


def _tile_row(row: TileMetadataShape) -> TileRow:
    tile = row.tile_id
    x, y = tile_at(tile.zoom_level, tile.lat, tile.lon)
    lat, lon, source = float(tile.lat), float(tile.lon), source_name(row.source)
    return TileRow(tile.zoom_level, x, y, lat, lon, source, row.content_sha256_hex, "", _NO_DATE)


def _inside(corpus: Corpus, boxes: Sequence[BoundingBox], root: Path) -> Callable[[TileRow], bool]:
    """Returns whether a row belongs to the area.

    The manifest gives boxes around the area. If they hold more tiles than the area, as around a corridor, only the tiles that
    were sealed are compared: a tile that was missing then and is there now is not noticed.
    """
    expected = sum(len(cover(area_from_bbox(box), sorted(corpus.zoom_levels))) for box in boxes)
    if expected == corpus.tile_count + corpus.missing:
        return lambda _: True
    rows = Inventory.open(root / "tiles.inventory").rows
    sealed = set(zip(rows["zoom"].tolist(), rows["x"].tolist(), rows["y"].tolist(), strict=True))
    log.info(
        "the area is not a box: only the tiles that were sealed are compared with the tile store",
        extra={"event": "c10.verify.sealed_tiles_only", "fields": {"tiles": len(sealed)}},
    )
    return lambda row: (row.zoom, row.x, row.y) in sealed


def _log(cache: str, result: VerificationResult | None, failures: tuple[VerificationError, ...]) -> None:
    """Logs the verdict with the fields of `doit verify`."""
    fields = json.loads(json_verdict(cache, result, failures))
    if failures:
        reasons = "; ".join(str(failure) for failure in failures)
        log.error(f"takeoff refused: {reasons}", extra={"event": "c10.verify.fail", "fields": fields})
    else:
        log.info("verification passed", extra={"event": "c10.verify.pass", "fields": fields})
