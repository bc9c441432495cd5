"""The checks and tests of this repository: `doit check`, `doit test quick=1` and `doit test`. None of them reads a mission."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from doit.exceptions import TaskFailed

from recipes.context import ROOT, context
from recipes.tasks import guarded

CHECKS = {
    "format": ("-m", "ruff", "format", "--check", "."),
    "lint": ("-m", "ruff", "check", "."),
    "types": ("-m", "mypy"),
    "layers": ("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-logo"),
}


@dataclass(frozen=True, slots=True)
class Part:
    """Folders of `tests/` that one pytest runs, with the options that it gets for them."""

    name: str
    folders: tuple[str, ...]
    options: tuple[str, ...] = ()


# Every test file belongs to one part of ALL. Folders with long files come first: a worker that takes a long file last lets the
# other workers wait.
QUICK = (Part("unit and property tests", ("properties", "unit")),)
ALL = (
    # These run every line and branch of the verifier. Coverage doubles the time of tests that import more, so they have none.
    Part(
        "tests of the verifier",
        ("unit/takeoff",),
        ("--cov=takeoff", "--cov-branch", "--cov-report=term-missing", "--cov-fail-under=100"),
    ),
    Part("unit and property tests", ("properties", "unit/preflight", "unit/recipes", "unit/takeoff_report")),
    Part("all other tests", ("pipeline", "faults", "models", "contracts", "architecture")),
)
# A worker takes a whole file, in the order of the folders: tests of one file share fixtures that are slow to make.
# One worker more than cores: a worker often waits for a process or a server that a test started.
WORKERS = len(os.sched_getaffinity(0)) + 1
PYTEST = ("-m", "pytest", "-q", "-n", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder", "--durations=10")

MEMORY = Path("/dev/shm")  # noqa: S108 - Linux has its file system in memory here; each run makes its own folder in it
ROOM = 4 << 30


def task_check() -> dict[str, Any]:
    """Format, lint, types and layers."""

    def run() -> TaskFailed | None:
        context().flags()
        return _run({"check": _check})

    return _task(run, "check format, lint, types and layers")


def task_test() -> dict[str, Any]:
    """The checks and the tests."""

    def run() -> TaskFailed | None:
        quick = context().flags("quick")["quick"]
        return _run(_tests(*QUICK) if quick else {"check": _check, **_tests(*ALL)})

    return _task(run, "run the checks and all tests; quick=1: unit and property tests alone")


def _task(run: Callable[[], TaskFailed | None], doc: str) -> dict[str, Any]:
    return {"actions": [guarded(run)], "uptodate": [False], "verbosity": 2, "doc": doc}


def _run(parts: Mapping[str, Callable[[], bool]]) -> TaskFailed | None:
    """Runs one part after the other until one fails. Prints the time of each."""
    times: dict[str, float] = {}
    passed = True
    for name, part in parts.items():
        _say(f"== {name}")
        began = time.monotonic()
        passed = part()
        times[name] = time.monotonic() - began
        if not passed:
            break
    _say("== times: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in times.items()))
    return None if passed else TaskFailed(f"{list(times)[-1]}: read above what is wrong")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - for the engineer; flushed because subprocesses write to the same place


def _check() -> bool:
    """Runs all checks at the same time. Prints the last line of one that passes, and everything from one that fails."""
    processes = {
        name: subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for name, arguments in CHECKS.items()
    }
    for name, process in processes.items():
        said = process.communicate()[0].strip()
        shown = said.rpartition("\n")[2] if process.returncode == 0 else f"failed:\n{said}"
        _say(f"   {name}: {shown}")
    return all(process.returncode == 0 for process in processes.values())


def _tests(*parts: Part) -> dict[str, Callable[[], bool]]:
    return {part.name: partial(_pytest, part) for part in parts}


def _pytest(part: Part) -> bool:
    folders = [f"tests/{folder}" for folder in part.folders]
    with _environment() as environment:
        done = subprocess.run(
            [sys.executable, *PYTEST, *part.options, *folders], cwd=ROOT, env=environment, check=False
        )
    return done.returncode == 0


@contextmanager
def _environment() -> Iterator[dict[str, str]]:
    """The environment of the tests. They make many small files: they get a folder in memory where one is free.

    A TMPDIR that is already set stays. The folder is removed at the end.
    """
    # Hundreds of processes import the package: without its bytecode on disk each would compile it again.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    if "TMPDIR" in environment or not _has_room(MEMORY):
        yield environment
        return
    with tempfile.TemporaryDirectory(prefix="preflight-tests-", dir=MEMORY, ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)  # the user of the embedded server must reach its files
        yield environment | {"TMPDIR": folder}


def _has_room(folder: Path) -> bool:
    """Whether tests can write and run files there. A container often has 64 MB."""
    try:
        state = os.statvfs(folder)
    except OSError:
        return False
    return os.access(folder, os.W_OK) and not state.f_flag & os.ST_NOEXEC and state.f_bavail * state.f_frsize >= ROOM
