"""What the commands have in common: operator errors as one sentence, options as `--name=VALUE`."""

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
    """A command whose operator errors are one sentence and status 1."""

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """What the command does. Raises PreflightError."""
        raise NotImplementedError

    def parse_execute(self, in_args: list[str]) -> int:
        """As doit calls it. Options may stand behind the arguments: doit's own parser would stop at the first argument."""
        parser = self.cmdparser
        try:
            given, arguments = getopt.gnu_getopt(in_args, parser.get_short(), parser.get_long())
        except getopt.GetoptError as error:
            return self._refuse(CommandLineError(f"{error.msg}; see doit help {self.name}"))
        flags = [name if parser.get_option(name)[0].type is bool else f"{name}={value}" for name, value in given]
        status: int = super().parse_execute([*flags, "--", *arguments])
        return status

    def execute(self, opt_values: dict[str, Any], pos_args: list[str]) -> int:
        """As doit calls it; returns the exit status."""
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
    """Values as `--name=VALUE`: doit would take a bare NAME=VALUE for a variable."""
    return {"name": name.replace("-", "_"), "long": name, "type": kind, "default": kind(), "help": doc}


def say_rolled_back(run: Context, generation: Generation) -> None:
    """Tell what a rollback has published, here signed or elsewhere."""
    run.say(
        "rolled_back",
        f"{generation.path.name} is current: the previous content, signed anew; "
        "the next doit provision moves forward to the mission's own again",
        generation=generation.path.name,
    )


def path_of(text: str) -> Path | None:
    """An option's path; None where it was not given."""
    return Path(text) if text else None


def width() -> int:
    """Columns a table may take."""
    return min(shutil.get_terminal_size((110, 24)).columns, 140)
