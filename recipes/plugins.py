"""The commands, as doit plugins: `doit import`, `doit status`."""

from __future__ import annotations

import getopt
import shutil
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, ClassVar

from doit.cmd_base import Command

from preflight import wiring
from preflight.commands.status import read_status, status_json, status_text
from preflight.errors import CommandLineError, PreflightError
from preflight.store.layout import CacheLayout
from recipes.context import Context, context, stop_on_signals


class _Command(Command):  # type: ignore[misc]  # doit ships no types
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


def _option(name: str, doc: str, kind: type = str) -> dict[str, Any]:
    """Values as `--name=VALUE`: doit would take a bare NAME=VALUE for a variable."""
    return {"name": name.replace("-", "_"), "long": name, "type": kind, "default": kind(), "help": doc}


class Import(_Command):
    """Tiles into the tile store."""

    name = "import"
    doc_purpose = "put tiles into the mission's tile store"
    doc_usage = "SOURCE"
    doc_description = "SOURCE is `demo` (a made-up landscape) or a folder of ZOOM/X/Y tiles (png, jpg, webp; XYZ)."
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        _option("source", "name of the source; the folder's own if not given"),
        _option("captured-at", "when the pictures were taken, as 2026-05-01 or with a time and zone"),
        _option("update", "replace tiles that are there with other bytes", bool),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Import and say what was done."""
        if len(arguments) != 1:
            raise CommandLineError("give one SOURCE: `demo`, or a folder of ZOOM/X/Y tiles")
        if arguments == ["demo"] and any(options[option["name"]] for option in self.cmd_options):
            raise CommandLineError("`doit import demo` takes no options: the made-up landscape is always the same")
        run.announce_demo()
        mission = run.mission()
        clock = wiring.wall_clock
        tiles = wiring.tile_access(mission.tile_root, mission.database)
        stop_on_signals()
        try:
            if arguments[0] == "demo":
                report = wiring.import_demo(tiles, clock)
            else:
                folder = Path(arguments[0])
                report = wiring.import_folder(
                    tiles,
                    folder,
                    options["source"] or folder.resolve().name,
                    _moment(options["captured_at"]),
                    clock,
                    replace_tiles=options["update"],
                )
        finally:
            tiles.close()
        run.say(
            "import_done",
            f"{report.offered} tiles: {report.added} added, {report.unchanged} there already, "
            f"{report.replaced} replaced in {mission.tile_root}",
            added=report.added,
            unchanged=report.unchanged,
            replaced=report.replaced,
        )


class Status(_Command):
    """What is published."""

    name = "status"
    doc_purpose = "show generations, mission, signer, validity and size"
    doc_usage = ""
    doc_description = "Nothing is hashed here: `doit verify` says whether the current cache is intact."
    cmd_options: ClassVar[list[dict[str, Any]]] = []

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:  # noqa: ARG002 - doit's signature
        """Print the generations."""
        mission = run.mission()
        layout = CacheLayout(mission.job.cache_root)
        found = read_status(layout)
        if run.log_json:
            print(status_json(layout, str(mission.source), found))  # noqa: T201 - the command's output
        else:
            width = min(shutil.get_terminal_size((130, 24)).columns, 140)
            print(status_text(layout, str(mission.source), found, width=width))  # noqa: T201 - the command's output


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise CommandLineError(f"--captured-at={text} is no date; write 2026-05-01 or 2026-05-01T12:00Z") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
