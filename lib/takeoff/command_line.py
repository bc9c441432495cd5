"""`python -I -m takeoff CACHE --trust DIR ...`: the airborne mode and nothing else.

One verdict on stdout. Status 0 means a verified cache and nothing else does: help, a wrong call, a time-out and a crash
each have their own status from 16 up (docs/manifest-format.md).
"""

# ruff: noqa: PLC0415 - start-up time: imported where it is needed
from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from takeoff.errors import UsageError, VerificationError, VerificationTimeoutError, VerifierCrashedError
from takeoff.verdict import human_verdict, json_verdict

if TYPE_CHECKING:
    from takeoff.verify import VerificationResult

USAGE = (
    "usage: python -I -m takeoff CACHE --trust DIR [--floor FILE] [--expect-flight UUID] [--expect-position LAT,LON]"
    " [--timeout S] [--json]"
)
_VALUED = ("--trust", "--floor", "--expect-flight", "--expect-position", "--timeout")


class Options(NamedTuple):
    """The command line. timeout in seconds; position: latitude, longitude in degrees."""

    cache: str
    trust: str
    floor: str | None
    flight: str | None
    position: tuple[float, float] | None
    timeout: float | None


def main(arguments: list[str]) -> int:
    """Verify, print the verdict, return the exit status."""
    as_json = "--json" in arguments
    try:
        options = parse([argument for argument in arguments if argument != "--json"])
        result = _verify_in_time(options)
        return _report(as_json, options.cache, result, result.failures)
    except TimeUp as error:
        return _report(as_json, None, None, (VerificationTimeoutError(str(error)),))
    except VerificationError as error:
        return _report(as_json, None, None, (error,))
    except Exception as error:  # noqa: BLE001 - a crash refuses, whatever it was
        return _report(as_json, None, None, (VerifierCrashedError(f"{type(error).__name__}: {error}"),))


def parse(arguments: list[str]) -> Options:
    """Read the command line; each option at most once, as `--name VALUE` or `--name=VALUE`. Raises UsageError."""
    values: dict[str, str] = {}
    caches: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if not argument.startswith("-"):
            caches.append(argument)
        elif name not in _VALUED or name in values:
            raise UsageError(f"{argument} is unknown or given twice; {USAGE}")
        else:
            values[name] = value if equals else next(rest, "")
            if not values[name]:
                raise UsageError(f"{name} needs a value; {USAGE}")
    if len(caches) != 1 or "--trust" not in values:
        raise UsageError(f"exactly one CACHE and --trust are needed; {USAGE}")
    return Options(
        caches[0],
        values["--trust"],
        values.get("--floor"),
        _flight(values.get("--expect-flight")),
        _position(values.get("--expect-position")),
        _timeout(values.get("--timeout")),
    )


def _flight(text: str | None) -> str | None:
    if text is not None and not re.fullmatch("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", text):
        raise UsageError(f"--expect-flight is {text[:60]}, not a UUID")
    return text


def _position(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    numbers = [_number(part) for part in text.split(",")]
    if len(numbers) != 2 or not (abs(numbers[0]) <= 90 and abs(numbers[1]) <= 180):
        raise UsageError(f"--expect-position is {text[:60]}, not LAT,LON in degrees")
    return numbers[0], numbers[1]


def _timeout(text: str | None) -> float | None:
    if text is None:
        return None
    seconds = _number(text)
    if not 0 < seconds < 1e6:
        raise UsageError(f"--timeout is {text[:60]}, not a number of seconds above 0")
    return seconds


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan  # inside no range


def _verify_in_time(options: Options) -> VerificationResult:
    import time

    from takeoff.policy import Expectations
    from takeoff.verify import verify_manifest

    with _Alarm(options.timeout):
        return verify_manifest(
            options.cache,
            trust=options.trust,
            now=time.time,
            expect=Expectations(options.flight, options.position),
            floor=options.floor,
        )


class TimeUp(BaseException):
    """The alarm rang. Not an Exception: nothing on the way may take it for a failure of one file and go on."""


class _Alarm:
    """Raises TimeUp in the main thread when the time is up, and again at the end if that was swallowed."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._rang = False

    def __enter__(self) -> None:
        if self._seconds is not None:
            import signal

            signal.signal(signal.SIGALRM, self._ring)
            signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        if self._seconds is not None:
            import signal

            signal.setitimer(signal.ITIMER_REAL, 0)
        if self._rang:
            self._ring()

    def _ring(self, *_: object) -> NoReturn:
        self._rang = True
        raise TimeUp(f"no verdict within {self._seconds} s")


def _report(
    as_json: bool, cache: str | None, result: VerificationResult | None, failures: tuple[VerificationError, ...]
) -> int:
    text = json_verdict(cache, result, failures) if as_json else human_verdict(cache, result, failures)
    status = min((failure.exit_status for failure in failures), default=0)
    try:
        # Paths may hold anything, and a journal's locale may be C.
        print(text.encode("ascii", "backslashreplace").decode("ascii"), flush=True)  # noqa: T201 - the verdict
    except (OSError, ValueError):
        # Nobody can read the verdict: a pass that was not said is none.
        return status or VerifierCrashedError.exit_status
    return status
