"""Test: what CI runs, and what an engineer runs before a commit."""

from __future__ import annotations

import sys
from typing import Any

from recipes.context import ROOT


def task_test() -> dict[str, Any]:
    """Lint, types, layers, tests; the verifier's coverage."""
    python = [sys.executable, "-m"]
    return {
        "actions": [
            [*python, "ruff", "check", "."],
            [*python, "ruff", "format", "--check", "."],
            [*python, "mypy"],
            [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
            # The verifier is held to every line and branch; the rest is held by what it does.
            [*python, "pytest", "--cov=takeoff", "--cov-branch", "--cov-report=term-missing", "--cov-fail-under=100"],
        ],
        "uptodate": [False],
        "verbosity": 2,
        "doc": f"lint, types, layers and tests of {ROOT.name}",
    }
