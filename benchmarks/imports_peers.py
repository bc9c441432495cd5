"""The usual tools for what `doit import` does with its sources: none of them decodes, hashes or keeps a record of tiles.

mb-util and rio-mbtiles come from PyPI into the scratch folder, pmtiles-convert with this program's own dependency;
gdal2tiles.py is GDAL's own, from the distribution (Debian: gdal-bin and python3-gdal). What is not there is left out and
said so.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from imports_scene import Sources
from incremental_scene import ZOOM

FROM_PYPI = {"mb-util": "mbutil", "rio": "rio-mbtiles"}


@dataclass(frozen=True)
class Peer:
    """A command that puts the tiles of a source into `out`, which must not be there."""

    name: str
    command: list[str]
    out: Path

    def count(self) -> int:
        """Tiles it made; pmtiles-convert names every tile .mvt."""
        if self.out.is_file():
            with closing(sqlite3.connect(self.out)) as connection:
                return int(connection.execute("SELECT count(*) FROM tiles").fetchone()[0])
        return sum(1 for path in self.out.rglob("*") if path.suffix in {".jpg", ".png", ".mvt"})

    def clear(self) -> None:
        """Away with what it made."""
        shutil.rmtree(self.out, ignore_errors=True)
        for path in (self.out, self.out.with_name(self.out.name + ".aux.xml")):
            if path.is_file():
                path.unlink()

    def synced(self) -> Peer:
        """The same, and its files on the disk when it ends, as those of an import are."""
        script = '"$@" && sync -f "$0"'
        return Peer(f"{self.name}, then `sync`", ["/bin/sh", "-c", script, str(self.out), *self.command], self.out)


@dataclass(frozen=True)
class Tools:
    """Where the peers' programs are. missing: those that are not, and why."""

    mb_util: str | None
    rio: str | None
    pmtiles: str | None
    gdal2tiles: str | None
    missing: tuple[str, ...]
    versions: tuple[str, ...]


def install(folder: Path) -> Tools:
    """Make a virtual environment for those from PyPI; find the others."""
    place = folder / "peers-venv"
    if not place.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    found: dict[str, str | None] = {}
    missing, versions = [], []
    for program, package in FROM_PYPI.items():
        path = place / "bin" / program
        installed = (
            path.exists()
            or not subprocess.run(
                [str(place / "bin" / "pip"), "install", "--quiet", package], check=False, capture_output=True
            ).returncode
        )
        found[program] = str(path) if installed else None
        if installed:
            versions.append(f"{package} {_version(place, package)}")
        else:
            missing.append(f"{package} does not install here")
    gdal = shutil.which("gdal2tiles.py")
    if gdal is None:
        missing.append("gdal2tiles.py is not installed (Debian: gdal-bin, python3-gdal)")
    else:
        told = subprocess.run([gdal, "--version"], check=True, capture_output=True, text=True)
        versions.append(told.stdout.split(",")[0].strip())
    pmtiles = Path(sys.executable).with_name("pmtiles-convert")
    return Tools(
        found["mb-util"],
        found["rio"],
        str(pmtiles) if pmtiles.exists() else None,
        gdal,
        tuple(missing),
        tuple(versions),
    )


def _version(place: Path, package: str) -> str:
    ask = f"from importlib.metadata import version; print(version({package!r}))"
    told = subprocess.run([str(place / "bin" / "python"), "-c", ask], check=True, capture_output=True, text=True)
    return told.stdout.strip()


def of_mbtiles(tools: Tools, sources: Sources, folder: Path) -> list[Peer]:
    if tools.mb_util is None:
        return []
    out = folder / "from-mbtiles"
    plain = Peer("`mb-util`", [tools.mb_util, "--silent", "--image_format=jpg", str(sources.mbtiles), str(out)], out)
    return [plain, plain.synced()]


def of_folder(sources: Sources, folder: Path) -> list[Peer]:
    out = folder / "from-folder"
    plain = Peer("`cp -r`", ["/bin/cp", "-r", str(sources.folder), str(out)], out)
    return [plain, plain.synced()]


def of_pmtiles(tools: Tools, sources: Sources, folder: Path) -> list[Peer]:
    out = folder / "from-pmtiles"
    return [Peer("`pmtiles-convert`", [tools.pmtiles, str(sources.pmtiles), str(out)], out)] if tools.pmtiles else []


def of_geotiff(tools: Tools, sources: Sources, folder: Path) -> list[Peer]:
    """Both as this program resamples: bilinear, PNG, one zoom, with all cores."""
    cores = str(os.cpu_count())
    peers = []
    if tools.rio:
        out = folder / "from-geotiff.mbtiles"
        how = ["--format=PNG", f"--zoom-levels={ZOOM}..{ZOOM}", "--resampling=bilinear", "-j", cores]
        peers.append(Peer("`rio mbtiles`", [tools.rio, "mbtiles", str(sources.geotiff), str(out), *how], out))
    if tools.gdal2tiles:
        out = folder / "from-geotiff"
        how = [f"--zoom={ZOOM}", "--xyz", "--webviewer=none", "--resampling=bilinear", "--exclude", "--quiet"]
        command = [tools.gdal2tiles, *how, f"--processes={cores}", str(sources.geotiff), str(out)]
        peers.append(Peer("`gdal2tiles.py`", command, out))
    return peers
