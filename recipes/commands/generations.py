"""Commands on built generations: `doit reproduce`, `rollback`, `gc`, `bundle`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

from preflight import wiring
from preflight.commands.bundle import bundle
from preflight.commands.collect import collect
from preflight.commands.reproduce import reproduce, reproduce_json, reproduce_text
from preflight.commands.rollback import previous, roll_back
from preflight.errors import CacheRootError, CommandLineError, ManifestCoverageError
from preflight.report.table import size_text
from preflight.run.estimate import bytes_below
from preflight.store.cache_layout import CacheLayout
from recipes.commands.base import OperatorCommand, option, path_of, say_rolled_back
from recipes.context import Context, stop_on_signals


class Reproduce(OperatorCommand):
    """Builds again in another folder and compares."""

    name = "reproduce"
    doc_purpose = "build the mission again with nothing reused and compare every byte with current"
    doc_usage = ""
    doc_description = "The fresh build lies in staging/ while it is compared, and is removed."

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Prints one line a file. A difference is an error."""
        stop_on_signals()
        found = reproduce(run.mission(), wiring.Surroundings.real(), run.ask())
        print(reproduce_json(found) if run.log_json else reproduce_text(found))  # noqa: T201 - the command's output
        if not all(item.equal for item in found):
            raise ManifestCoverageError(
                "the mission builds other bytes than current holds; doit plan says what changed"
            )


class Rollback(OperatorCommand):
    """Publishes the previous content again."""

    name = "rollback"
    doc_purpose = "publish the previous content again, as a new signed generation"
    doc_usage = ""
    doc_description = "The verifier judges it first. The next provision moves forward again."

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Rolls back under the lock."""
        stop_on_signals()
        session = run.session()
        previous(run.assembly().generations)
        try:
            session.hold()
            generation = roll_back(run.assembly())
        finally:
            session.close()
        say_rolled_back(run, generation)


class Collect(OperatorCommand):
    """Removes files that nothing refers to."""

    name = "gc"
    doc_purpose = "remove work files and generations that nothing refers to"
    doc_usage = ""
    doc_description = (
        "Kept: the newest generations, current, previous, and what the mission's newest build records name."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        option("max-size", "remove the oldest files only, until the cache root has this size, such as 20GB"),
        option("dry-run", "only say what would be removed", bool),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Collects under the lock."""
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
        action = "would be removed" if options["dry_run"] else "removed"
        size = sum(item.size for item in removed)
        left -= size if options["dry_run"] else 0
        text = f"{len(removed)} {action}, {size_text(size)}"
        reached = limit is None or left <= limit
        if not reached:
            text += f"; {size_text(left)} remain, more than --max-size={options['max_size']}: all of it is still in use"
        run.say("c10.gc.complete", text, count=len(removed), bytes=size, left=left, reached=reached)


def _size(text: str) -> int | None:
    """Returns the bytes of 500MB, 20GB or a plain number, in powers of 1000. Raises CommandLineError."""
    if not text:
        return None
    match = re.fullmatch(r"([0-9]+)(kB|MB|GB|)", text)
    if match is None:
        raise CommandLineError(f"--max-size={text} is not a size: write 20GB, 500MB or a number of bytes")
    return int(match[1]) * {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}[match[2]]


class Bundle(OperatorCommand):
    """Copies a generation to a card for the aircraft."""

    name = "bundle"
    doc_purpose = "copy a generation to a card or folder, and verify the copy as read back from the medium"
    doc_usage = "DIR"
    doc_description = (
        "Copies only files that differ from those in DIR. DIR/current changes when the copy is complete and verified. "
        "The previous generation in DIR is kept; older ones are removed."
    )
    cmd_options: ClassVar[list[dict[str, Any]]] = [
        option("generation", "number or name of the generation; the current one if not given"),
        option("trust", "the aircraft's trust directory; the mission's if not given"),
    ]

    def act(self, run: Context, options: dict[str, Any], arguments: list[str]) -> None:
        """Copies, verifies, and makes the copy current."""
        if len(arguments) != 1:
            raise CommandLineError("give one DIR: a folder on the card, such as /media/card/preflight")
        run.announce_demo()
        job = run.mission().job
        stop_on_signals()
        directory = path_of(options["trust"]) or job.trust
        said = bundle(CacheLayout(job.cache_root), options["generation"], Path(arguments[0]).absolute(), directory)
        run.say(said.event, said.text, **said.fields)
