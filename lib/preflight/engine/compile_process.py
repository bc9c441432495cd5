"""Compiles one model in a process of its own. A crash there, or a kill for lack of memory, ends nothing else.

The process gets its order as its only argument, in JSON: which module compiles, and what. The last line of its standard
output is {"done": true} or {"error": reason}; "errno" is added if there was no space. Output of native code goes to standard
error.

The process ends by `os._exit`, because destroying a network whose builder has an error recorder crashes
(TensorRT-RTX 1.7.1). Nothing is left to clean up. It dies with the thread that started it.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest

__all__ = ["CompilingProcess", "main", "request_of", "request_value", "write_engine"]

_LAST_LINES, _LAST_CHARACTERS = 8, 4_000  # of what it said
# The folder it is started in is not searched for modules, as `-m` would do.
_PROGRAM = "import sys; sys.path[:] = filter(None, sys.path); from preflight.engine.compile_process import main; main()"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def request_value(request: CompileRequest) -> dict[str, Any]:
    """Returns a request as JSON values for an order."""
    return {
        "onnx": str(request.onnx_path.resolve()),
        "inputs": {name: list(shape) for name, shape in request.inputs.items()},
        "precision": request.precision,
        "workspace_mb": request.workspace_mb,
        "batch_size": request.batch_size,
    }


def request_of(value: Mapping[str, Any]) -> CompileRequest:
    """Reads a request from the JSON values of an order."""
    return CompileRequest(
        onnx_path=Path(value["onnx"]),
        inputs={name: tuple(shape) for name, shape in value["inputs"].items()},
        precision=value["precision"],
        workspace_mb=value["workspace_mb"],
        batch_size=value["batch_size"],
    )


def write_engine(target: Path, content: bytes | memoryview) -> None:
    """Writes the engine into the file that the caller created. Raises OSError.

    It does not create the file. So if the build was killed and its left-overs were removed, nothing new is left behind.
    """
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write(content)


class CompilingProcess:
    """The `Compilation` of one model: `compile_here(order, target)` of a module, called in a process of its own.

    order: what the module is told, fit for JSON. target: made here, unless it is there, and gone again when nothing comes of
    it. slot: the core it runs on, counted round the ones this process may use; None leaves it all of them. failure: what the
    error begins with where the process says none of its own, such as "OpenVINO cannot compile a.onnx".

    Raises:
        EngineBuildError: `target` cannot be written, or no process can be started.
        OSError: there is no space for it.
    """

    def __init__(
        self, module: str, order: Mapping[str, Any], target: Path, *, failure: str, slot: int | None = None
    ) -> None:
        self._target, self._failure, self._made = target, failure, _made(target)
        told = {"module": module, "order": order, "target": str(target.resolve()), "slot": slot, "parent": os.getpid()}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, json.dumps(told)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
                # What it starts ends with it; and an interrupt at the terminal is the first process's to answer.
                start_new_session=True,
            )
        except OSError as error:
            self._unmake()
            raise EngineBuildError(f"{failure}: no process can be started: {error}") from error
        self.said = ""
        """The last lines of chatter, once it has ended."""

    def wait(self) -> None:
        """As `ports.Compilation`."""
        try:
            answer, said = self._process.communicate()
        except BaseException:
            self.stop()
            raise
        self.said = " | ".join(said[-_LAST_CHARACTERS:].strip().splitlines()[-_LAST_LINES:])
        told = _told(answer)
        # Both: native code may end a process with 0 and nothing done.
        if self._process.returncode != 0 or not told.get("done"):
            self._unmake()
            if number := told.get("errno"):
                raise OSError(number, os.strerror(number), str(self._target))
            reason = told.get("error") or f"{self._failure}: {_ended(self._process.returncode, self.said)}"
            raise EngineBuildError(str(reason))

    def stop(self) -> None:
        """As `ports.Compilation`."""
        # One that was waited for has given its number away.
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._unmake()

    def _unmake(self) -> None:
        if self._made:
            self._target.unlink(missing_ok=True)


def _made(target: Path) -> bool:
    """Make the file the process writes into; False when it is there. Raises EngineBuildError; OSError for want of space."""
    try:
        target.touch(exist_ok=False)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise EngineBuildError(f"The engine {target} cannot be written: {error.strerror}.") from error
    return True


def _told(answer: str) -> dict[str, Any]:
    """Its last line; empty where it did not come to write one."""
    try:
        told = json.loads((answer.splitlines() or [""])[-1])
    except ValueError:  # something else printed
        return {}
    return told if isinstance(told, dict) else {}


def _ended(status: int, said: str) -> str:
    """How a process ended that gave no reason, and what was said before."""
    said = said or "it said nothing"
    if status >= 0:
        return f"the compiling process ended with status {status}; {said}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    hint = "; is there enough memory?" if -status == signal.SIGKILL else ""
    return f"the compiling process was killed by {name}{hint}; before that: {said}"


def _die_with(parent: int) -> None:
    """Be killed when the ordering thread ends, however it ends; at once where it ended already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _stay_on(slot: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[slot % len(cores)]})


def main() -> None:
    """Compile what the only argument orders."""
    told = json.loads(sys.argv[1])
    _die_with(told["parent"])
    if told["slot"] is not None:
        _stay_on(told["slot"])
    answer = os.dup(1)
    os.dup2(2, 1)
    try:
        import_module(told["module"]).compile_here(told["order"], Path(told["target"]))
    except EngineBuildError as error:
        number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
        full = {"errno": number} if number in _FULL else {}
        os.write(answer, b"\n" + json.dumps({"error": str(error), **full}).encode())
        os._exit(1)
    os.write(answer, b'\n{"done": true}')
    os._exit(0)
