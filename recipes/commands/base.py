"""The base of all commands: operator errors as one sentence, options as `--name=VALUE`."""

from __future__ import annotations

import gc
import getopt
import shutil
import sys
from pathlib import Path
from typing import Any

from doit.cmd_base import Command

from preflight.errors import CommandLineError, PreflightError
from preflight.store.generations import Generation
from recipes.context import Context, context


class OperatorCommand(Command):  # type: ignore[misc]  # doit ships no types
    """A command that reports an operator error as one sentence and ends with status 1."""

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Does the command's work. Raises PreflightError."""
        raise NotImplementedError

    def parse_execute(self, in_args: list[str]) -> int:
        """Parses and runs; doit calls it. Options may follow the arguments: doit's own parser stops at the first argument."""
        parser = self.cmdparser
        try:
            given, arguments = getopt.gnu_getopt(in_args, parser.get_short(), parser.get_long())
        except getopt.GetoptError as error:
            return self._refuse(CommandLineError(f"{error.msg}; see doit help {self.name}"))
        flags = [name if parser.get_option(name)[0].type is bool else f"{name}={value}" for name, value in given]
        status: int = super().parse_execute([*flags, "--", *arguments])
        return status

    def execute(self, opt_values: dict[str, Any], pos_args: list[str]) -> int:
        """Runs the command and returns the exit status; doit calls it."""
        gc.enable()
        run = context()
        run.start_logging()
        try:
            self.act(run, opt_values, pos_args)
        except PreflightError as error:
            return self._refuse(error)
        return 0

    def _refuse(self, error: PreflightError) -> int:
        run = context()
        run.start_logging()
        run.log_failure(error)
        if not run.log_json:
            sys.stderr.write(f"doit {self.name} failed: {error}\n")
        return 1


def option(name: str, doc: str, kind: type = str) -> dict[str, Any]:
    """Returns an option that takes its value as `--name=VALUE`: doit reads a bare NAME=VALUE as a variable."""
    return {"name": name.replace("-", "_"), "long": name, "type": kind, "default": kind(), "help": doc}


def say_rolled_back(run: Context, generation: Generation) -> None:
    """Reports what a rollback has published."""
    run.say(
        "c10.rollback.complete",
        f"{generation.path.name} is current: the previous content, signed anew. "
        "The next doit provision publishes the mission's own content again",
        generation=generation.path.name,
    )


def path_of(text: str) -> Path | None:
    """Returns an option's path; None if the option was not given."""
    return Path(text) if text else None


def width() -> int:
    """Returns the number of columns for a table."""
    return min(shutil.get_terminal_size((110, 24)).columns, 140)
