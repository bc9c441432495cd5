"""The table that the operator sees at the end of a run."""

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
    """The facts about the current cache in the table.

    Attributes:
        generation: its name.
        coverage: `coverage` of provenance.json.
        units: number of descriptors in the index, of tiles or of windows over them.
        recall: recall@1, 0 to 1, for `known` and `unknown` heading, and for the baselines `thumbnail` and `chance`.
        error_median_m: median position error in metres, heading known.
        size: bytes of the generation.
        valid_until: when the manifest expires.
        manifest_hash: hex.
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
    """Return the table as text.

    Args:
        stages: stage name -> result.
        report: the build report.
        facts: the current cache; None after a failure.
        seconds: the duration of the run.
        next_command: the command that the operator should run next.
        width: the largest number of columns.
    """
    from rich import box  # noqa: PLC0415 - only the end of a run needs it
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE, show_header=True, pad_edge=False)
    table.add_column("stage")
    table.add_column("done")
    table.add_column("seconds", justify="right")
    for name, result in stages.items():
        table.add_row(name, result.outcome, f"{result.seconds:.2f}")
    rows = Table(box=None, show_header=False, pad_edge=False)
    rows.add_column()
    rows.add_column(overflow="fold")
    for label, text in _lines(report, facts, seconds, next_command):
        rows.add_row(label, text)
    return plain_text(table, rows, width=width)


def plain_text(*tables: Table, width: int) -> str:
    """Render tables as text without control codes and markup, regardless of the terminal and of FORCE_COLOR."""
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
    """Return the number of present and expected tiles, and the counts of the findings on them."""
    parts = [f"{coverage['present']:,} of {coverage['expected']:,}"]
    parts += [f"{count:,} also held by {name}" for name, count in coverage["passed_over"].items()]
    if coverage["poor_texture"]:
        parts.append(f"{coverage['poor_texture']:,} with little texture")
    if coverage["unmeasured_texture"]:
        parts.append(f"{coverage['unmeasured_texture']:,} of unknown texture")
    return ", ".join(parts)


def size_text(size: int) -> str:
    """Format a number of bytes for people, such as 12.3 MB. Units are powers of 1000."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError  # unreachable: GB ends the loop
