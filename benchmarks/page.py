"""Shared by the benchmarks: writing to docs/performance.md, tables, medians, and the description of the machine."""

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
    """Replace the text between the two marks of one benchmark."""
    begin, end = f"<!-- benchmarks/{name}: begin -->", f"<!-- benchmarks/{name}: end -->"
    before, rest = path.read_text().split(begin)
    _, after = rest.split(end)
    path.write_text(f"{before}{begin}\n{text}{end}{after}")


def row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def median(runs: Sequence[Used], figure: str) -> float:
    """Return the median of one figure over the runs. figure: the name of an attribute of `Used`."""
    return statistics.median(getattr(used, figure) for used in runs)


def machine(command: str, started: datetime, packages: Sequence[str], others: Sequence[str]) -> str:
    """Describe the command, the machine and the versions.

    packages: Python packages whose versions to name. others: further entries for the list of versions.
    """
    names = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    model = next((line.split(":", 1)[1].strip() for line in names), platform.machine())
    memory = int(next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line))
    versions = ", ".join([*(f"{name} {metadata.version(name)}" for name in packages), *others])
    return (
        f"`{command}`, {started:%Y-%m-%d}.\n{model}, {os.cpu_count()} cores, {memory / 2**20:.0f} GiB; "
        f"Linux {platform.release()}, Python {platform.python_version()}; {versions}. "
        f"Load average {os.getloadavg()[1]:.1f} at the end."
    )
