"""`doit verify`: the shipped verifier over the mission's current cache, and a note for the next provision."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from preflight import wiring
from preflight.store.cache_layout import CacheLayout
from takeoff.errors import KeyUnknownError, SidecarMismatchError, TileDriftError, VerificationError
from takeoff.verdict import human_verdict, json_verdict

if TYPE_CHECKING:
    from preflight.mission.cache_place import CachePlace
    from preflight.mission.loading import Mission
    from preflight.ports import Clock
    from preflight.records import TileHashRecord, TileRow
    from preflight.run.tile_access import TileAccess
    from takeoff.verify import ManifestVerifier, VerificationResult

log = logging.getLogger("preflight.verify")

# The statuses that speak of the cache's own files, not of clock or flight (docs/manifest-format.md). An unknown key is among
# them: the envelope that names it may be what went bad.
DAMAGE = range(KeyUnknownError.exit_status, SidecarMismatchError.exit_status + 1)


def verify(
    places: CachePlace,
    mission: Callable[[], Mission],
    mode: str,
    cache: Path | None,
    clock: Clock,
    *,
    as_json: bool,
    deep: bool = False,
) -> tuple[int, str]:
    """Verify the mission's current cache, or the one at `cache`; returns the exit status and the verdict's text.

    A damaged current cache is marked, so that the next provision repairs it; where it cannot be marked, a warning says so.
    In airborne mode the engines must fit this machine, as on the aircraft; in operator mode it need not be the one that
    flies, and each tile that drifted is named. deep: also hash the tile files that the cache was made of. The whole mission
    is asked for in operator mode and by deep alone: they need its tile store.

    Raises:
        MissionError: the mission is needed, and refused.
        DatabaseError: operator mode, and the tile store does not answer.
        TileContentError: the list of the tiles it was made of cannot be read.
    """
    layout = CacheLayout(places.cache_root)
    place = layout.current if cache is None else cache
    with ExitStack() as stack:
        tiles = _Tiles(mission(), stack) if deep or mode == "operator" else None
        verifier = wiring.build_manifest_verifier(
            places.trust,
            clock,
            mode=mode,
            tiles=(lambda _: tiles.hashes()) if tiles is not None and mode == "operator" else None,
            host=wiring.flying_host() if mode == "airborne" else None,
        )
        result, failures = _judged(verifier, place, tiles, deep=deep)
    if cache is None and any(failure.exit_status in DAMAGE for failure in failures):
        _mark(layout, failures)
    verdict = json_verdict if as_json else human_verdict
    status = min((failure.exit_status for failure in failures), default=0)
    return status, verdict(str(place), result, failures)


def _judged(
    verifier: ManifestVerifier, place: Path, tiles: _Tiles | None, *, deep: bool
) -> tuple[VerificationResult | None, tuple[VerificationError, ...]]:
    """What the verifier found, and what of the tiles behind the cache."""
    try:
        result = verifier.verify_manifest(place)
    except VerificationError as error:
        return None, (error,)
    drifted = any(isinstance(failure, TileDriftError) for failure in result.failures)
    if tiles is not None and (drifted or deep):
        from preflight.commands.tile_check import with_tiles_checked  # noqa: PLC0415 - a usual verification does without

        try:
            result = with_tiles_checked(
                result, store=tiles.rows() if drifted else None, pixels=tiles.access.pixels() if deep else None
            )
        except VerificationError as error:
            return result, (*result.failures, error)
    return result, result.failures


def _mark(layout: CacheLayout, failures: tuple[VerificationError, ...]) -> None:
    from preflight.store.atomic import atomic_write  # noqa: PLC0415 - a cache that passed is not marked

    target = layout.current.resolve().name
    content = json.dumps({"generation": target, "failures": [str(failure) for failure in failures]}, indent=2)
    try:
        atomic_write(layout.refused, content.encode())
    except OSError as error:
        # A read-only medium or a full disk: the verdict stands all the same.
        log.warning(
            f"{layout.refused} cannot be written ({error.strerror}): on the workstation run doit provision repair=1",
            extra={"event": "refusal_not_marked", "fields": {}},
        )


class _Tiles:
    """The tile store of a mission, opened when it is first asked."""

    def __init__(self, mission: Mission, stack: ExitStack) -> None:
        self._mission = mission
        self.access = wiring.tile_access(mission.tile_root, mission.database)
        stack.callback(self.access.close)

    def hashes(self) -> Iterator[TileHashRecord]:
        """What the aggregate is made of, as the store has it now."""
        return sealed_hashes(self._mission, self.access)

    def rows(self) -> Iterator[TileRow]:
        """The tile rows of the mission's area."""
        return rows_of_mission(self._mission, self.access)


def sealed_hashes(mission: Mission, tiles: TileAccess) -> Iterator[TileHashRecord]:
    """What the aggregate is made of, as the tile store has it now."""
    from preflight.records import TileHashRecord  # noqa: PLC0415 - as below

    for row in rows_of_mission(mission, tiles):
        yield TileHashRecord(row.zoom, row.lat, row.lon, row.source, row.sha256)


def rows_of_mission(mission: Mission, tiles: TileAccess) -> Iterator[TileRow]:
    """The tile rows of the mission's area as they are now, one source a tile."""
    from preflight.area.area import cover  # noqa: PLC0415 - the operator mode's alone
    from preflight.tileset.source_choice import choose_sources, rows_of_cover  # noqa: PLC0415

    job = mission.job
    rows = rows_of_cover(tiles.metadata(), cover(job.area, job.zoom_levels))
    return choose_sources(rows, job.source_order)
