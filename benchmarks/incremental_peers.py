"""ninja and DVC on the same tiles: one rule or stage that depends on all tile files and writes one small output.

Each tile is a file here, because both tools work on files only. The files are hard links to a few hundred images; the
changed tile becomes a separate file. ninja checks every file with stat. DVC's stage depends on the folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from incremental_scene import picture

VERSIONS = ("ninja", "dvc")
LINKS = 20_000  # hard links to one file; ext4 allows 65,000


@dataclass(frozen=True)
class Peer:
    """A build tool: its command, the folder in which it runs, and a function that changes one tile."""

    name: str
    command: list[str]
    folder: Path
    change: Callable[[int], None]


def install(folder: Path) -> Path:
    """Install both tools from PyPI into a virtual environment. Returns its folder of programs."""
    venv = folder / "peers-venv"
    if not (venv / "bin" / "dvc").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        subprocess.run([str(venv / "bin" / "pip"), "install", "--quiet", *VERSIONS], check=True)
    return venv / "bin"


def versions(bin_folder: Path) -> str:
    """Return the versions of both tools, such as `ninja 1.13.0, dvc 3.67.1`."""
    program = f"from importlib.metadata import version; print(', '.join(n + ' ' + version(n) for n in {VERSIONS}))"
    return subprocess.run(
        [str(bin_folder / "python"), "-c", program], check=True, capture_output=True, text=True
    ).stdout.strip()


def write_tiles(folder: Path, rows: int, distinct: int) -> list[str]:
    """Write `rows` files below tiles/, 1000 in each folder. Returns their names relative to `folder`."""
    masters = max(distinct, rows // LINKS + 1)
    base = folder / "masters"
    base.mkdir(parents=True)
    for number in range(masters):
        (base / str(number)).write_bytes(picture(number))
    names = []
    for number in range(rows):
        name = f"tiles/{number // 1000}/{number}.png"
        if number % 1000 == 0:
            (folder / name).parent.mkdir(parents=True)
        os.link(base / str(number % masters), folder / name)
        names.append(name)
    return names


def ninja(bin_folder: Path, folder: Path, names: list[str]) -> Peer:
    """Write a build file with one build statement that has all tiles as inputs."""
    lines = ["rule seal\n  command = touch $out\n", "build sealed: seal"]
    (folder / "build.ninja").write_text("".join(lines) + "".join(f" $\n {name}" for name in names) + "\n")
    return Peer(
        "ninja", [str(bin_folder / "ninja")], folder, lambda turn: _change(folder / names[len(names) // 2], turn)
    )


def dvc(bin_folder: Path, folder: Path, names: list[str]) -> Peer:
    """Write one stage that depends on the folder of tiles, without a remote and without a cache of its output."""
    program = str(bin_folder / "dvc")
    shutil.rmtree(folder / ".dvc", ignore_errors=True)
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    subprocess.run([program, "init", "--no-scm", "--quiet"], cwd=folder, check=True, env=environment)
    (folder / "dvc.yaml").write_text(
        "stages:\n  seal:\n    cmd: touch sealed.dvc-output\n    deps: [tiles]\n"
        "    outs:\n    - sealed.dvc-output: {cache: false}\n"
    )
    return Peer(
        "DVC", [program, "repro", "--quiet"], folder, lambda turn: _change(folder / names[len(names) // 2], 1000 + turn)
    )


def _change(tile: Path, turn: int) -> None:
    """Replace the file of a tile by a new one, so that the other hard links keep their bytes and times."""
    tile.unlink()
    tile.write_bytes(picture(2_000_000_000 + turn))
