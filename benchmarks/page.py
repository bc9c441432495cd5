"""What the benchmarks of the map side share: docs/performance.md, tables, and where a figure was taken."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path

from incremental import Used

DOCS = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def write(name: str, text: str, path: Path = DOCS) -> None:
    """Put the text between the marks of one benchmark."""
    begin, end = f"<!-- benchmarks/{name}: begin -->", f"<!-- benchmarks/{name}: end -->"
    before, rest = path.read_text().split(begin)
    _, after = rest.split(end)
    path.write_text(f"{before}{begin}\n{text}{end}{after}")


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def middle(runs: Sequence[Used], what: str) -> float:
    """The median of one of its figures."""
    return statistics.median(getattr(used, what) for used in runs)


def machine(command: str, started: datetime, packages: Sequence[str], others: Sequence[str]) -> str:
    """The command, and what it ran on and with."""
    names = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    model = next((line.split(":", 1)[1].strip() for line in names), platform.machine())
    memory = int(next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line))
    versions = ", ".join([*(f"{name} {metadata.version(name)}" for name in packages), *others])
    return (
        f"`{command}`, {started:%Y-%m-%d}.\n{model}, {os.cpu_count()} cores, {memory / 2**20:.0f} GiB; "
        f"Linux {platform.release()}, Python {platform.python_version()}; {versions}. "
        f"Load average {os.getloadavg()[1]:.1f} at the end."
    )
