"""The verifier runs on an aircraft without the build side. It needs only the standard library and cryptography."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import takeoff

LIB = Path(takeoff.__file__).parents[1]
# The compiled parts of cryptography have these top-level names.
CRYPTOGRAPHY = {"cryptography", "_cffi_backend", "_openssl"}


def roots_after(program: str) -> set[str]:
    """Run `program` in a fresh interpreter with site-packages. Returns the top-level names of the modules it loads."""
    whole = (
        f"import sys, json; before = set(sys.modules)\n{program}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", whole],
        env={**os.environ, "PYTHONPATH": str(LIB)},
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_takeoff_imports_nothing_but_the_standard_library_and_cryptography():
    modules = [f"takeoff.{module.name}" for module in pkgutil.iter_modules(takeoff.__path__)]
    assert len(modules) >= 10
    program = "import " + ", ".join(modules)
    program += "\ntakeoff.keys.verify_signature(b'\\5' * 32, b'\\0' * 64, b'')"
    assert roots_after(program) - set(sys.stdlib_module_names) - CRYPTOGRAPHY == {"takeoff"}


def test_a_verification_loads_no_slow_module(tmp_path):
    """Measurements showed that each of these costs more than the verification of a small cache."""
    program = (
        "from takeoff.command_line import main\n"
        f"assert main([{str(tmp_path)!r}, '--trust', {str(tmp_path)!r}]) == 19\n"
        "from takeoff import keys\nkeys.verify_signature(b'\\5' * 32, b'\\0' * 64, b'')"
    )
    slow = {"argparse", "dataclasses", "logging", "inspect", "asyncio", "concurrent", "ssl", "datetime", "decimal"}
    assert roots_after(program) & slow == set()
