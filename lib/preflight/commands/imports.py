"""`doit import`: reads the `--zoom` option, and reports which tiles were imported."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from preflight.errors import CacheRootError, CommandLineError
from preflight.store.atomic import atomic_write
from preflight.tile_import.request import ImportProgress, ImportReport
from preflight.tile_import.source import Zooms

__all__ = ["fields", "progress_text", "read_zooms", "report_json", "report_text", "write_report"]

REPORT = "import_report"
_SHOWN = 20


def read_zooms(text: str) -> Zooms | None:
    """Return the first and last zoom of `17` or `15-18`; None if the text is empty. Raises CommandLineError."""
    if not text:
        return None
    first, dash, last = text.partition("-")
    numbers = (first, last if dash else first)
    if not all(number.isascii() and number.isdigit() and len(number) <= 2 for number in numbers):
        raise CommandLineError(f"--zoom={text} is no zoom level; write a number like 18, or a range like 15-18")
    low, high = map(int, numbers)
    if not low <= high <= 24:
        raise CommandLineError(f"--zoom={text} is out of range; give levels from 0 to 24, the lower one first")
    return low, high


def progress_text(progress: ImportProgress) -> str:
    """Return a line of progress for the operator."""
    total = "" if progress.total is None else f" of {progress.total:,}"
    eta = "" if progress.eta_s is None else f", {_duration(progress.eta_s)} left"
    return f"      {progress.done:,}{total} tiles imported ({progress.tiles_per_s:,.0f} per second{eta})"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def fields(report: ImportReport) -> dict[str, object]:
    """Return the counts, and each skipped tile with its reason."""
    return asdict(report)


def report_json(report: ImportReport, source: str, origin: str) -> str:
    """Return the content of import_report.json."""
    return json.dumps({"source": source, "origin": origin, **fields(report)}, indent=2) + "\n"


def report_text(report: ImportReport, source: str, origin: str, shown: int | None = None) -> str:
    """Return the report as text for people: the counts, and a line for each skipped tile.

    Args:
        report: the result of the import.
        source: the name under which the store keeps the tiles.
        origin: the file, folder or address that the tiles came from.
        shown: how many skipped tiles to list; None for all.
    """
    kept = f"{report.added:,} added, {report.unchanged:,} unchanged"
    changed = f"{report.replaced:,} replaced, {report.repaired:,} repaired"
    lines = [f"{report.offered:,} tiles of {source} ({origin}): {kept}, {changed}"]
    if report.skipped:
        lines.append(f"{len(report.skipped):,} tiles were skipped and are not in the store:")
        lines += [f"  {tile.zoom}/{tile.x}/{tile.y} {tile.reason}" for tile in report.skipped[:shown]]
        if shown is not None and len(report.skipped) > shown:
            lines.append(f"  and {len(report.skipped) - shown:,} more")
    return "\n".join(lines)


def write_report(report: ImportReport, source: str, origin: str, folder: Path) -> str:
    """Write import_report.json and .txt into the tile store; return the text for the terminal.

    Raises CacheRootError.
    """
    try:
        atomic_write(folder / f"{REPORT}.json", report_json(report, source, origin).encode())
        # A path may contain bytes that cannot be decoded.
        text = report_text(report, source, origin) + "\n"
        atomic_write(folder / f"{REPORT}.txt", text.encode(errors="backslashreplace"))
    except OSError as error:
        raise CacheRootError(
            f"the tiles are imported, but the report cannot be written: {error}. Free space or make {folder} writable, then run "
            "the same command again"
        ) from error
    text = report_text(report, source, origin, _SHOWN)
    return f"{text}\nThe whole report: {folder / REPORT}.txt and .json" if report.skipped else text
