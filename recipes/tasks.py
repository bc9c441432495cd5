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
    from doit.task import Task

    from preflight.run.session import Session, Stage

LOCK = "_lock"


def guarded(action: Callable[[], None]) -> Callable[[], TaskFailed | None]:
    """An action whose operator errors fail the task with one clear sentence and no traceback."""

    def act() -> TaskFailed | None:
        try:
            action()
        except PreflightError as error:
            run = context()
            run.start_logging()
            run.log_failure(error)
            return TaskFailed(str(error))
        return None

    return act


def lock_task() -> dict[str, Any]:
    """Takes the cache root's lock before any stage is judged, and gives everything back at the end."""

    def begin() -> None:
        run = context()
        run.start_logging()
        if _aside():
            raise CommandLineError("doit's -n is not used here: stages share one lock and run their own threads")
        run.announce_demo()
        session = run.session()
        stop_on_signals()
        session.begin()

    def end() -> None:
        if _aside():
            return  # nothing was begun
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


def _aside() -> bool:
    """Whether this is a process or thread that doit's -n has made."""
    return multiprocessing.parent_process() is not None or threading.current_thread() is not threading.main_thread()


def locked_session() -> Session:
    """The run's session, under its lock. Raises CommandLineError where doit was told to leave out the task that takes it."""
    session = context().session()
    if not session.holds_lock:
        raise CommandLineError(
            "doit's -s is not used here: it leaves out the lock and the stages before; give the task without it"
        )
    return session


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
        locked_session().run(stage.name, alone=any(argument.startswith("engine") for argument in sys.argv[1:]))

    def current(task: Task) -> bool:
        # doit's -s has taken the lock from the task: running it says so.
        return LOCK in task.task_dep and context().session().judge(stage.name)

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
