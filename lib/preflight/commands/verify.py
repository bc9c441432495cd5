"""`doit verify`: runs the shipped verifier on the mission's current cache, and marks a damaged one for repair."""

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
    from takeoff.verify import ManifestVerifier, Mode, VerificationResult

log = logging.getLogger("c10_provisioning.verify")

# The exit statuses that mean a damaged cache, not a wrong clock or flight (docs/manifest-format.md). An unknown key is
# one of them, because the envelope that names the key may be damaged.
DAMAGE = range(KeyUnknownError.exit_status, SidecarMismatchError.exit_status + 1)


def verify(
    places: CachePlace,
    mission: Callable[[], Mission],
    mode: Mode,
    cache: Path | None,
    clock: Clock,
    *,
    as_json: bool,
    deep: bool = False,
) -> tuple[int, str]:
    """Verify the mission's current cache, or the one at `cache`.

    Marks a damaged current cache, so that the next provision repairs it. Logs a warning if the mark cannot be written.

    Args:
        places: the cache root and the trust directory.
        mission: loads the whole mission. It is called in operator mode and with `deep` only: they need the tile store.
        mode: `airborne`: the engines must fit this machine, as on the aircraft. `operator`: this may be another
            machine, and the verdict names each tile that drifted.
        cache: a folder to verify instead of the current cache.
        clock: the time against which the validity counts.
        as_json: return the verdict as JSON.
        deep: also hash the tile files from which the cache was built.

    Returns:
        The exit status, and the text of the verdict.

    Raises:
        MissionError: the mission is needed but invalid.
        DatabaseError: in operator mode, the tile store does not answer.
        TileContentError: the signed list of tiles cannot be read.
    """
    layout = CacheLayout(places.cache_root)
    place = layout.current if cache is None else cache
    with ExitStack() as stack:
        tiles = _Tiles(mission(), stack) if deep or mode == "operator" else None
        verifier = wiring.manifest_verifier(
            places.trust,
            clock,
            mode=mode,
            tiles=(lambda _: tiles.hashes()) if tiles is not None and mode == "operator" else None,
            host=wiring.flying_host() if mode == "airborne" else None,
        )
        result, failures = _run_verifier(verifier, place, tiles, deep=deep)
    if cache is None and any(failure.exit_status in DAMAGE for failure in failures):
        _mark(layout, failures)
    verdict = json_verdict if as_json else human_verdict
    status = min((failure.exit_status for failure in failures), default=0)
    return status, verdict(str(place), result, failures)


def _run_verifier(
    verifier: ManifestVerifier, place: Path, tiles: _Tiles | None, *, deep: bool
) -> tuple[VerificationResult | None, tuple[VerificationError, ...]]:
    """Return the verdict, and all failures: those of the cache and those of its tiles."""
    try:
        result = verifier.verify_manifest(place)
    except VerificationError as error:
        return None, (error,)
    drifted = any(isinstance(failure, TileDriftError) for failure in result.failures)
    if tiles is not None and (drifted or deep):
        from preflight.commands.tile_check import with_tiles_checked  # noqa: PLC0415 - most verifications do not need it

        try:
            result = with_tiles_checked(
                result, store=tiles.rows() if drifted else None, pixels=tiles.access.pixels() if deep else None
            )
        except VerificationError as error:
            return result, (*result.failures, error)
    return result, result.failures


def _mark(layout: CacheLayout, failures: tuple[VerificationError, ...]) -> None:
    from preflight.store.atomic import atomic_write  # noqa: PLC0415 - a cache that passed needs no mark

    target = layout.current.resolve().name
    content = json.dumps({"generation": target, "failures": [str(failure) for failure in failures]}, indent=2)
    try:
        atomic_write(layout.refused, content.encode())
    except OSError as error:
        # The medium is read-only or full. The verdict is valid all the same.
        log.warning(
            f"{layout.refused} cannot be written ({error.strerror}), so the next doit provision does not see the damage. Run "
            "doit provision repair=1 on the workstation",
            extra={"event": "c10.verify.refusal_not_marked", "fields": {}},
        )


class _Tiles:
    """The tile store of a mission. Opens it when it is first used."""

    def __init__(self, mission: Mission, stack: ExitStack) -> None:
        self._mission = mission
        self.access = wiring.tile_access(mission.tile_root, mission.database)
        stack.callback(self.access.close)

    def hashes(self) -> Iterator[TileHashRecord]:
        """Yield the records from which the tiles' aggregate hash is computed."""
        return sealed_hashes(self._mission, self.access)

    def rows(self) -> Iterator[TileRow]:
        """Yield the current tile rows of the mission's area."""
        return rows_of_mission(self._mission, self.access)


def sealed_hashes(mission: Mission, tiles: TileAccess) -> Iterator[TileHashRecord]:
    """Yield the records from which the tiles' aggregate hash is computed, as the tile store has them now."""
    from preflight.records import TileHashRecord  # noqa: PLC0415 - only operator mode needs it

    for row in rows_of_mission(mission, tiles):
        yield TileHashRecord(row.zoom, row.lat, row.lon, row.source, row.sha256)


def rows_of_mission(mission: Mission, tiles: TileAccess) -> Iterator[TileRow]:
    """Yield the current tile rows of the mission's area, one source for each tile."""
    from preflight.area.area import cover  # noqa: PLC0415 - only operator mode and `deep` need it
    from preflight.tileset.source_choice import choose_sources, rows_of_cover  # noqa: PLC0415 - as above

    job = mission.job
    rows = rows_of_cover(tiles.metadata(), cover(job.area, job.zoom_levels))
    return choose_sources(rows, job.source_order)
