"""What a verification costs: beside the tools that hash the same files, and beside an interpreter that starts.

    python benchmarks/verify.py [--size 2000] [--files 100000] [--scratch DIR]

See benchmarks/README.md for what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import page
import verify_scene as scene
from incremental import ROOT, Used, measured, say

LARGE_TURNS, SMALL_TURNS, START_TURNS = 5, 3, 21
BARE = "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey"
OURS, OPENSSL, SUMS, SIGNING = "`python -I -m takeoff`", "`openssl dgst -sha256`", "`sha256sum -c`", "model_signing"
DEEP = "`doit verify deep=1`"


@dataclass(frozen=True)
class Command:
    """What is run, and where."""

    arguments: list[str]
    cwd: Path


@dataclass
class Column:
    """One set of files, and each tool's runs over them."""

    title: str
    runs: dict[str, list[Used]] = field(default_factory=dict)

    def middle(self, name: str, what: str) -> float | None:
        return page.middle(self.runs[name], what) if name in self.runs else None

    def ratio(self, name: str, what: str) -> str:
        ours, other = self.middle(OURS, what), self.middle(name, what)
        return f"{ours / other:.2f}" if ours and other else "-"


def take_turns(commands: dict[str, Command], turns: int, place: Path) -> dict[str, list[Used]]:
    """Each once to warm the page cache, then all of them in turn, so that other work on the machine meets all alike."""
    runs: dict[str, list[Used]] = {name: [] for name in commands}
    for turn in range(turns + 1):
        for name, command in commands.items():
            used = measured(command.arguments, place, command.cwd)
            if turn:
                runs[name].append(used)
    return runs


def hashing(made: scene.Scene, place: Path, signing: Path | None) -> dict[str, Command]:
    """The verifier and the tools, over the same artifacts. Each must succeed."""
    listed = place / "artifacts.txt"
    listed.write_bytes(b"".join(name.encode() + b"\0" for name in made.artifacts))
    found = {OURS: Command(takeoff(made), ROOT)}
    # xargs: 100,000 names are too long for one command line.
    arguments = [_path("xargs"), "-0", "-a", str(listed), _path("openssl"), "dgst", "-sha256"]
    found[OPENSSL] = Command(arguments, made.cache)
    if sums := shutil.which("sha256sum"):
        found[SUMS] = Command([sums, "--quiet", "-c", "SHA256SUMS"], made.cache)
    if signing is not None:
        found[SIGNING] = Command(model_signing(signing, made.plain, place), ROOT)
    return found


def takeoff(made: scene.Scene) -> list[str]:
    return [sys.executable, "-I", "-m", "takeoff", str(made.cache), "--trust", str(made.trust)]


def install_signing(scratch: Path) -> Path | None:
    """OpenSSF's model_signing, from PyPI into a virtual environment of its own; None, and words, where it does not install."""
    venv = scratch / "model-signing-venv"
    try:
        if not (venv / "bin" / "model_signing").exists():
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            pip = [str(venv / "bin" / "pip"), "install", "--quiet", "model-signing", "pyopenssl"]
            subprocess.run(pip, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        say(f"model_signing is left out, it does not install: {error}")
        return None
    return venv / "bin"


def model_signing(bin_folder: Path, plain: Path, place: Path) -> list[str]:
    """Sign the folder (once, not measured), and the command that verifies it. It takes EC keys alone."""
    private, public, signature = place / "ec.pem", place / "ec-public.pem", place / "model.sig"
    program = [str(bin_folder / "model_signing")]
    if not signature.exists():
        say(f"model_signing signs {plain}")
        for arguments in (
            ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)],
            ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)],
            [*program, "sign", "key", "--private_key", str(private), "--signature", str(signature), str(plain)],
        ):
            subprocess.run(arguments, check=True, capture_output=True)
    return [*program, "verify", "key", "--public_key", str(public), "--signature", str(signature), str(plain)]


def starting(made: scene.Scene, place: Path) -> dict[str, Command]:
    """A verdict on three small files, the interpreter alone, doit alone, and doit's verify over the same cache."""
    bare = place / "bare"
    bare.mkdir(exist_ok=True)
    (bare / "dodo.py").write_text("def task_nothing():\n    return {'actions': [lambda: None]}\n")
    doit = [sys.executable, "-m", "doit"]
    return {
        OURS: Command(takeoff(made), ROOT),
        "bare": Command([sys.executable, "-I", "-c", BARE], ROOT),
        "doit": Command([*doit, "nothing"], bare),
        "verify": Command([*doit, "verify", f"mission={mission(made, place)}"], ROOT),
    }


def mission(made: scene.Scene, place: Path) -> Path:
    """A mission whose published generation is the cache of three files: nothing is built."""
    generation = place / "root" / "gen" / "000001-000000000000"
    if not generation.exists():
        shutil.copytree(made.cache, generation)
        (place / "root" / "current").symlink_to("gen/000001-000000000000")
    (place / "camera.json").write_text("{}")
    backbone = {"model_name": "weight_free_vpr", "role": "descriptor", "onnx_path": "builtin:weight_free_vpr"}
    path = place / "mission.yaml"
    path.write_text(
        json.dumps(
            {
                "version": 1,
                "cache_root": str(place / "root"),
                "tile_store": {"root": str(place / "tiles")},
                "area": {"bbox": {"lat_min": 0.346, "lon_min": 32.588, "lat_max": 0.352, "lon_max": 32.6}},
                "zoom_levels": [19],
                "sector_class": "stable_rear",
                "calibration": str(place / "camera.json"),
                "trust": str(made.trust),
                "components": {
                    "c10_provisioning": {
                        "backbones": [{**backbone, "input_name": "image", "expected_input_shape": [1, 3, 224, 224]}],
                        "manifest": {"signing_mode": "dev", "signing_key": str(place / "dev.pem")},
                    }
                },
            }
        )
    )
    return path


def _path(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise SystemExit(f"{program} is needed")
    return found


# The page


def tools_table(columns: list[Column]) -> list[str]:
    lines = [page.row(["", *(column.title for column in columns)]), page.row(["---"] * (len(columns) + 1))]
    lines += [page.row([name, *(_cell(column, name) for column in columns)]) for name in (OURS, OPENSSL, SUMS, SIGNING)]
    lines.append(page.row([DEEP, *(["-"] * len(columns))]))
    for name in (OPENSSL, SUMS, SIGNING):
        label = f"wall, CPU: ours : {name}"
        lines.append(page.row([label, *(f"{c.ratio(name, 'wall_s')}, {c.ratio(name, 'cpu_s')}" for c in columns)]))
    return lines


def _cell(column: Column, name: str) -> str:
    wall, cpu = column.middle(name, "wall_s"), column.middle(name, "cpu_s")
    return f"{wall:.2f} / {cpu:.2f} s" if wall is not None and cpu is not None else "not measured"


def start_table(runs: dict[str, list[Used]]) -> list[str]:
    ms = {name: (page.middle(used, "wall_s") * 1000, page.middle(used, "cpu_s") * 1000) for name, used in runs.items()}
    labels = {
        OURS: "start to verdict, three files",
        "bare": "an interpreter that imports cryptography's Ed25519",
        "verify": "`doit verify`, the same three files",
        "doit": "doit with one task that does nothing",
    }
    lines = [page.row(["", "wall, ms", "CPU, ms"]), page.row(["---"] * 3)]
    lines += [page.row([label, f"{ms[name][0]:.0f}", f"{ms[name][1]:.0f}"]) for name, label in labels.items()]
    start, added = _ratio(ms[OURS], ms["bare"]), [ms["verify"][at] - ms[OURS][at] for at in (0, 1)]
    lines.append(page.row(["start to verdict : bare interpreter", *start]))
    over = (added[0], added[1]), ms["doit"]
    lines.append(page.row(["what `doit verify` adds to a verdict : doit alone", *_ratio(*over)]))
    return lines


def _ratio(above: tuple[float, float], below: tuple[float, float]) -> list[str]:
    return [f"{a / b:.2f}" for a, b in zip(above, below, strict=True)]


NOTES = f"""\
Wall / user + system CPU seconds of whole processes, page cache warm; medians of {LARGE_TURNS} runs (large files),
{SMALL_TURNS} (small files) and {START_TURNS} (start), the tools in turn. The verifier also reads and compares the
sidecars and lists the folder; the others read the artifacts alone. {DEEP} is not measured yet.
"""


def run(options: argparse.Namespace, scratch: Path) -> str:
    started = datetime.now(timezone.utc)
    signing = None if options.no_signing else install_signing(scratch)
    columns = []
    sets: list[tuple[str, int, Callable[[Path], scene.Scene]]] = []
    if options.size:
        sets.append(("large", LARGE_TURNS, lambda folder: scene.large(folder, options.size)))
    if options.files:
        sets.append(("many", SMALL_TURNS, lambda folder: scene.many(folder, options.files, options.file_bytes)))
    for name, turns, make in sets:
        place = scratch / name
        shutil.rmtree(place, ignore_errors=True)
        say(f"{name}: writing the files")
        made = make(place)
        title = f"{made.bytes / 1e9:.2g} GB in {len(made.artifacts):,} artifacts ({made.files:,} files in all)"
        column = Column(title)
        say(f"{name}: measuring")
        column.runs = take_turns(hashing(made, place, signing), turns, place)
        columns.append(column)
        shutil.rmtree(place)
    place = scratch / "three"
    shutil.rmtree(place, ignore_errors=True)
    say("start: measuring")
    made = scene.three(place)
    start = start_table(take_turns(starting(made, place), START_TURNS, place))
    command = f"python benchmarks/verify.py --size {options.size} --files {options.files}"
    openssl = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True)
    others = [openssl.stdout.partition("(")[0].strip()]
    if signing is not None:
        ask = "from importlib.metadata import version; print('model_signing', version('model-signing'))"
        arguments = [str(signing / "python"), "-c", ask]
        others.append(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip())
    head = page.machine(command, started, ["cryptography", "doit"], others)
    return "\n".join([head, "", *tools_table(columns), "", *start, "", NOTES])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2000, metavar="MB", help="the large cache; 0 leaves it out")
    parser.add_argument("--files", type=int, default=100_000, help="the cache of many small files; 0 leaves it out")
    parser.add_argument("--file-bytes", type=int, default=20_000)
    parser.add_argument("--no-signing", action="store_true", help="without model_signing")
    parser.add_argument("--scratch", type=Path)
    parser.add_argument("--no-docs", action="store_true", help="print the table only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="verify-") as temporary:
        scratch = options.scratch or Path(temporary)
        scratch.mkdir(parents=True, exist_ok=True)
        text = run(options, scratch.resolve())
    print(text)
    if not options.no_docs:
        page.write("verify", text)


if __name__ == "__main__":
    os.umask(0o022)
    main()
