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
from preflight.commands import imports, sign
from preflight.commands.bundle import bundle
from preflight.commands.collect import collect
from preflight.commands.engines import check_engines, engines_json, engines_text, read_engines
from preflight.commands.explain import explain, plan_json, plan_text, waiting_for, why_json, why_text
from preflight.commands.keys import keygen, trust
from preflight.commands.missing import write_missing
from preflight.commands.new import new_mission, templates
from preflight.commands.provision import closing_text
from preflight.commands.reproduce import reproduce, reproduce_json, reproduce_text
from preflight.commands.rollback import previous, roll_back
from preflight.commands.status import read_status, status_json, status_text
from preflight.errors import CacheRootError, CommandLineError, EngineBuildError, ManifestCoverageError, PreflightError
from preflight.estimate import bytes_below
from preflight.importing import ImportProgress, ImportRequest
from preflight.report.table import size_text
from preflight.signing import PASSPHRASE_VARIABLE, SigningKey, given_passphrase, load_signing_key
from preflight.store.generations import Generation
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


class Engines(_Command):
    """Which engines there are."""

    name = "engines"
    doc_purpose = "show each backbone's engine: reused or to be built, why, parity, seconds"
    doc_usage = ""
    doc_description = (
        "Takes no lock and changes nothing. --check also builds what is missing, in a folder that is removed, and fails where "
        "one cannot be built here."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        _option("check", "try to build what is missing, beside the cache", bool),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Print a line a backbone; one that cannot be built is an error."""
        if arguments:
            raise CommandLineError("doit engines takes no arguments; see doit help engines")
        stop_on_signals()
        run.announce_demo()
        found = read_engines(run.assembly(), run.session())
        if options["check"]:
            found = check_engines(run.mission(), wiring.Surroundings.real(), found)
        print(engines_json(found) if run.log_json else engines_text(found, width=_width()))  # noqa: T201 - the command's output
        failed = [state for state in found if state.problem is not None]
        if failed:
            raise EngineBuildError("; ".join(f"{state.model}: {state.problem}" for state in failed))


class Reproduce(_Command):
    """Build again elsewhere."""

    name = "reproduce"
    doc_purpose = "build the mission again with nothing reused and compare every byte with current"
    doc_usage = ""
    doc_description = "The fresh build lies in staging/ while it is compared, and is removed."

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Print a line a file; a difference is an error."""
        stop_on_signals()
        found = reproduce(run.mission(), wiring.Surroundings.real(), run.ask())
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
        _say_rolled_back(run, generation)


def _say_rolled_back(run: Context, generation: Generation) -> None:
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


class Keygen(_Command):
    """A key pair."""

    name = "keygen"
    doc_purpose = "make an Ed25519 key pair for signing"
    doc_usage = "KEY"
    doc_description = (
        "Writes the private key KEY (PKCS#8 PEM, encrypted, mode 0600) and its public half beside it. Nothing is overwritten. "
        f"The passphrase is asked for, or comes from a file or from {PASSPHRASE_VARIABLE}."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        _option("passphrase-file", "the file whose first line is the passphrase; mode 0600"),
        _option("unencrypted", "leave the private key open, for trials", bool),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Make it and say its fingerprint."""
        if len(arguments) != 1:
            raise CommandLineError("give one KEY, the file to write, such as keys/operator.pem")
        said = keygen(
            Path(arguments[0]),
            passphrase_file=_path(options["passphrase_file"]),
            variable=run.passphrase(),
            ask=run.ask(),
            unencrypted=options["unencrypted"],
        )
        run.say(said.event, said.text, **said.fields)


class Trust(_Command):
    """Whom an aircraft trusts."""

    name = "trust"
    doc_purpose = "add, revoke or list the keys of the mission's trust directory"
    doc_usage = "add KEY | revoke FINGERPRINT|KEY | list"
    doc_description = "KEY is a public key, as PEM or as OpenSSH's line. A revoked key stays revoked."
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        _option("trust", "another trust directory, such as the one to be copied to an aircraft"),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Change it, and say what it holds."""
        directory = _path(options["trust"]) or run.mission().job.trust
        said = trust(directory, arguments, wiring.wall_clock())
        run.say(said.event, said.text, **said.fields)


class Sign(_Command):
    """Signing where the key is."""

    name = "sign"
    doc_purpose = "sign elsewhere: export what is to be signed, sign it, import the signature"
    doc_usage = "--export=FILE | --key=KEY FILE | --import=FILE.sig"
    doc_description = (
        "For missions with signing: offline, where signing_key names the public key. --key needs no mission: run it where the "
        "key is. --import publishes; nothing built is built again."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        _option("export", "write the bytes to sign to this file, and what they say to FILE.json"),
        _option("key", "sign FILE with this private key, into FILE.sig"),
        _option("import", "take this signature, 64 bytes raw or in base64, and go on to the published cache"),
        _option("public-key", "with --import: whose signature it is; must be the mission's signing_key"),
        _option("passphrase-file", "with --key: the file whose first line is the key's passphrase; mode 0600"),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """One of the three."""
        chosen = [name for name in ("export", "key", "import") if options[name]]
        extra = {"public_key": "import", "passphrase_file": "key"}
        strays = [name for name, goes_with in extra.items() if options[name] and [goes_with] != chosen]
        if len(chosen) != 1 or strays or len(arguments) != (chosen == ["key"]):
            raise CommandLineError("give --export=FILE, or --key=KEY FILE, or --import=FILE.sig; see doit help sign")
        {"export": self._export, "key": self._sign, "import": self._import}[chosen[0]](run, options, arguments)

    def _export(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        assembly = run.assembly()
        try:
            said = sign.export(assembly, Path(options["export"]))
        finally:
            assembly.tiles.close()
        run.say(said.event, said.text, **said.fields)

    def _sign(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        def show(text: str) -> None:
            if not run.log_json:
                print(text, flush=True)  # noqa: T201 - read before the passphrase is typed

        def unlock() -> SigningKey:
            passphrase = given_passphrase(_path(options["passphrase_file"]), run.passphrase())
            return load_signing_key(Path(options["key"]), passphrase, run.ask())

        said = sign.sign(Path(arguments[0]), unlock, show)
        run.say(said.event, said.text, **said.fields)

    def _import(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        stop_on_signals()
        session = run.session()
        done = sign.bring_back(run.assembly(), session, Path(options["import"]), _path(options["public_key"]))
        if isinstance(done, Generation):
            _say_rolled_back(run, done)
        elif not run.log_json:
            print(closing_text(session, done, width=_width()))  # noqa: T201 - the command's output


class Bundle(_Command):
    """Out to the aircraft."""

    name = "bundle"
    doc_purpose = "copy a generation to a card or folder, and verify it as the medium holds it"
    doc_usage = "DIR"
    doc_description = (
        "Only what differs from the bytes in DIR is copied; DIR/current is turned once the copy is whole and verified. Of older "
        "generations there, the previous one is kept."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        _option("generation", "number or name of the generation; the current one if not given"),
        _option("trust", "the aircraft's trust directory; the mission's if not given"),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Copy, verify, flip."""
        if len(arguments) != 1:
            raise CommandLineError("give one DIR: a folder on the card, such as /media/card/preflight")
        run.announce_demo()
        job = run.mission().job
        stop_on_signals()
        directory = _path(options["trust"]) or job.trust
        said = bundle(CacheLayout(job.cache_root), options["generation"], Path(arguments[0]).absolute(), directory)
        run.say(said.event, said.text, **said.fields)


def _path(text: str) -> Path | None:
    return Path(text) if text else None


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
