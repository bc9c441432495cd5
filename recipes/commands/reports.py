"""Commands that report and change nothing: `doit status`, `plan`, `why`, `engines`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

from preflight import wiring
from preflight.commands.engines import check_engines, engines_json, engines_text, read_engines
from preflight.commands.explain import explain, plan_json, plan_text, waiting_for, why_json, why_text
from preflight.commands.missing import write_missing
from preflight.commands.sign import awaited
from preflight.commands.status import read_status, status_json, status_text
from preflight.errors import CommandLineError, EngineBuildError
from preflight.store.cache_layout import CacheLayout
from recipes.commands.base import OperatorCommand, option, width
from recipes.context import Context, stop_on_signals


class Status(OperatorCommand):
    """Shows the published generations."""

    name = "status"
    doc_purpose = "show generations, mission, signer, validity and size, and any statement that waits for a signature"
    doc_usage = ""
    doc_description = "It hashes nothing: `doit verify` says whether the current cache is intact."
    cmd_options: ClassVar[list[dict[str, Any]]] = []

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Prints the generations."""
        mission = run.mission()
        layout, source = CacheLayout(mission.job.cache_root), str(mission.source)
        found, waiting = read_status(layout), awaited(mission.job, run.assembly)
        if run.log_json:
            print(status_json(layout, source, found, waiting))  # noqa: T201 - the command's output
        else:
            columns = min(shutil.get_terminal_size((130, 24)).columns, 140)
            print(status_text(layout, source, found, waiting, width=columns))  # noqa: T201 - the command's output


class Plan(OperatorCommand):
    """Shows the dry run."""

    name = "plan"
    doc_purpose = "show what provision would do, with bytes and seconds; changes nothing"
    doc_usage = ""
    doc_description = "Takes no lock. A stage `may be skipped` if the stages before it build equal bytes."
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        option("missing", "also write the missing, stale and corrupt tiles as GeoJSON, for the C11 TileDownloader"),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Prints the plan."""
        run.announce_demo()
        assembly = run.assembly()
        lacking = Path(options["missing"]) if options["missing"] else None
        try:
            plan = assembly.outlook.planner(run.session()).plan()
            found = None if lacking is None else write_missing(assembly.job, assembly.tiles, wiring.wall_clock, lacking)
        finally:
            assembly.tiles.close()
        print(plan_json(plan) if run.log_json else plan_text(plan, width=width()))  # noqa: T201 - the command's output
        if found is not None:
            run.say(
                "c10.plan.missing_written",
                f"{found.missing:,} missing, {found.stale:,} stale and {found.corrupt:,} corrupt of {found.expected:,} tiles "
                f"are in {lacking}",
                missing=found.missing,
                stale=found.stale,
                corrupt=found.corrupt,
                expected=found.expected,
                path=str(lacking),
            )


class Why(OperatorCommand):
    """Shows reasons."""

    name = "why"
    doc_purpose = "show why a task would run, or why it ran last"
    doc_usage = "TASK"
    doc_description = (
        "TASK is a stage (tiles, engine:MODEL, descriptors, index, selftest, manifest or publish), or a step of a stage by its "
        "name in doit plan, such as windows or parity:MODEL."
    )

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Prints the reasons of each step, old → new."""
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


class Engines(OperatorCommand):
    """Shows the engines."""

    name = "engines"
    doc_purpose = "show the engine of each backbone: reused or to be built, why, parity, seconds"
    doc_usage = ""
    doc_description = (
        "Takes no lock and changes nothing. --check also builds missing engines in a temporary folder, and fails if one cannot "
        "be built here."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        option("check", "try to build missing engines outside the cache", bool),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Prints one line a backbone. An engine that cannot be built is an error."""
        if arguments:
            raise CommandLineError("doit engines takes no arguments; see doit help engines")
        stop_on_signals()
        run.announce_demo()
        found = read_engines(run.assembly(), run.session())
        if options["check"]:
            found = check_engines(run.mission(), wiring.Surroundings.real(), found)
        print(engines_json(found) if run.log_json else engines_text(found, width=width()))  # noqa: T201 - the command's output
        failed = [state for state in found if state.problem is not None]
        if failed:
            raise EngineBuildError("; ".join(f"{state.model}: {state.problem}" for state in failed))
