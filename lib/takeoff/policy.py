"""Whether a well-formed, well-signed manifest may be flown with now: pure functions, everything they need handed in."""

# ruff: noqa: PLC0415 - start-up time: imported where it is needed
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
    """What was accepted before, UTC seconds: the highest issued_at, and the latest time the clock showed."""

    issued_at: int
    last_seen: int


class Expectations(NamedTuple):
    """What the caller knows of the flight; None is not compared.

    host: the machine that will fly. sm: the compute capability the engines must be for, such as 87; it also stands for
    that of the host's GPU where the host does not know it.
    """

    flight_id: str | None = None
    position: Position | None = None
    host: Host | None = None
    sm: str | None = None


def check(
    manifest: Manifest, *, now: int, floor: Floor | None, expect: Expectations, allow_dev: bool
) -> Iterator[VerificationError]:
    """Every reason to refuse; none is raised. now: UTC seconds."""
    if manifest.signing_mode == "dev" and not allow_dev:
        yield errors.DevSignedError("is signed in dev mode, and the trust directory holds no allow_dev", MANIFEST)
    yield from check_times(manifest, now, floor)
    yield from check_flight(manifest.identity, expect.flight_id, expect.position)
    yield from check_host(manifest.target, expect.host, expect.sm)


def check_times(manifest: Manifest, now: int, floor: Floor | None) -> Iterator[VerificationError]:
    """The validity window, both ends included, and the floor. A clock behind a time already seen proves nothing.

    Rollback: nothing issued before the last accepted manifest; that one again is no rollback.
    The floor's issued_at is no time this clock showed: it may run ahead, after several builds within a second or by a
    workstation's wrong clock. What passed once passes again at any later time of its window.
    """
    if floor is not None and now < floor.last_seen:
        seen = utc(floor.last_seen)
        yield errors.ClockUntrustedError(f"the clock shows {utc(now)}, earlier than {seen}, which was seen before")
    if now < manifest.valid_from:
        yield errors.NotYetValidError(f"is valid from {utc(manifest.valid_from)}; it is {utc(now)}", MANIFEST)
    if now > manifest.valid_until:
        yield errors.ExpiredError(f"was valid until {utc(manifest.valid_until)}; it is {utc(now)}", MANIFEST)
    if floor is not None and manifest.issued_at < floor.issued_at:
        issued, last = utc(manifest.issued_at), utc(floor.issued_at)
        yield errors.RollbackError(f"was issued {issued}, before the last accepted, {last}", MANIFEST)


def check_flight(identity: Identity, flight: str | None, position: Position | None) -> Iterator[VerificationError]:
    """The flight id, and the position, which must lie in one of the covered boxes, edges included; as far as expected."""
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
    """The engines must be for the SM expected, and for the host: its architecture, its CPU's instructions, its GPU.

    Instructions beyond those needed do no harm; a GPU must be of the very SM, and one that nobody names is none.
    """
    if sm is not None and target.sm != sm:
        yield errors.HostMismatchError(f"has engines for SM {target.sm or 'none'}, not for {sm}", MANIFEST)
    if host is None:
        return
    if target.arch != host.arch:
        yield errors.HostMismatchError(f"was built for {target.arch}; this host is {host.arch}", MANIFEST)
    elif not host.runs(target.isa):
        yield errors.HostMismatchError(f"needs a CPU with {target.isa}, which this host's is not", MANIFEST)
    known = host.sm or sm
    if target.sm is not None and target.sm != known:
        yield errors.HostMismatchError(
            f"needs a GPU of SM {target.sm}; this host's is {known or 'not known'}", MANIFEST
        )


def raise_floor(floor: Floor | None, manifest: Manifest, now: int) -> Floor:
    """The floor after this manifest has been accepted."""
    before = floor or Floor(0, 0)
    return Floor(max(before.issued_at, manifest.issued_at), max(before.last_seen, now))


def utc(seconds: int) -> str:
    """UTC seconds as ISO 8601, e.g. 2026-03-01T12:00:00Z."""
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
