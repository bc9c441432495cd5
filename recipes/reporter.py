"""What doit prints while it runs: one line a stage for people; nothing for programs, which read the log."""

from __future__ import annotations

from typing import Any, TextIO

from doit.exceptions import BaseFail
from doit.reporter import ConsoleReporter

from recipes.context import context


class StageReporter(ConsoleReporter):  # type: ignore[misc]  # doit ships no types
    """Prints one line for each stage that runs, and an operator error as one sentence."""

    desc = "one line a stage"

    def __init__(self, outstream: TextIO, options: dict[str, Any]) -> None:
        super().__init__(outstream, options)
        self._quiet = context().log_json

    def execute_task(self, task: Any) -> None:  # noqa: ANN401 - doit ships no types
        """Called when a task starts."""
        if task.actions and not task.name.startswith("_") and not self._quiet and task.name not in SILENT:
            self.write(f"   {task.name}\n")

    def skip_uptodate(self, task: Any) -> None:  # noqa: ANN401 - doit ships no types
        """Called when a task is up to date. Prints nothing: the table at the end says it."""

    def add_failure(self, task: Any, fail: BaseFail) -> None:  # noqa: ANN401 - doit ships no types
        """Called when a task failed. Prints one sentence for an operator error, doit's report for a defect of this program."""
        if fail.get_name() == "TaskFailed":
            if not self._quiet:
                who = "doit" if task.name.startswith("_") else f"{task.name} failed"
                self.write(f"{who}: {fail.get_msg().strip()}\n")
            return
        super().add_failure(task, fail)


SILENT = ("provision", "verify")
