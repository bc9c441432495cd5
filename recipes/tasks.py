"""Makes every task dict."""

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


def guarded(action: Callable[[], TaskFailed | None]) -> Callable[[], TaskFailed | None]:
    """Wraps an action so that an operator error fails the task with one sentence and no traceback."""

    def act() -> TaskFailed | None:
        try:
            return action()
        except PreflightError as error:
            run = context()
            run.start_logging()
            run.log_failure(error)
            return TaskFailed(str(error))

    return act


def lock_task() -> dict[str, Any]:
    """Returns the task that takes the cache root's lock before any stage is judged. Its teardown closes the session."""

    def begin() -> None:
        run = context()
        run.start_logging()
        if _runs_in_worker():
            raise CommandLineError(
                "doit's -n cannot be used: stages share one lock and run their own threads. Leave -n out"
            )
        run.announce_demo()
        session = run.session()
        stop_on_signals()
        session.begin()

    def end() -> None:
        if _runs_in_worker():
            return  # nothing was started here
        # Closing takes milliseconds. If a signal stopped it half-way, the database server would keep running.
        ignore_signals()
        try:
            context().session().close()
        except PreflightError:
            # No session was opened; the task has reported why.
            return

    return {
        "actions": [guarded(begin)],
        "teardown": [end],
        "uptodate": [False],
        "verbosity": 2,
        "doc": None,
    }


def _runs_in_worker() -> bool:
    """Whether this is a process or thread that doit's -n started."""
    return multiprocessing.parent_process() is not None or threading.current_thread() is not threading.main_thread()


def locked_session() -> Session:
    """Returns the run's session. Raises CommandLineError if it holds no lock, because doit -s left out the lock task."""
    session = context().session()
    if not session.holds_lock:
        raise CommandLineError(
            "doit's -s cannot be used: it leaves out the lock and the stages before. Name the task without -s"
        )
    return session


def stage_tasks(name: str, doc: str) -> Iterator[dict[str, Any]]:
    """Yields the task or tasks of a stage: `engine` has one for each backbone.

    doit sees real file dependencies and targets. The session's own rule decides whether a task is up to date.
    """
    stages = [stage for stage in context().stages() if stage.name.split(":")[0] == name]
    if not stages:
        # The mission is refused. `doit list` still shows the task; running it says why.
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
        # An engine that the operator names is built alone.
        locked_session().run(stage.name, alone=any(argument.startswith("engine") for argument in sys.argv[1:]))

    def current(task: Task) -> bool:
        # Without the lock in its dependencies (doit -s) the task must run: running it refuses.
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
