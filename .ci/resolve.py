"""Resolves every extra for each Python version and processor, by wheels alone, and prints what is missing as a table.

    python .ci/resolve.py [--python 3.14 ...] [--machine aarch64 ...] [--extra cpu ...]

It needs a network and pip, under any Python version. It installs nothing. It builds our own wheel, and those of
SOURCE_ONLY. Exit status 0 means that every extra resolves everywhere. README shows the table.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
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
# PyPI has no wheel of these. They are pure Python, so pip builds the same wheel on every platform, and so does this.
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
    """Resolves a requirement as pip on `target` would, and returns pip's exit status. Call it once in a process.

    pip has options for another platform's wheels, but it evaluates markers for the interpreter that runs it.
    So this function gives pip the markers of the target.

    wheels: a folder with wheels that the package index does not have.
    """
    with mock.patch.object(markers, "default_environment", target.markers):
        for name, value in target.markers().items():
            if not markers.Marker(f"{name} == '{value}'").evaluate():
                raise SystemExit(
                    f".ci/resolve.py cannot set the marker {name} in this pip: install another version of pip"
                )
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
    """Builds the wheel of a pure Python package from its source, and returns the wheel's path in the folder."""
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
    """Returns the requirements of an extra that do not resolve, or pip's message where each one resolves alone."""
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


def table(found: dict[Target, dict[str, list[str]]]) -> Iterator[str]:
    """Yields the lines of a Markdown table of target -> extra -> what is missing. Versions with equal results share one."""
    yield "| Python | processor | extras that resolve | missing |"
    yield "| --- | --- | --- | --- |"
    rows: dict[tuple[str, str, str], list[str]] = {}
    for target, extras in found.items():
        resolved = ", ".join(extra for extra, lacking in extras.items() if not lacking)
        absent = sorted({f"`{each}`" for lacking in extras.values() for each in lacking})
        rows.setdefault((target.machine, resolved, ", ".join(absent) or "nothing"), []).append(target.python)
    for (machine, resolved, absent_names), pythons in rows.items():
        yield f"| {', '.join(pythons)} | {machine} | {resolved} | {absent_names} |"


def main(arguments: list[str]) -> int:
    """Prints the table; returns 1 where anything is missing."""
    options = parse(arguments)
    if options.pip_for:
        python, machine, requirement, wheels = options.pip_for
        return pip_for(Target(python, machine), requirement, wheels)
    found: dict[Target, dict[str, list[str]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        wheel = build_wheel(str(ROOT), Path(folder))
        extras, requirements = metadata(wheel)
        for source in sorted({f"{each.name}{each.specifier}" for each in requirements if each.name in SOURCE_ONLY}):
            build_wheel(source, Path(folder))
        for target in (Target(python, machine) for python in options.python for machine in options.machine):
            print(f"{target.python} on {target.machine}", file=sys.stderr)
            names = options.extra or [BASE, *extras]
            found[target] = {name: missing(target, wheel, requirements, name) for name in names}
    print(f"{datetime.now(timezone.utc):%Y-%m-%d}, wheels for glibc 2.{NEWEST_GLIBC} or older.")
    print(f"Built from source, because PyPI has no wheel: {', '.join(SOURCE_ONLY)}.\n")
    print("\n".join(table(found)))
    return int(any(lacking for extras in found.values() for lacking in extras.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
