"""A short run of the fuzz target; the long one is `python benchmarks/fuzz_takeoff.py`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed (it has wheels for x86-64 alone)"
)
def test_a_short_run_of_the_fuzz_target_finds_nothing(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "fuzz_takeoff.py", "-runs=4000", "-max_total_time=20", "-seed=1"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120, env={"TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done " in done.stderr
    assert not list(tmp_path.glob("crash-*"))
