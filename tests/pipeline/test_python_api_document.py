"""docs/python-api.md: its program runs as it stands, and its table says where each public name lives."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import preflight

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "python-api.md").read_text()
PROGRAM = DOCUMENT.partition("```python\n")[2].partition("```\n")[0]
PRINTED = [
    "tiles begin",
    "tiles built",
    "engine:weight_free_vpr begin",
    "engine:weight_free_vpr built",
    "the build was cancelled; run it again to go on from here",
    "embedded 16 of 16",
    "index (16, 2080) 16 inner_product",
    "success 0 1 16",
    "airborne pass",
    "operator pass",
]


@pytest.fixture
def table():
    """name -> (module, what it is)."""
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| (.+) \|$", DOCUMENT, re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows})
    return {name: (module, meaning) for name, module, meaning in rows}


def test_the_program_builds_and_verifies_in_a_process_of_its_own(tmp_path):
    program, folder = tmp_path / "c12.py", tmp_path / "folder"
    program.write_text(PROGRAM)
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, program, folder],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "lib")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()) == (0, PRINTED), done.stdout + done.stderr
    assert (folder / "cache" / "current" / "manifest.dsse.json").is_file()


def test_the_program_is_short_and_does_not_use_doit():
    assert 0 < len(PROGRAM.splitlines()) < 60
    assert max(map(len, PROGRAM.splitlines())) <= 120
    imported = re.findall(r"^(?:import|from) (.+?)(?: import .*)?$", PROGRAM, re.MULTILINE)
    assert "doit" not in " ".join(imported)
    assert "numpy as np, preflight as pf" in imported


def test_the_table_lists_every_public_name_with_its_module(table):
    assert sorted(table) == sorted(set(preflight.__all__) - {"__version__"})
    for name, (module, _) in table.items():
        assert getattr(import_module(module), name) is getattr(preflight, name), name


def test_the_table_says_what_each_name_is(table):
    short = [name for name, (_, meaning) in table.items() if len(meaning) < 15 or not meaning.endswith(".")]
    assert short == []
