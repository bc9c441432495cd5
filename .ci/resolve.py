"""Resolves every extra for each Python version and platform, by wheels alone, and prints what is missing as a table.

    python .ci/resolve.py [--python 3.14 ...] [--machine aarch64 ...] [--extra cpu ...]

It needs pip, a network, and an interpreter of any version: nothing is installed, and no wheel but our own is built.
Exit status 0 means that every extra resolves for every target.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from datetime import datetime, timezone
from email.parser import HeaderParser
from functools import cache
from pathlib import Path
from typing import NamedTuple
from unittest import mock
from zipfile import ZipFile

from pip._internal.cli.main import main as pip_main
from pip._vendor.packaging import markers
from pip._vendor.packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14", "3.15")
MACHINES = ("x86_64", "aarch64")
BASE = "base"
# Wheels may need the glibc of Ubuntu 22.04, which JetPack 6 has, or an older one. Debian 12 has 2.36.
NEWEST_GLIBC = 35
OLDER_NAMES = {"x86_64": ("manylinux2014", "manylinux2010", "manylinux1"), "aarch64": ("manylinux2014",)}
# PyPI has no wheel of these. They are pure Python: pip makes the same wheel everywhere, and this script makes it too.
SOURCE_ONLY = ("atomicwrites",)
UNFOUND = re.compile(r"No matching distribution found for (.+)")


class Target(NamedTuple):
    """A Python version, for example 3.14, and a processor as `platform.machine()` names it."""

    python: str
    machine: str

    def platforms(self) -> list[str]:
        """Returns the platform tags of the wheels that run there."""
        tags = [f"manylinux_2_{minor}_{self.machine}" for minor in range(NEWEST_GLIBC, 4, -1)]
        return tags + [f"{name}_{self.machine}" for name in OLDER_NAMES[self.machine]]

    def markers(self) -> dict[str, str]:
        """Returns the values of the environment markers of PEP 508 there, for the newest patch release."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.99",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "6.1.0",
            "platform_system": "Linux",
            "platform_version": "#1 SMP",
            "python_full_version": f"{self.python}.99",
            "python_version": self.python,
            "sys_platform": "linux",
        }


def pip_for(target: Target, requirement: str, wheels: str) -> int:
    """Resolves as pip on `target` would, in this process, and returns pip's exit status.

    wheels: a folder of wheels that the index does not have.

    pip takes the tags of another platform as options, but it evaluates markers for the interpreter that runs it.
    So this replaces the values it evaluates them with. Call it once a process: pip caches them.
    """
    with mock.patch.object(markers, "default_environment", target.markers):
        for name, value in target.markers().items():
            if not markers.Marker(f"{name} == '{value}'").evaluate():
                raise SystemExit(f"this pip evaluates the marker {name} otherwise: correct .ci/resolve.py")
        return pip_main(
            [
                *("install", "--dry-run", "--ignore-installed", "--only-binary=:all:", "--quiet", "--no-input"),
                *("--target", tempfile.gettempdir(), "--implementation", "cp"),
                *("--python-version", f"{target.python}.99"),
                *(f"--platform={platform}" for platform in target.platforms()),
                *("--find-links", wheels, requirement),
            ]
        )


@cache
def failure(target: Target, requirement: str, wheels: Path) -> str:
    """Resolves one requirement for `target` in a process of its own; returns "", or what pip says is wrong."""
    command = [sys.executable, __file__, "--pip-for", *target, requirement, str(wheels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    unfound = UNFOUND.findall(done.stderr)
    return unfound[-1].strip() if unfound else done.stderr.strip() or f"pip ended with status {done.returncode}"


def build_wheel(source: str, folder: Path) -> Path:
    """Builds the wheel of a package, pure Python, from its source; returns its path in the folder."""
    earlier = set(folder.iterdir())
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), source]
    subprocess.run(command, check=True)
    (wheel,) = set(folder.iterdir()) - earlier
    if not wheel.name.endswith("-none-any.whl"):
        raise SystemExit(f"{wheel.name} is not for every platform: take {source} out of SOURCE_ONLY")
    return wheel


def metadata(wheel: Path) -> tuple[list[str], list[Requirement]]:
    """Returns the extras of a wheel, and its requirements with their markers."""
    with ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        headers = HeaderParser().parsestr(archive.read(name).decode())
    return [*headers.get_all("Provides-Extra", [])], [*map(Requirement, headers.get_all("Requires-Dist", []))]


def missing(target: Target, wheel: Path, requirements: list[Requirement], extra: str) -> list[str]:
    """Returns what does not resolve of an extra: each requirement alone, or what pip says of all of them together."""
    whole = failure(target, str(wheel) if extra == BASE else f"{wheel}[{extra}]", wheel.parent)
    if not whole:
        return []
    named = []
    environment = {**target.markers(), "extra": "" if extra == BASE else extra}
    for requirement in requirements:
        if requirement.marker is None or requirement.marker.evaluate(environment):
            alone = str(requirement).partition(";")[0].strip()
            lacking = failure(target, alone, wheel.parent)
            if lacking:
                named.append(alone if lacking == alone else f"{alone} (needs {lacking})")
    return named or [whole]


def parse(arguments: list[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", nargs="+", default=PYTHONS)
    parser.add_argument("--machine", nargs="+", default=MACHINES, choices=MACHINES)
    parser.add_argument("--extra", nargs="+", help=f"the extras to resolve; {BASE} is none of them (default: all)")
    parser.add_argument("--pip-for", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Prints the table; returns 1 where anything is missing."""
    options = parse(arguments)
    if options.pip_for:
        python, machine, requirement, wheels = options.pip_for
        return pip_for(Target(python, machine), requirement, wheels)
    complete = True
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(str(ROOT), Path(folder))
        extras, requirements = metadata(wheel)
        for source in sorted({f"{each.name}{each.specifier}" for each in requirements if each.name in SOURCE_ONLY}):
            build_wheel(source, Path(folder))
        print(f"Resolved on {datetime.now(timezone.utc):%Y-%m-%d}, by wheels for glibc 2.{NEWEST_GLIBC} or older.")
        print(f"Source only, pure Python, built here: {', '.join(SOURCE_ONLY)}.\n")
        print("| Python | processor | resolve | missing |\n| --- | --- | --- | --- |")
        for target in (Target(python, machine) for python in options.python for machine in options.machine):
            found = {name: missing(target, wheel, requirements, name) for name in options.extra or [BASE, *extras]}
            resolved = ", ".join(name for name in found if not found[name])
            lacking = "; ".join(f"{name}: {', '.join(found[name])}" for name in found if found[name])
            print(f"| {target.python} | {target.machine} | {resolved} | {lacking} |", flush=True)
            complete = complete and not lacking
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
