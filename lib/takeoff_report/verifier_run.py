"""Runs the verifier in a separate process and takes its verdict.

The verdict is a pass only if the process exits with 0 and its whole output is one JSON object that states the same.
Anything else is a refusal.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from takeoff.errors import VerifierCrashedError

MAX_STATUSTEXT = 50
"""The size of the text in MAVLink's STATUSTEXT, bytes."""


@dataclass(frozen=True)
class Verdict:
    """One verdict of the verifier.

    exit_status: the exit status of the verifier. 1 or higher for a refusal.
    statustext: the text for the ground station, ASCII, at most 50 bytes.
    said: the JSON object that the verifier printed.
    raw: the line that the verifier printed.
    began: when the verification began, seconds since the epoch.
    took_s: how long it took, seconds.
    """

    exit_status: int
    statustext: str
    said: Mapping[str, object]
    raw: str
    began: float
    took_s: float

    @property
    def passed(self) -> bool:
        """Whether the aircraft may fly with the cache."""
        return self.exit_status == 0


def run_verifier(
    arguments: Sequence[str],
    *,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
    python: str = sys.executable,
) -> Verdict:
    """Runs `python -I -m takeoff` and returns its verdict. A verifier that fails or cannot be started gives a refusal.

    Args:
        arguments: the arguments of the verifier.
        clock: returns seconds since the epoch.
        monotonic: a monotonic clock, seconds.
        python: the interpreter.
    """
    command = [python, "-I", "-m", "takeoff", *arguments, *([] if "--json" in arguments else ["--json"])]
    began, start = clock(), monotonic()
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
        status, output = done.returncode, done.stdout
    except OSError as error:
        return _crashed(f"the verifier cannot be started: {error}", "", 0, began, monotonic() - start)
    return judge(status, output, began, monotonic() - start)


def judge(status: int, output: bytes, began: float, took_s: float) -> Verdict:
    """Returns the verdict of a verifier process that ended.

    Args:
        status: the exit status, negative if a signal killed the process.
        output: everything that the process wrote to stdout.
        began: when it began, seconds since the epoch.
        took_s: how long it took, seconds.
    """
    raw = output.decode("ascii", "backslashreplace").strip()
    said = _object(raw)
    if said is None or said.get("exit_status") != status or (said.get("outcome") == "pass") is not (status == 0):
        return _crashed(f"the verifier ended with {status} without a verdict that agrees", raw, status, began, took_s)
    return Verdict(status, statustext(said), said, raw, began, took_s)


def statustext(said: Mapping[str, object]) -> str:
    """Returns the text for the ground station, at most 50 bytes.

    It is the text of the verifier for a refusal. For a pass it names the manifest and the generation.
    """
    text = said.get("statustext")
    if said.get("outcome") == "pass":
        text = f"CACHE VERIFIED: {str(said.get('manifest_hash'))[:12]} generation {said.get('generation')}"
    elif not isinstance(text, str):
        text = VerifierCrashedError.statustext
    return text.encode("ascii", "replace")[:MAX_STATUSTEXT].decode("ascii")


def _object(raw: str) -> Mapping[str, object] | None:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _crashed(message: str, raw: str, status: int, began: float, took_s: float) -> Verdict:
    error = VerifierCrashedError(message)
    said = {
        "outcome": "fail",
        "exit_status": status if status > 0 else error.exit_status,
        "statustext": error.statustext,
        "fail_reasons": [{"code": error.code, "file": "", "message": message}],
        "remedy": error.remedy,
    }
    return Verdict(int(str(said["exit_status"])), error.statustext, said, raw or json.dumps(said), began, took_s)
