"""The verdict, taken from a verifier that runs in a process of its own.

A pass is a process that ended with 0 and said so on its last breath, in one JSON object. Whatever else comes is a refusal.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from takeoff.errors import VerifierCrashedError

MAX_STATUSTEXT = 50
"""Bytes of MAVLink's STATUSTEXT."""


@dataclass(frozen=True)
class Verdict:
    """One verdict of the verifier.

    exit_status: the verifier's, from 1 up for a refusal; said: the verifier's JSON object; raw: its line as it stood. began: UTC
    seconds; took_s: seconds. statustext: at most 50 bytes of ASCII.
    """

    exit_status: int
    statustext: str
    said: Mapping[str, object]
    raw: str
    began: float
    took_s: float

    @property
    def passed(self) -> bool:
        """Whether the cache may be flown with."""
        return self.exit_status == 0


def run_verifier(
    arguments: Sequence[str],
    *,
    clock: Callable[[], float],
    monotonic: Callable[[], float],
    python: str = sys.executable,
) -> Verdict:
    """Run `python -I -m takeoff` with these arguments and take its verdict. Never raises for what the verifier does."""
    command = [python, "-I", "-m", "takeoff", *arguments, *([] if "--json" in arguments else ["--json"])]
    began, start = clock(), monotonic()
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
        status, output = done.returncode, done.stdout
    except OSError as error:
        return _crashed(f"the verifier cannot be started: {error}", "", 0, began, monotonic() - start)
    return judge(status, output, began, monotonic() - start)


def judge(status: int, output: bytes, began: float, took_s: float) -> Verdict:
    """The verdict of a process that ended with `status` (negative: killed by that signal) and wrote `output`."""
    raw = output.decode("ascii", "backslashreplace").strip()
    said = _object(raw)
    if said is None or said.get("exit_status") != status or (said.get("outcome") == "pass") is not (status == 0):
        return _crashed(f"the verifier ended with {status} and no verdict that says so", raw, status, began, took_s)
    return Verdict(status, statustext(said), said, raw, began, took_s)


def statustext(said: Mapping[str, object]) -> str:
    """What the ground station reads: the verifier's own text for a refusal; for a pass, which manifest and generation."""
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
