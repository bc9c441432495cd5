"""Measures the cost of a verification, compared with tools that hash the same files and with an interpreter's start.

    python benchmarks/verify.py [--size 2000] [--files 100000] [--scratch DIR]

benchmarks/README.md describes the measurements.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import page
import verify_scene as scene
from incremental import ROOT, Used, measured, say

LARGE_TURNS, SMALL_TURNS, START_TURNS = 5, 3, 21
MOST_OF_OPENSSL, MOST_OF_SIGNING = 0.6, {"large": 0.55, "deep": 0.25}
MOST_OF_BARE, MOST_OF_DOIT = 1.8, 1.0
BARE = "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey"
OURS, OPENSSL, SUMS, SIGNING = "`python -I -m takeoff`", "`openssl dgst -sha256`", "`sha256sum -c`", "model_signing"
DEEP = "`doit verify deep=1`"
LEAST = "SHA-256 alone: two threads, nothing read"
# A lower limit: no program that hashes with hashlib, one stream on each of two cores, can be faster for as many bytes.
HASH_ALONE = """\
import hashlib, sys, threading
def hash_half():
    digest = hashlib.sha256()
    for _ in range(int(sys.argv[1]) // 2 // len(block)):
        digest.update(block)
block = bytes(256 * 1024)
helper = threading.Thread(target=hash_half)
helper.start()
hash_half()
helper.join()
"""
DOIT = [sys.executable, "-m", "doit"]


@dataclass(frozen=True)
class Command:
    """A command and its working folder."""

    arguments: list[str]
    cwd: Path


@dataclass
class Column:
    """One set of files, and the runs of each tool on them. ours: the command of this project that hashes them."""

    kind: str
    title: str
    ours: str
    runs: dict[str, list[Used]] = field(default_factory=dict)

    def median(self, name: str, figure: str) -> float | None:
        return page.median(self.runs[name], figure) if name in self.runs else None

    def ratio(self, name: str, figure: str) -> float | None:
        ours, other = self.median(self.ours, figure), self.median(name, figure)
        return ours / other if ours and other else None


@dataclass(frozen=True)
class Goal:
    """A ratio and its upper limit."""

    what: str
    most: float
    ratio: float

    def cells(self) -> list[str]:
        return [self.what, f"≤ {self.most}", f"{self.ratio:.2f}", "met" if self.ratio <= self.most else "**missed**"]


def take_turns(commands: dict[str, Command], turns: int, place: Path) -> dict[str, list[Used]]:
    """Run each command once to compile its modules, then measure all commands in turn.

    So other work on the machine affects all commands alike.
    """
    runs: dict[str, list[Used]] = {name: [] for name in commands}
    for turn in range(turns + 1):
        for name, command in commands.items():
            read_all(place)
            used = measured(command.arguments, place, command.cwd)
            if turn:
                runs[name].append(used)
    return runs


def read_all(place: Path) -> None:
    """Read every file into the page cache, because the kernel may have dropped pages while a slower tool ran."""
    command = f"find {shlex.quote(str(place))} -type f -print0 | xargs -0 cat > /dev/null"
    subprocess.run(["/bin/sh", "-c", command], check=True)


def hashing(ours: dict[str, Command], case: scene.Scene, place: Path, signing: Path | None) -> dict[str, Command]:
    """Return the commands of this project and of the other tools for the same files. Each must succeed."""
    list_file = place / "hashed.txt"
    list_file.write_bytes(b"".join(name.encode() + b"\0" for name in case.hashed))
    commands = dict(ours)
    # 100,000 names do not fit into one command line, so xargs splits them.
    arguments = [_path("xargs"), "-0", "-a", str(list_file), _path("openssl"), "dgst", "-sha256"]
    commands[OPENSSL] = Command(arguments, case.base)
    if sums := shutil.which("sha256sum"):
        commands[SUMS] = Command([sums, "--quiet", "-c", str(case.sums)], case.base)
    if signing is not None:
        commands[SIGNING] = Command(model_signing(signing, case.plain, place), ROOT)
    return commands


def takeoff(case: scene.Scene) -> list[str]:
    return [sys.executable, "-I", "-m", "takeoff", str(case.cache), "--trust", str(case.trust)]


def install_signing(scratch: Path) -> Path | None:
    """Install OpenSSF's model_signing from PyPI into a virtual environment.

    Returns its folder of programs. If the installation fails, prints the reason and returns None.
    """
    venv = scratch / "model-signing-venv"
    try:
        if not (venv / "bin" / "model_signing").exists():
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            pip = [str(venv / "bin" / "pip"), "install", "-qq", "model-signing", "pyopenssl"]
            subprocess.run(pip, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        say(f"model_signing is left out, because it cannot be installed: {error}")
        return None
    return venv / "bin"


def model_signing(bin_folder: Path, plain: Path, place: Path) -> list[str]:
    """Sign a folder once, without measuring it. Returns the command that verifies it. The tool accepts EC keys only."""
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


def starting(case: scene.Scene, place: Path) -> dict[str, Command]:
    """Return four commands: a verdict on three small files, a bare interpreter, bare doit, and `doit verify`."""
    bare = place / "bare"
    bare.mkdir(exist_ok=True)
    (bare / "dodo.py").write_text("def task_nothing():\n    return {'actions': [lambda: None]}\n")
    return {
        OURS: Command(takeoff(case), ROOT),
        "bare": Command([sys.executable, "-I", "-c", BARE], ROOT),
        "doit": Command([*DOIT, "nothing"], bare),
        "verify": Command([*DOIT, "verify", f"mission={mission(case, place)}"], ROOT),
    }


def mission(case: scene.Scene, place: Path) -> Path:
    """Write a mission whose published generation is this cache, with the tile store beside it. Nothing is built."""
    generation = place / "root" / "gen" / "000001-000000000000"
    if not generation.exists():
        shutil.copytree(case.cache, generation)
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
                "trust": str(case.trust),
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
    path = shutil.which(program)
    if path is None:
        raise SystemExit(f"the program {program} is missing. Install it")
    return path


# The page


def tools_table(columns: list[Column]) -> list[str]:
    lines = [page.row(["", *(column.title for column in columns)]), page.row(["---"] * (len(columns) + 1))]
    tools = (OURS, DEEP, OPENSSL, SUMS, SIGNING, LEAST)
    lines += [page.row([name, *(_cell(column, name) for column in columns)]) for name in tools]
    for name in (OPENSSL, SUMS, SIGNING, LEAST):
        ratios = (f"{_number(c.ratio(name, 'wall_s'))}, {_number(c.ratio(name, 'cpu_s'))}" for c in columns)
        lines.append(page.row([f"wall, CPU: ours : {name}", *ratios]))
    return lines


def _number(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def hashing_goals(columns: list[Column]) -> list[Goal]:
    """Return the measured ratios of wall time. The second column has no goal: no real cache has as many artifacts."""
    judged = [column for column in columns if column.kind in MOST_OF_SIGNING]
    tools = [(column, OPENSSL, MOST_OF_OPENSSL) for column in judged]
    tools += [(column, SIGNING, MOST_OF_SIGNING[column.kind]) for column in judged]
    ratios = [(column, name, most, column.ratio(name, "wall_s")) for column, name, most in tools]
    return [
        Goal(f"{column.title}, wall: {column.ours} : {name}", most, ratio)
        for column, name, most, ratio in ratios
        if ratio is not None
    ]


def goals_table(goals: list[Goal]) -> list[str]:
    return [page.row(["", "goal", "ratio", ""]), page.row(["---"] * 4), *(page.row(goal.cells()) for goal in goals)]


def _cell(column: Column, name: str) -> str:
    wall, cpu = column.median(name, "wall_s"), column.median(name, "cpu_s")
    if wall is not None and cpu is not None:
        return f"{wall:.2f} / {cpu:.2f} s"
    return "-" if name in (OURS, DEEP, LEAST) else "not measured"


def start_table(runs: dict[str, list[Used]]) -> tuple[list[str], list[Goal]]:
    ms = {name: (page.median(used, "wall_s") * 1000, page.median(used, "cpu_s") * 1000) for name, used in runs.items()}
    labels = {
        OURS: "start to verdict, three files",
        "bare": "an interpreter that imports cryptography's Ed25519",
        "verify": "`doit verify`, the same three files",
        "doit": "doit with one task that does nothing",
    }
    lines = [page.row(["", "wall, ms", "CPU, ms"]), page.row(["---"] * 3)]
    lines += [page.row([label, f"{ms[name][0]:.0f}", f"{ms[name][1]:.0f}"]) for name, label in labels.items()]
    start = [ours / bare for ours, bare in zip(ms[OURS], ms["bare"], strict=True)]
    added = [(verify - ours) / doit for verify, ours, doit in zip(ms["verify"], ms[OURS], ms["doit"], strict=True)]
    goals = [Goal("CPU: start to verdict : bare interpreter", MOST_OF_BARE, start[1])]
    what = "what `doit verify` adds to a verdict : doit alone"
    goals += [Goal(f"{unit}: {what}", MOST_OF_DOIT, ratio) for unit, ratio in zip(("wall", "CPU"), added, strict=True)]
    return lines, goals


NOTES = f"""\
Wall / user + system CPU seconds of whole processes, with a warm page cache. Medians of {LARGE_TURNS} runs (large
files), {SMALL_TURNS} (small files) and {START_TURNS} (start). The tools take turns. The verifier also reads and
compares the sidecars and lists the folder; the other tools only read the artifacts. {DEEP} verifies the
cache, opens the list of its tiles and hashes their files; the other tools only read the tile files.
"""


def artifacts(kind: str, case: scene.Scene) -> tuple[Column, dict[str, Command]]:
    """Return the column for the artifacts of a cache, which the verifier hashes."""
    title = f"{case.bytes / 1e9:.2g} GB in {len(case.hashed):,} artifacts ({case.files:,} files in all)"
    return Column(kind, title, OURS), {OURS: Command(takeoff(case), ROOT)}


def tiles(case: scene.Scene, place: Path) -> tuple[Column, dict[str, Command]]:
    """Return the column for the tile files of a cache, which `doit verify deep=1` hashes too."""
    title = f"{case.bytes / 1e9:.2g} GB in {len(case.hashed):,} tile files"
    arguments = [*DOIT, "verify", "deep=1", f"mission={mission(case, place)}"]
    return Column("deep", title, DEEP), {DEEP: Command(arguments, ROOT)}


def columns_of(options: argparse.Namespace, scratch: Path, signing: Path | None) -> Iterator[Column]:
    """Yield the column of each set of files. Each set is removed before the next one is written."""
    kinds = ["large"] * bool(options.size) + ["many", "deep"] * bool(options.files)
    for kind in kinds:
        place = scratch / kind
        shutil.rmtree(place, ignore_errors=True)
        say(f"{kind}: writing the files")
        if kind == "large":
            case = scene.large(place, options.size)
        else:
            case = (scene.deep if kind == "deep" else scene.many)(place, options.files, options.file_bytes)
        column, ours = tiles(case, place) if kind == "deep" else artifacts(kind, case)
        # Without this, the kernel would write the files to the disk during the first turns.
        os.sync()
        commands = hashing(ours, case, place, signing)
        if kind == "large":
            commands[LEAST] = Command([sys.executable, "-I", "-c", HASH_ALONE, str(case.bytes)], ROOT)
        say(f"{kind}: measuring")
        column.runs = take_turns(commands, LARGE_TURNS if kind == "large" else SMALL_TURNS, place)
        shutil.rmtree(place)
        yield column


def run(options: argparse.Namespace, scratch: Path) -> str:
    started = datetime.now(timezone.utc)
    signing = None if options.no_signing else install_signing(scratch)
    columns = list(columns_of(options, scratch, signing))
    place = scratch / "three"
    shutil.rmtree(place, ignore_errors=True)
    say("start: measuring")
    start, start_goals = start_table(take_turns(starting(scene.three(place), place), START_TURNS, place))
    command = f"python benchmarks/verify.py --size {options.size} --files {options.files}"
    openssl = subprocess.run(["openssl", "version"], capture_output=True, text=True, check=True)
    others = [openssl.stdout.partition("(")[0].strip()]
    if signing is not None:
        program = "from importlib.metadata import version; print('model_signing', version('model-signing'))"
        arguments = [str(signing / "python"), "-c", program]
        others.append(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip())
    head = page.machine(command, started, ["cryptography", "doit"], others)
    goals = goals_table([*hashing_goals(columns), *start_goals])
    return "\n".join([head, "", *goals, "", *tools_table(columns), "", *start, "", NOTES])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2000, metavar="MB", help="size of the large cache; 0 leaves it out")
    parser.add_argument(
        "--files", type=int, default=100_000, help="number of small files, as artifacts and as tiles; 0 leaves both out"
    )
    parser.add_argument("--file-bytes", type=int, default=20_000, help="size of a small file in bytes")
    parser.add_argument("--no-signing", action="store_true", help="leave out model_signing")
    parser.add_argument("--scratch", type=Path, help="folder to keep and reuse (default: a temporary folder)")
    parser.add_argument("--no-docs", action="store_true", help="do not change docs/performance.md")
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
