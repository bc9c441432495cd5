"""A sample of the mutation check: a failure that is left out of the verifier changes a verdict of the golden corpus.

The whole of it, conditions too and judged by all tests of takeoff, is `python benchmarks/mutate_verifier.py`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_third_check_left_out_is_noticed():
    command = [sys.executable, "-B", ROOT / "benchmarks" / "mutate_verifier.py", "--quick", "--checks", "--sample=3"]
    command += ["policy.py", "names.py", "manifest.py", "schema.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(" mutants, 0 survive")[0]) >= 10
