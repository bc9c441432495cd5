"""The command line `python -I -m takeoff CACHE --trust DIR ...`: airborne mode only.

It prints one verdict on stdout. Status 0 means a verified cache and nothing else: help, a wrong call, a time-out and a
crash have statuses of their own, from 16 up (docs/manifest-format.md).
"""

# ruff: noqa: PLC0415 - start-up time: imports lie where they are needed
from __future__ import annotations

import re
import sys
from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

from takeoff.errors import UsageError, VerificationError, VerificationTimeoutError, VerifierCrashedError
from takeoff.verdict import human_verdict, json_verdict

if TYPE_CHECKING:
    from takeoff.verify import VerificationResult

USAGE = (
    "usage: python -I -m takeoff CACHE --trust DIR [--floor FILE] [--expect-flight UUID] [--expect-position LAT,LON]"
    " [--expect-sm SM] [--timeout S] [--json]"
)


class Options(NamedTuple):
    """The options of a call. timeout: seconds. expect_position: latitude, longitude, degrees. expect_sm: such as 87."""

    cache: str
    trust: str
    floor: str | None = None
    expect_flight: str | None = None
    expect_position: tuple[float, float] | None = None
    expect_sm: str | None = None
    timeout: float | None = None


def main(arguments: list[str]) -> int:
    """Verifies the cache, prints the verdict and returns the exit status."""
    as_json = "--json" in arguments
    try:
        options = parse([argument for argument in arguments if argument != "--json"])
        result = _verify_in_time(options)
        return _report(as_json, options.cache, result, result.failures)
    except VerificationError as error:
        return _report(as_json, None, None, (error,))
    except Exception as error:  # noqa: BLE001 - every crash is a refusal
        return _report(as_json, None, None, (VerifierCrashedError(f"{type(error).__name__}: {error}"),))


def parse(arguments: list[str]) -> Options:
    """Reads the command line: each option once at most, as `--name VALUE` or `--name=VALUE`. Raises UsageError."""
    values: dict[str, Any] = {}
    caches: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            caches.append(argument)
        elif name not in _READERS or name in values:
            raise UsageError(f"{argument} is unknown or given twice; {USAGE}")
        else:
            text = value if equals else next(rest, "")
            read, what = _READERS[name]
            try:
                values[name] = read(text)
            except ValueError as error:
                raise UsageError(f"{name} is {text[:60]!r}, not {what}; {USAGE}") from error
    if len(caches) != 1 or not caches[0] or "--trust" not in values:
        raise UsageError(f"exactly one CACHE and --trust are needed; {USAGE}")
    return Options(caches[0], **{name[2:].replace("-", "_"): value for name, value in values.items()})


def _like(pattern: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if not re.fullmatch(pattern, text, re.DOTALL):
            raise ValueError(text)
        return text

    return read


def _position(text: str) -> tuple[float, float]:
    latitude, longitude = map(float, text.split(","))
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise ValueError(text)
    return latitude, longitude


def _timeout(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e6:
        raise ValueError(text)
    return seconds


_READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "--trust": (_like(".+"), "a directory"),
    "--floor": (_like(".+"), "a file"),
    "--expect-flight": (_like("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"), "a UUID"),
    "--expect-position": (_position, "LAT,LON in degrees"),
    "--expect-sm": (_like("[0-9]{2,3}"), "a compute capability without the dot, such as 87"),
    "--timeout": (_timeout, "a number of seconds above 0"),
}


def _verify_in_time(options: Options) -> VerificationResult:
    """Verifies in a thread, and abandons it after the time-out: nothing can interrupt a read that hangs."""
    ended: list[VerificationResult | BaseException] = []

    def work() -> None:
        try:
            ended.append(_verify(options))
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            ended.append(error)

    worker = Thread(target=work, daemon=True)
    worker.start()
    worker.join(options.timeout)
    if not ended:
        raise VerificationTimeoutError(f"no verdict within {options.timeout} s")
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]


def _verify(options: Options) -> VerificationResult:
    import time

    from takeoff.host import probe
    from takeoff.policy import Expectations
    from takeoff.verify import verify_manifest

    expect = Expectations(options.expect_flight, options.expect_position, probe(), options.expect_sm)
    return verify_manifest(options.cache, trust=options.trust, now=time.time, expect=expect, floor=options.floor)


def _report(
    as_json: bool, cache: str | None, result: VerificationResult | None, failures: tuple[VerificationError, ...]
) -> int:
    text = json_verdict(cache, result, failures) if as_json else human_verdict(cache, result, failures)
    status = min((failure.exit_status for failure in failures), default=0)
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        # Nobody can read the verdict; stdout may even be closed and None. A pass that was not printed is no pass.
        return status or VerifierCrashedError.exit_status
    return status
