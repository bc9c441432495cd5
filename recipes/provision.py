"""The task `provision`: all stages, and the table at the end."""

from __future__ import annotations

import shutil
from typing import Any

from recipes.context import context
from recipes.tasks import LOCK, guarded, lock_task, locked_session


def task__lock() -> dict[str, Any]:
    """Take the cache root's lock."""
    return lock_task()


def task_provision() -> dict[str, Any]:
    """Build, sign, verify and publish the cache of the mission."""

    def finish() -> None:
        from preflight.commands.provision import closing_text  # noqa: PLC0415 - only a finished build needs it

        run = context()
        session = locked_session()
        report = session.finish()
        if not run.log_json:
            width = min(shutil.get_terminal_size((100, 24)).columns, 110)
            print(closing_text(session, report, width=width))  # noqa: T201 - this is what the operator reads

    return {
        "actions": [guarded(finish)],
        "task_dep": [LOCK, *(stage.name for stage in context().stages())],
        "uptodate": [False],
        "verbosity": 2,
        "doc": "build, sign, verify and publish the cache of the mission (default)",
    }
