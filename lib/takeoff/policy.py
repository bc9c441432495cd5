"""Whether a well-formed, well-signed manifest may be used in flight now. Pure functions of their arguments."""

# ruff: noqa: PLC0415 - start-up time: imports lie where they are needed
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from takeoff import errors
from takeoff.errors import VerificationError
from takeoff.host import Host
from takeoff.manifest import Box, Identity, Manifest, Target
from takeoff.names import MANIFEST

Position = tuple[float, float]
"""Latitude, longitude in WGS84 degrees."""


class Floor(NamedTuple):
    """What was accepted before, UTC seconds: the highest issued_at, and the latest time that the clock showed."""

    issued_at: int
    last_seen: int


class Expectations(NamedTuple):
    """What the caller knows about the flight. None is not compared.

    host: the machine in the aircraft. sm: the compute capability that the engines must be for, such as 87. If `host`
    does not tell its own, `sm` is taken for that, too.
    """

    flight_id: str | None = None
    position: Position | None = None
    host: Host | None = None
    sm: str | None = None


def check(
    manifest: Manifest, *, now: int, floor: Floor | None, expect: Expectations, allow_dev: bool
) -> Iterator[VerificationError]:
    """Yields every reason to refuse; raises none. now: UTC seconds."""
    if manifest.signing_mode == "dev" and not allow_dev:
        yield errors.DevSignedError("is signed in dev mode, and the trust directory has no allow_dev", MANIFEST)
    yield from check_times(manifest, now, floor)
    yield from check_flight(manifest.identity, expect.flight_id, expect.position)
    yield from check_host(manifest.target, expect.host, expect.sm)


def check_times(manifest: Manifest, now: int, floor: Floor | None) -> Iterator[VerificationError]:
    """Checks the validity window, both ends included, and the floor.

    A clock that shows an earlier time than `last_seen` proves nothing, so it refuses. A manifest that was issued before
    the last accepted one is a rollback; that one again is not. The floor's `issued_at` is not compared with the clock:
    it may lie ahead, after several builds within one second or by a wrong clock of the workstation. So a manifest that
    passed once passes again at any later time of its window.
    """
    if floor is not None and now < floor.last_seen:
        seen = utc(floor.last_seen)
        yield errors.ClockUntrustedError(f"the clock shows {utc(now)}, and at an acceptance before it showed {seen}")
    if now < manifest.valid_from:
        yield errors.NotYetValidError(f"is valid from {utc(manifest.valid_from)}; now it is {utc(now)}", MANIFEST)
    if now > manifest.valid_until:
        yield errors.ExpiredError(f"was valid until {utc(manifest.valid_until)}; now it is {utc(now)}", MANIFEST)
    if floor is not None and manifest.issued_at < floor.issued_at:
        issued, last = utc(manifest.issued_at), utc(floor.issued_at)
        yield errors.RollbackError(f"was issued {issued}; the last accepted one was issued {last}", MANIFEST)


def check_flight(identity: Identity, flight: str | None, position: Position | None) -> Iterator[VerificationError]:
    """Checks the flight id, and that the position lies in a covered box, edges included. None is not compared."""
    if flight is not None and flight.lower() != identity.flight_id:
        yield errors.FlightMismatchError(f"is for flight {identity.flight_id or 'none'}, not {flight}", MANIFEST)
    if position is not None and not any(_holds(box, *position) for box in identity.corpus.covered):
        yield errors.PositionOutsideError(
            f"does not cover latitude {position[0]!r}, longitude {position[1]!r}", MANIFEST
        )


def _holds(box: Box, latitude: float, longitude: float) -> bool:
    south, west, north, east = map(float, box)
    return south <= latitude <= north and west <= longitude <= east


def check_host(target: Target, host: Host | None, sm: str | None) -> Iterator[VerificationError]:
    """Checks that the engines are for the expected SM and for the host: its architecture, CPU instructions and GPU.

    Further CPU instructions do no harm. The GPU must have the same SM; an unknown GPU does not fit.
    """
    if sm is not None and target.sm != sm:
        yield errors.HostMismatchError(f"has engines for SM {target.sm or 'none'}, not for {sm}", MANIFEST)
    if host is None:
        return
    if target.arch != host.arch:
        yield errors.HostMismatchError(f"was built for {target.arch}; this host is {host.arch}", MANIFEST)
    elif not host.runs(target.isa):
        yield errors.HostMismatchError(f"needs a CPU with {target.isa}, which this host does not have", MANIFEST)
    known = host.sm or sm
    if target.sm is not None and target.sm != known:
        yield errors.HostMismatchError(f"needs SM {target.sm}; this host has SM {known or 'unknown'}", MANIFEST)


def raise_floor(floor: Floor | None, manifest: Manifest, now: int) -> Floor:
    """Returns the floor after this manifest is accepted."""
    before = floor or Floor(0, 0)
    return Floor(max(before.issued_at, manifest.issued_at), max(before.last_seen, now))


def utc(seconds: int) -> str:
    """Returns UTC seconds as ISO 8601, such as 2026-03-01T12:00:00Z."""
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
