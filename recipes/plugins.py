"""The commands, as doit plugins: `doit import`, `doit status`."""

from __future__ import annotations

import gc
import getopt
import re
import shutil
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, ClassVar

from doit.cmd_base import Command

from preflight import wiring
from preflight.commands import imports
from preflight.commands.collect import collect
from preflight.commands.explain import explain, plan_json, plan_text, waiting_for, why_json, why_text
from preflight.commands.missing import write_missing
from preflight.commands.new import new_mission, templates
from preflight.commands.reproduce import reproduce, reproduce_json, reproduce_text
from preflight.commands.rollback import previous, roll_back
from preflight.commands.status import read_status, status_json, status_text
from preflight.errors import CacheRootError, CommandLineError, ManifestCoverageError, PreflightError
from preflight.estimate import bytes_below
from preflight.importing import ImportProgress, ImportRequest
from preflight.report.table import size_text
from preflight.store.layout import CacheLayout
from preflight.tile_offers import plain_text
from recipes.context import HERE, TEMPLATES, Context, context, stop_on_signals


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


def _option(name: str, doc: str, kind: type = str) -> dict[str, Any]:
    """Values as `--name=VALUE`: doit would take a bare NAME=VALUE for a variable."""
    return {"name": name.replace("-", "_"), "long": name, "type": kind, "default": kind(), "help": doc}


class Import(_Command):
    """Tiles into the tile store."""

    name = "import"
    doc_purpose = "put tiles into the mission's tile store"
    doc_usage = "SOURCE"
    doc_description = (
        "SOURCE is `demo` (a made-up landscape), a folder of ZOOM/X/Y tiles (png, jpg, webp), an MBTiles or PMTiles file, "
        "a GeoTIFF, or a PNG or JPEG with a CSV of its corners beside it (corner,lat,lon)."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        _option("source", "name of the source; the folder's or file's own if not given"),
        _option("zoom", "zooms to import, as 18 or 15-18; all, or of a picture the one nearest to its resolution"),
        _option("scheme", "how a folder or MBTiles file counts its rows: xyz from the north, tms from the south"),
        _option("captured-at", "when the pictures were taken, as 2026-05-01 or with a time and zone"),
        _option("terms", "licence or terms of use; what the source itself states if not given"),
        _option("update", "replace tiles that are there with other bytes", bool),
        _option("skip-bad", "leave out tiles that cannot be imported, and report each", bool),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Import and say what was done."""
        if len(arguments) != 1:
            raise CommandLineError(
                "give one SOURCE: `demo`, a folder of ZOOM/X/Y tiles, or a file; see doit help import"
            )
        if arguments == ["demo"] and any(options[option["name"]] for option in self.cmd_options):
            raise CommandLineError("`doit import demo` takes no options: the made-up landscape is always the same")
        request = _import_request(Path(arguments[0]), options)
        run.announce_demo()
        mission = run.mission()
        tiles = wiring.tile_access(mission.tile_root, mission.database)
        progress = None if run.log_json else _show_import
        stop_on_signals()
        try:
            if arguments[0] == "demo":
                report = wiring.import_demo(tiles, wiring.wall_clock, progress)
            else:
                report = wiring.import_source(tiles, request, wiring.wall_clock, progress)
        finally:
            tiles.close()
        source = "demo" if arguments[0] == "demo" else request.source
        text = imports.write_report(report, source, str(request.path), mission.tile_root)
        run.say("import_done", text, source=source, tile_store=str(mission.tile_root), **imports.fields(report))


def _import_request(path: Path, options: dict[str, Any]) -> ImportRequest:
    scheme = options["scheme"] or None
    if scheme not in (None, "xyz", "tms"):
        raise CommandLineError(f"--scheme={scheme} is none; write xyz or tms")
    own = path.resolve()
    return ImportRequest(
        path=path,
        source=options["source"] or (own.name if own.is_dir() else own.stem),
        zooms=imports.read_zooms(options["zoom"]),
        scheme=scheme,
        captured_at=_moment(options["captured_at"]),
        terms=plain_text(options["terms"]),
        update=options["update"],
        skip_bad=options["skip_bad"],
    )


def _show_import(progress: ImportProgress) -> None:
    print(imports.progress_text(progress), flush=True)  # noqa: T201 - for people


class New(_Command):
    """A mission file."""

    name = "new"
    doc_purpose = "write a mission file here, from a template"
    doc_usage = "TEMPLATE"
    doc_description = (
        f"TEMPLATE is {' or '.join(templates(TEMPLATES))}. mission=FILE names another file; none is replaced."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = []

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Write it and say what comes next."""
        if len(arguments) != 1:
            raise CommandLineError(f"give one TEMPLATE: {', '.join(templates(TEMPLATES))}")
        target = Path(run.variables.mission or HERE)
        new_mission(arguments[0], TEMPLATES, target)
        run.say(
            "mission_written",
            f"{target} is written: edit it, put tiles into its store with doit import, then doit provision",
            path=str(target),
            template=arguments[0],
        )


class Status(_Command):
    """What is published."""

    name = "status"
    doc_purpose = "show generations, mission, signer, validity and size"
    doc_usage = ""
    doc_description = "Nothing is hashed here: `doit verify` says whether the current cache is intact."
    cmd_options: ClassVar[list[dict[str, Any]]] = []

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
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
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
    if moment - wiring.wall_clock() > timedelta(days=1):
        raise CommandLineError(f"--captured-at={text} is in the future; write when the pictures were taken")
    return moment


class Plan(_Command):
    """The dry run."""

    name = "plan"
    doc_purpose = "show what provision would do, write and take; changes nothing"
    doc_usage = ""
    doc_description = (
        "Takes no lock. A stage that may be cut off early is skipped when what is before it builds equal bytes."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        _option("missing", "also write the missing, stale and corrupt tiles as GeoJSON, for the C11 TileDownloader"),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Print the plan."""
        run.announce_demo()
        assembly = run.assembly()
        lacking = Path(options["missing"]) if options["missing"] else None
        try:
            plan = assembly.planner(run.session()).plan()
            found = None if lacking is None else write_missing(assembly.job, assembly.tiles, wiring.wall_clock, lacking)
        finally:
            assembly.tiles.close()
        print(plan_json(plan) if run.log_json else plan_text(plan, width=_width()))  # noqa: T201 - the command's output
        if found is not None:
            run.say(
                "missing_written",
                f"{found.missing:,} missing, {found.stale:,} stale and {found.corrupt:,} corrupt of {found.expected:,} tiles "
                f"are in {lacking}",
                missing=found.missing,
                stale=found.stale,
                corrupt=found.corrupt,
                expected=found.expected,
                path=str(lacking),
            )


class Why(_Command):
    """Reasons."""

    name = "why"
    doc_purpose = "show why a task would be built, or was built last"
    doc_usage = "TASK"
    doc_description = "TASK is a stage: tiles, engine:MODEL, descriptors, index, selftest, manifest or publish."

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Print each step's reasons, old → new."""
        if len(arguments) != 1:
            raise CommandLineError("give one TASK, such as engine:weight_free_vpr or index")
        assembly = run.assembly()
        try:
            found = explain(run.session(), arguments[0])
            waiting = waiting_for(run.session(), arguments[0])
        finally:
            assembly.tiles.close()
        text = why_json(found, waiting) if run.log_json else why_text(found, waiting)
        print(text)  # noqa: T201 - the command's output


class Reproduce(_Command):
    """Build again elsewhere."""

    name = "reproduce"
    doc_purpose = "build the mission again with nothing reused and compare every byte with current"
    doc_usage = ""
    doc_description = "The fresh build lies in staging/ while it is compared, and is removed."

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Print a line a file; a difference is an error."""
        stop_on_signals()
        found = reproduce(run.mission(), wiring.Surroundings.real())
        print(reproduce_json(found) if run.log_json else reproduce_text(found))  # noqa: T201 - the command's output
        if not all(item.equal for item in found):
            raise ManifestCoverageError("the mission does not build what current holds; doit plan says what changed")


class Rollback(_Command):
    """Go back."""

    name = "rollback"
    doc_purpose = "publish the previous content again, as a new signed generation"
    doc_usage = ""
    doc_description = "The verifier judges it first. The next provision moves forward again."

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Roll back under the lock."""
        stop_on_signals()
        session = run.session()
        previous(run.assembly().generations)
        try:
            session.hold()
            generation = roll_back(run.assembly())
        finally:
            session.close()
        run.say(
            "rolled_back",
            f"{generation.path.name} is current: the previous content, signed anew; "
            "the next doit provision moves forward to the mission's own again",
            generation=generation.path.name,
        )


class Collect(_Command):
    """Remove what nothing refers to."""

    name = "gc"
    doc_purpose = "remove work files and generations that nothing refers to"
    doc_usage = ""
    doc_description = (
        "Kept: the newest generations, current, previous, and what the mission's newest build records name."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        _option("max-size", "remove only the oldest, until the cache root has this size, such as 20GB"),
        _option("dry-run", "only say what would go", bool),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Collect under the lock."""
        limit = _size(options["max_size"])
        session = run.session()
        if not session.layout.root.is_dir():
            raise CacheRootError(f"there is no cache root {session.layout.root} yet; run doit provision first")
        try:
            session.hold(sweep=not options["dry_run"])
            removed = collect(run.assembly(), session, limit, dry_run=options["dry_run"])
            left = bytes_below([session.layout.root])
        finally:
            session.close()
        for item in removed if not run.log_json else ():
            print(f"{size_text(item.size):>10}  {item.path}")  # noqa: T201 - the command's output
        deed = "would be removed" if options["dry_run"] else "removed"
        size = sum(item.size for item in removed)
        left -= size if options["dry_run"] else 0
        text = f"{len(removed)} {deed}, {size_text(size)}"
        reached = limit is None or left <= limit
        if not reached:
            text += (
                f"; {size_text(left)} stay, more than --max-size={options['max_size']}: all of it is still referred to"
            )
        run.say("collected", text, count=len(removed), bytes=size, left=left, reached=reached)


def _width() -> int:
    return min(shutil.get_terminal_size((110, 24)).columns, 140)


def _size(text: str) -> int | None:
    """Bytes of 500MB, 20GB or a plain number; powers of 1000. Raises CommandLineError."""
    if not text:
        return None
    match = re.fullmatch(r"([0-9]+)(kB|MB|GB|)", text)
    if match is None:
        raise CommandLineError(f"--max-size={text} is no size; write 20GB, 500MB or a number of bytes")
    return int(match[1]) * {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}[match[2]]
