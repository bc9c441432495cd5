"""What doit prints while it runs: a line a stage for people, nothing for programs (their log lines say it)."""

from __future__ import annotations

from typing import Any, TextIO

from doit.exceptions import BaseFail
from doit.reporter import ConsoleReporter

from recipes.context import context


class StageReporter(ConsoleReporter):  # type: ignore[misc]  # doit ships no types
    """One line for each stage that runs; errors as the sentence they are."""

    desc = "one line a stage"

    def __init__(self, outstream: TextIO, options: dict[str, Any]) -> None:
        super().__init__(outstream, options)
        self._quiet = context().log_json

    def execute_task(self, task: Any) -> None:  # noqa: ANN401 - doit ships no types
        """A task starts."""
        if task.actions and not task.name.startswith("_") and not self._quiet and task.name not in SILENT:
            self.write(f"   {task.name}\n")

    def skip_uptodate(self, task: Any) -> None:  # noqa: ANN401 - doit ships no types
        """A task is up to date: the table says so at the end."""

    def add_failure(self, task: Any, fail: BaseFail) -> None:  # noqa: ANN401 - doit ships no types
        """A task failed: the sentence for an operator error, doit's own report for a fault of ours."""
        if fail.get_name() == "TaskFailed" and task.name != "test":
            if not self._quiet:
                who = "doit" if task.name.startswith("_") else f"{task.name} failed"
                self.write(f"{who}: {fail.get_msg().strip()}\n")
            return
        super().add_failure(task, fail)


SILENT = ("provision", "verify")
