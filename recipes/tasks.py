"""The one place that makes task dicts."""

from __future__ import annotations

import gc
import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from doit.exceptions import TaskFailed

from preflight.errors import CommandLineError, PreflightError
from recipes.context import context, ignore_signals, stop_on_signals

if TYPE_CHECKING:
    from preflight.session import Stage

LOCK = "_lock"


def guarded(action: Callable[[], None]) -> Callable[[], TaskFailed | None]:
    """An action whose operator errors fail the task with one clear sentence and no traceback."""

    def act() -> TaskFailed | None:
        try:
            action()
        except PreflightError as error:
            context().log_failure(error)
            return TaskFailed(str(error))
        return None

    return act


def lock_task() -> dict[str, Any]:
    """Takes the cache root's lock before any stage is judged, and gives everything back at the end."""

    def begin() -> None:
        run = context()
        run.start_logging()
        if multiprocessing.parent_process() is not None or threading.current_thread() is not threading.main_thread():
            raise CommandLineError("doit's -n is not used here: stages share one lock and run their own threads")
        run.announce_demo()
        session = run.session()
        stop_on_signals()
        session.begin()

    def end() -> None:
        # It takes milliseconds; half done, it would leave the database server running.
        ignore_signals()
        try:
            context().session().close()
        except PreflightError:
            # There was none to open; the task has said why.
            return

    return {
        "actions": [guarded(begin)],
        "teardown": [end],
        "uptodate": [False],
        "verbosity": 2,
        "doc": None,
    }


def stage_tasks(name: str, doc: str) -> Iterator[dict[str, Any]]:
    """The task or tasks of a stage: `engine` has one for each backbone.

    doit sees real file dependencies and targets; whether a task is up to date is decided by the session's own rule.
    """
    stages = [stage for stage in context().stages() if stage.name.split(":")[0] == name]
    if not stages:
        # A mission that is refused: the task is there for `doit list`, and says why when it runs.
        yield {"basename": name, "actions": [guarded(_refuse)], "task_dep": [LOCK], "doc": doc, "verbosity": 2}
    for stage in stages:
        yield {**_names(stage), **_task(stage), "doc": doc}


def _names(stage: Stage) -> dict[str, str]:
    base, _, name = stage.name.partition(":")
    return {"basename": base, "name": name} if name else {"basename": base}


def _task(stage: Stage) -> dict[str, Any]:
    outputs = [path for step in stage.steps for path in step.outputs]
    reads = [path for step in stage.steps for path in step.reads if path not in outputs]

    def run() -> None:
        gc.enable()
        # An engine that is asked for by name is built alone.
        context().session().run(stage.name, alone=any(argument.startswith("engine") for argument in sys.argv[1:]))

    def current() -> bool:
        return context().session().judge(stage.name)

    return {
        "actions": [guarded(run)],
        "file_dep": [str(path) for path in dict.fromkeys(reads)],
        "targets": [str(path) for path in outputs],
        "task_dep": [LOCK, *stage.after],
        "uptodate": [current],
        "verbosity": 2,
    }


def _refuse() -> None:
    context().session()
