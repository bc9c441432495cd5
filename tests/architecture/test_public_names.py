"""The public surface: `preflight.__all__` and `takeoff.__all__`. It does not change without a line in CHANGELOG.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import preflight
import takeoff

ROOT = Path(__file__).parents[2]
LISTED = ROOT / "tests" / "vectors" / "public_names.txt"
# In a new process for each name, because an import can depend on what was imported before.
EACH_ALONE = """
import os, sys, traceback
import preflight
for name in preflight.__all__:
    if os.fork() == 0:
        status = 1
        try:
            exec(f"from preflight import {name}")
            status = 0
        except BaseException:
            print(name, file=sys.stderr)
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    if os.wait()[1] == 0:
        print(name)
"""
NO_NUMPY = """
import sys
import preflight
print(*sorted(sys.modules.keys() & {"numpy", "onnx", "PIL", "shapely", "msgspec", "cryptography", "psycopg"}))
from preflight import BuildCancelledError, PreflightError
print(*sorted(sys.modules.keys() & {"numpy", "onnx", "PIL", "shapely"}))
from preflight import CacheProvisionerImpl
print("preflight.wiring.provisioner" in sys.modules)
"""


def run(program):
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "lib")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_public_names_are_those_of_the_list():
    names = [f"{package.__name__} {name}" for package in (preflight, takeoff) for name in sorted(package.__all__)]
    assert names == LISTED.read_text().splitlines(), (
        f"The public names changed. Write a line about each into CHANGELOG.md, then list them in {LISTED.name}."
    )


def test_the_changelog_names_every_public_name():
    told = set(re.findall(r"`(\w+)`", (ROOT / "CHANGELOG.md").read_text()))
    names = {line.split()[1] for line in LISTED.read_text().splitlines()}
    assert names - told == set(), "Write a line about each of these names into CHANGELOG.md."


def test_importing_preflight_loads_no_library():
    assert run(NO_NUMPY).stdout.splitlines() == ["", "", "True"]


def test_each_name_is_imported_in_a_process_that_imported_nothing_else():
    done = run(EACH_ALONE)
    assert done.stdout.splitlines() == preflight.__all__, done.stderr
