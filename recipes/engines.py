"""Engines: one task a backbone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recipes.tasks import stage_tasks


def task_engine() -> Iterator[dict[str, Any]]:
    """Compile each backbone and hold it to the parity gate."""
    return stage_tasks("engine", "compile the backbones and hold them to the parity gate")
