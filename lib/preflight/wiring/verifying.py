"""What a verification needs. It imports nothing that builds: at takeoff every import counts."""
# ruff: noqa: PLC0415 - each is imported by who needs it

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from preflight.run.tile_access import EMBEDDED, TileAccess

if TYPE_CHECKING:
    from contextlib import ExitStack

    from preflight.ports import Clock, TileMetadataStore, TilePixelStore
    from preflight.records import TileHashRecord
    from takeoff.host import Host
    from takeoff.manifest import Manifest
    from takeoff.verify import ManifestVerifier, Mode

TileHashes = Callable[["Manifest"], Iterable["TileHashRecord"]]
"""The tile store's rows for the area and zooms of a manifest."""


def wall_clock() -> datetime:
    """Returns the time now, in UTC."""
    return datetime.now(timezone.utc)


def tile_access(root: Path, database: str) -> TileAccess:
    """Returns the tile store at `root`: rows in an embedded Postgres or behind a URL, pixels in files."""

    def open_metadata(stack: ExitStack) -> TileMetadataStore:
        from preflight.adapters.postgres.tile_store import PostgresTileStore

        address = database
        if database == EMBEDDED:
            from preflight.adapters.postgres.embedded import EmbeddedPostgres

            address = stack.enter_context(EmbeddedPostgres(root))
        return stack.enter_context(PostgresTileStore(address))

    def open_pixels() -> TilePixelStore:
        from preflight.adapters.tile_files import TileFiles

        return TileFiles(root)

    return TileAccess(root, open_metadata, open_pixels)


def manifest_verifier(
    trust: Path,
    clock: Clock,
    *,
    mode: Mode = "airborne",
    floor: Path | None = None,
    tiles: TileHashes | None = None,
    host: Host | None = None,
) -> ManifestVerifier:
    """Returns the shipped verifier. In airborne mode it ignores a tile store.

    host: the machine that will fly, which the engines must fit; None compares nothing.

    Raises:
        ValueError: operator mode without a tile store.
    """
    from takeoff.policy import Expectations
    from takeoff.verify import ManifestVerifier

    fetch = None if tiles is None else _tiles_of(tiles)
    expect = Expectations(host=host)
    if fetch is None or mode == "airborne":
        if mode == "operator":
            raise ValueError("operator mode compares with the tile store: hand over its tiles")
        return ManifestVerifier(trust=trust, now=clock, mode=mode, expect=expect, floor=floor)
    return ManifestVerifier(trust=trust, now=clock, mode=mode, expect=expect, floor=floor, tiles=fetch)


def flying_host(driver: Path = Path("/proc/driver/nvidia")) -> Host:
    """Returns this machine, in the form that the engines of a cache must fit.

    driver: exists if an NVIDIA driver is loaded. Only then is the driver asked for the GPU, which takes longer than a
    verification.
    """
    from takeoff.host import probe

    host = probe()
    if host.sm is None and driver.exists():
        from preflight.adapters.host import installed_nvml, probe_host

        return host._replace(sm=probe_host(nvml=installed_nvml()).sm)
    return host


def _tiles_of(tiles: TileHashes) -> Callable[[Manifest], Iterator[tuple[int, float, float, str, str]]]:
    """Returns a function that yields the tile rows for a manifest, as the operator mode of the verifier compares them."""

    def fetch(manifest: Manifest) -> Iterator[tuple[int, float, float, str, str]]:
        for record in tiles(manifest):
            yield record.zoom, record.lat, record.lon, record.source, record.sha256_hex

    return fetch
