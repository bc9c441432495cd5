"""The table an operator reads when a run is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from io import StringIO
from typing import TYPE_CHECKING, Any

from preflight.records import BuildReport
from preflight.report.run_log import StageResult

if TYPE_CHECKING:
    from rich.table import Table

OUTCOMES = {
    "success": "built and published",
    "idempotent_no_op": "nothing to do (idempotent_no_op)",
    "failure": "failed; the last good cache is untouched",
}


@dataclass(frozen=True, slots=True)
class CacheFacts:
    """What is told of the current cache. recall: heading known, unknown, thumbnail, chance; shares 0 to 1.

    coverage: as provenance.json has it. units: what the index holds, tiles or windows over them.
    """

    generation: str
    coverage: Mapping[str, Any]
    units: int
    recall: Mapping[str, float]
    error_median_m: float
    size: int
    valid_until: datetime
    manifest_hash: str


def closing_table(
    stages: Mapping[str, StageResult],
    report: BuildReport,
    facts: CacheFacts | None,
    *,
    seconds: float,
    next_command: str,
    width: int,
) -> str:
    """The table as text, `width` columns at most."""
    from rich import box  # noqa: PLC0415 - only a run that ends needs it
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE, show_header=True, pad_edge=False)
    table.add_column("stage")
    table.add_column("done")
    table.add_column("seconds", justify="right")
    for name, note in stages.items():
        table.add_row(name, note.outcome, f"{note.seconds:.2f}")
    rows = Table(box=None, show_header=False, pad_edge=False)
    rows.add_column()
    rows.add_column(overflow="fold")
    for label, text in _lines(report, facts, seconds, next_command):
        rows.add_row(label, text)
    return plain_text(table, rows, width=width)


def plain_text(*tables: Table, width: int) -> str:
    """Tables as text without control codes or markup, whatever the terminal or FORCE_COLOR says."""
    from rich.console import Console  # noqa: PLC0415 - see closing_table

    sink = StringIO()
    console = Console(
        file=sink, width=width, color_system=None, force_terminal=False, highlight=False, markup=False, emoji=False
    )
    for table in tables:
        console.print(table)
    return "\n".join(line.rstrip() for line in sink.getvalue().splitlines())


def _lines(
    report: BuildReport, facts: CacheFacts | None, seconds: float, next_command: str
) -> Sequence[tuple[str, str]]:
    lines = [("engines", f"{report.engines_built} built, {report.engines_reused} reused")]
    lines.append(("descriptors", f"{report.descriptors_generated} embedded"))
    if facts is not None:
        recall = facts.recall
        lines += [
            ("tiles", coverage_text(facts.coverage)),
            ("index", f"{facts.units:,} descriptors"),
            ("recall@1", f"{recall['known']:.3f} heading known, {recall['unknown']:.3f} unknown"),
            ("baselines", f"{recall['thumbnail']:.3f} thumbnail, {recall['chance']:.3f} chance"),
            ("median error", f"{facts.error_median_m:.1f} m, heading known, simulated queries"),
            ("cache", f"{facts.generation}, {size_text(facts.size)}"),
            ("manifest", facts.manifest_hash),
            ("valid until", facts.valid_until.strftime("%Y-%m-%d %H:%M UTC")),
        ]
    lines += [("time", f"{seconds:.1f} s"), ("outcome", OUTCOMES[report.outcome]), ("next", next_command)]
    return lines


def coverage_text(coverage: Mapping[str, Any]) -> str:
    """Tiles of the area, and what is to be said of some of them."""
    said = [f"{coverage['present']:,} of {coverage['expected']:,}"]
    said += [f"{count:,} also held by {name}" for name, count in coverage["passed_over"].items()]
    if coverage["poor_texture"]:
        said.append(f"{coverage['poor_texture']:,} show little")
    if coverage["unmeasured_texture"]:
        said.append(f"{coverage['unmeasured_texture']:,} of unknown texture")
    return ", ".join(said)


def size_text(size: int) -> str:
    """Bytes for people: 12.3 MB. Powers of 1000."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError  # unreachable: GB ends the loop
