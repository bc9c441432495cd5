"""Commands before the first build: `doit new`, `import`."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, ClassVar

from preflight import wiring
from preflight.commands import imports
from preflight.commands.new import new_mission, templates
from preflight.errors import CommandLineError
from preflight.tile_import.request import ImportProgress, ImportRequest
from preflight.tile_import.source import plain_text
from recipes.commands.base import OperatorCommand, option
from recipes.context import HERE, TEMPLATES, Context, stop_on_signals


class New(OperatorCommand):
    """Writes a mission file."""

    name = "new"
    doc_purpose = "write a mission file into this folder, from a template"
    doc_usage = "TEMPLATE"
    doc_description = (
        f"TEMPLATE is {' or '.join(templates(TEMPLATES))}. mission=FILE names another file. "
        "An existing file is never replaced."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = []

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Writes it and says what comes next."""
        if len(arguments) != 1:
            raise CommandLineError(f"give one TEMPLATE: {', '.join(templates(TEMPLATES))}")
        target = Path(run.variables.mission or HERE)
        new_mission(arguments[0], TEMPLATES, target)
        run.say(
            "c10.mission.written",
            f"{target} is written: edit it, put tiles into its store with doit import, then doit provision",
            path=str(target),
            template=arguments[0],
        )


class Import(OperatorCommand):
    """Imports tiles into the tile store."""

    name = "import"
    doc_purpose = "put tiles into the mission's tile store"
    doc_usage = "SOURCE"
    doc_description = (
        "SOURCE is `demo` (a made-up landscape), a folder of ZOOM/X/Y tiles (png, jpg, webp), an MBTiles or PMTiles file, "
        "a GeoTIFF, or a PNG or JPEG with a CSV of its corners beside it (corner,lat,lon)."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        option("source", "name of the source; default: the name of the folder or file"),
        option(
            "zoom", "zooms to import, as 18 or 15-18; default: all, or for a picture the zoom nearest its resolution"
        ),
        option("scheme", "how a folder or MBTiles file counts its rows: xyz from the north, tms from the south"),
        option("captured-at", "when the pictures were taken, as 2026-05-01 or with a time and zone"),
        option("terms", "licence or terms of use; default: what the source itself states"),
        option("update", "replace existing tiles that have other bytes", bool),
        option("skip-bad", "leave out tiles that cannot be imported, and report each one", bool),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Imports and reports what was done."""
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
        run.say("c10.import.complete", text, source=source, tile_store=str(mission.tile_root), **imports.fields(report))


def _import_request(path: Path, options: dict[str, Any]) -> ImportRequest:
    scheme = options["scheme"] or None
    if scheme not in (None, "xyz", "tms"):
        raise CommandLineError(f"--scheme={scheme} is unknown: write xyz or tms")
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


def _moment(text: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError as error:
        raise CommandLineError(f"--captured-at={text} is not a date: write 2026-05-01 or 2026-05-01T12:00Z") from error
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc)
    if moment - wiring.wall_clock() > timedelta(days=1):
        raise CommandLineError(f"--captured-at={text} is in the future: write when the pictures were taken")
    return moment
