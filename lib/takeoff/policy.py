"""Whether a well-formed, well-signed manifest may be flown with now: pure functions, everything they need handed in."""

# ruff: noqa: PLC0415 - start-up time: imported where it is needed
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from takeoff.errors import (
    ClockUntrustedError,
    DevSignedError,
    ExpiredError,
    FlightMismatchError,
    NotYetValidError,
    PositionOutsideError,
    RollbackError,
    VerificationError,
)
from takeoff.manifest import Manifest


class Floor(NamedTuple):
    """What was accepted before, UTC seconds: the highest issued_at, and the latest time the clock showed."""

    issued_at: int
    last_seen: int


class Expectations(NamedTuple):
    """What the caller knows of the flight; None is not compared. position: latitude, longitude in WGS84 degrees."""

    flight_id: str | None = None
    position: tuple[float, float] | None = None


def check(
    manifest: Manifest, *, now: int, floor: Floor | None, expect: Expectations, allow_dev: bool
) -> Iterator[VerificationError]:
    """Every reason to refuse; none is raised. now: UTC seconds."""
    if manifest.signing_mode == "dev" and not allow_dev:
        yield DevSignedError("is signed in dev mode, and the trust directory holds no allow_dev", "manifest.json")
    yield from check_clock(manifest, now, floor)
    yield from check_floor(manifest, floor)
    yield from check_flight(manifest, expect.flight_id)
    yield from check_position(manifest, expect.position)


def check_clock(manifest: Manifest, now: int, floor: Floor | None) -> Iterator[VerificationError]:
    """The validity window, both ends included; a clock behind a time already seen proves nothing about it.

    The floor's issued_at is no time this clock showed: it may run ahead, after several builds within a second or by a
    workstation's wrong clock. What passed once passes again at any later time of its window.
    """
    if floor is not None and now < floor.last_seen:
        seen = utc(floor.last_seen)
        yield ClockUntrustedError(f"the clock shows {utc(now)}, earlier than {seen}, which was seen before")
    if now < manifest.valid_from:
        yield NotYetValidError(f"is valid from {utc(manifest.valid_from)}; it is {utc(now)}", "manifest.json")
    if now > manifest.valid_until:
        yield ExpiredError(f"was valid until {utc(manifest.valid_until)}; it is {utc(now)}", "manifest.json")


def check_floor(manifest: Manifest, floor: Floor | None) -> Iterator[VerificationError]:
    """Rollback: nothing issued before the last accepted manifest. The same manifest again is no rollback."""
    if floor is not None and manifest.issued_at < floor.issued_at:
        yield RollbackError(
            f"was issued {utc(manifest.issued_at)}, before the last accepted, {utc(floor.issued_at)}", "manifest.json"
        )


def check_flight(manifest: Manifest, expected: str | None) -> Iterator[VerificationError]:
    """The flight id, when one is expected."""
    flight = manifest.identity.flight_id
    if expected is not None and expected.lower() != flight:
        yield FlightMismatchError(f"is for flight {flight or 'none'}, not {expected}", "manifest.json")


def check_position(manifest: Manifest, expected: tuple[float, float] | None) -> Iterator[VerificationError]:
    """The expected position must lie in one of the covered boxes, edges included."""
    if expected is None:
        return
    latitude, longitude = expected
    for lat_min, lon_min, lat_max, lon_max in manifest.identity.corpus.covered:
        if float(lat_min) <= latitude <= float(lat_max) and float(lon_min) <= longitude <= float(lon_max):
            return
    yield PositionOutsideError(f"does not cover latitude {latitude!r}, longitude {longitude!r}", "manifest.json")


def raise_floor(floor: Floor | None, manifest: Manifest, now: int) -> Floor:
    """The floor after this manifest has been accepted."""
    before = floor or Floor(0, 0)
    return Floor(max(before.issued_at, manifest.issued_at), max(before.last_seen, now))


def utc(seconds: int) -> str:
    """UTC seconds as ISO 8601, e.g. 2026-03-01T12:00:00Z."""
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
