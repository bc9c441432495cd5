"""The contracts of import-linter cover a new package without a change of the contracts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = "from importlinter.cli import lint_imports_command; lint_imports_command()"


@pytest.fixture
def copy(tmp_path):
    """A copy of the packages and their contracts in a new folder."""
    pytest.importorskip("importlinter")
    for name in ("lib", "recipes"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.fixture
def lint(copy):
    """lint(contract): whether the copy keeps a contract, and the output of import-linter."""

    def run(contract):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "--no-cache", "--no-logo", "--contract", contract],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(copy / "lib"), str(copy)])},
            capture_output=True,
            text=True,
            check=False,
        )
        # Lines are broken at the width of the terminal.
        return done.returncode == 0, re.sub(r"\s+", " ", done.stdout + done.stderr)

    return run


def test_a_new_adapter_may_not_import_another(copy, lint):
    package = copy / "lib" / "preflight" / "adapters" / "toy"
    package.mkdir()
    (package / "__init__.py").write_text('"""A new adapter."""\n')
    (package / "runtime.py").write_text("from preflight.engine.runtimes import RUNTIMES\n")
    kept, said = lint("adapters")
    assert kept, said
    (package / "runtime.py").write_text("from preflight.adapters.openvino.runtime import OpenVinoRuntime\n")
    kept, said = lint("adapters")
    assert not kept
    assert "preflight.adapters.toy.runtime -> preflight.adapters.openvino.runtime" in said


def test_a_new_room_must_be_in_a_layer(copy, lint):
    kept, said = lint("layers")
    assert kept, said
    package = copy / "lib" / "preflight" / "attic"
    package.mkdir()
    (package / "__init__.py").write_text('"""A new room."""\n')
    kept, said = lint("layers")
    assert not kept
    assert "attic" in said
