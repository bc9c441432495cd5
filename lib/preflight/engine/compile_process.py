"""Compiles one model in its own process. If that process crashes, or is killed because memory runs out, only it ends.

The process gets an order as its only argument, in JSON: the module that compiles, and its input. The last line of its
standard output is {"done": true} or {"error": reason}. "errno" is added if the disk was full. Native code writes to
standard error.

The process ends with `os._exit`, because the destruction of a network crashes if its builder has an error recorder
(TensorRT-RTX 1.7.1). There is nothing to clean up. The process is killed when the thread that started it ends.
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

_LAST_LINES, _LAST_CHARACTERS = 8, 4_000  # of its output
# Modules are not searched in the working folder; `-m` would do that.
_PROGRAM = "import sys; sys.path[:] = filter(None, sys.path); from preflight.engine.compile_process import main; main()"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def request_value(request: CompileRequest) -> dict[str, Any]:
    """Return a request as the JSON values of an order."""
    return {
        "onnx": str(request.onnx_path.resolve()),
        "inputs": {name: list(shape) for name, shape in request.inputs.items()},
        "precision": request.precision,
        "workspace_mb": request.workspace_mb,
        "batch_size": request.batch_size,
    }


def request_of(value: Mapping[str, Any]) -> CompileRequest:
    """Read a request from the JSON values of an order."""
    return CompileRequest(
        onnx_path=Path(value["onnx"]),
        inputs={name: tuple(shape) for name, shape in value["inputs"].items()},
        precision=value["precision"],
        workspace_mb=value["workspace_mb"],
        batch_size=value["batch_size"],
    )


def write_engine(target: Path, content: bytes | memoryview) -> None:
    """Write an engine into the file that the caller created. Raises OSError.

    It does not create the file. So if the build was killed and its files were removed, this process leaves nothing
    behind.
    """
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write(content)


class CompilingProcess:
    """The `Compilation` of one model: calls `compile_here(order, target)` of a module in its own process.

    Args:
        module: the name of the module.
        order: the module's input, as JSON values.
        target: the file for the engine. If it does not exist, it is created here, and removed if the compilation fails.
        failure: the beginning of an error message if the process gave no reason, such as "OpenVINO cannot compile
            a.onnx".
        slot: the number of the core that the process uses, modulo the number of usable cores. None allows all cores.

    Raises:
        EngineBuildError: `target` cannot be written, or the process cannot be started.
        OSError: the disk has no space for `target`.
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
                # Its child processes end with it, and the first process handles an interrupt at the terminal.
                start_new_session=True,
            )
        except OSError as error:
            self._unmake()
            raise EngineBuildError(f"{failure}: no process can be started: {error}") from error
        self.said = ""
        """The last lines that the process printed; empty until it has ended."""

    def wait(self) -> None:
        """Wait until the engine is written, as `ports.Compilation` describes."""
        try:
            answer, said = self._process.communicate()
        except BaseException:
            self.stop()
            raise
        self.said = " | ".join(said[-_LAST_CHARACTERS:].strip().splitlines()[-_LAST_LINES:])
        told = _told(answer)
        # Both are checked, because native code may end the process with status 0 before it is done.
        if self._process.returncode != 0 or not told.get("done"):
            self._unmake()
            if number := told.get("errno"):
                raise OSError(number, os.strerror(number), str(self._target))
            reason = told.get("error") or f"{self._failure}: {_ended(self._process.returncode, self.said)}"
            raise EngineBuildError(str(reason))

    def stop(self) -> None:
        """Cancel the compilation, as `ports.Compilation` describes."""
        # After a wait, another process may have its number.
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._unmake()

    def _unmake(self) -> None:
        if self._made:
            self._target.unlink(missing_ok=True)


def _made(target: Path) -> bool:
    """Create the file for the engine. Return False if it exists.

    Raises:
        EngineBuildError: the file cannot be created.
        OSError: the disk has no space for it.
    """
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
    """Return the last line of the process as a mapping; it is empty if the process did not write one."""
    try:
        told = json.loads((answer.splitlines() or [""])[-1])
    except ValueError:  # the last line is other output
        return {}
    return told if isinstance(told, dict) else {}


def _ended(status: int, said: str) -> str:
    """Return how a process ended that gave no reason, and its last output.

    status: as in `subprocess.Popen.returncode`.
    """
    said = said or "it said nothing"
    if status >= 0:
        return f"the compiling process ended with status {status}; {said}"
    name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
    hint = "; is there enough memory?" if -status == signal.SIGKILL else ""
    return f"the compiling process was killed by {name}{hint}; before that: {said}"


def _die_with(parent: int) -> None:
    """Kill this process when the thread that started it ends, in whatever way. If it has already ended, exit now."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _stay_on(slot: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[slot % len(cores)]})


def main() -> None:
    """Compile the model that the only argument orders, and print the answer."""
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
