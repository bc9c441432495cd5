"""Self-test: recall and position error of simulated queries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recipes.tasks import stage_tasks


def task_selftest() -> Iterator[dict[str, Any]]:
    """Look simulated aerial photographs up in the index."""
    return stage_tasks("selftest", "look simulated aerial photographs up in the index")
