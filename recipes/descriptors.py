"""Descriptors: one task, whatever the number of tiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recipes.tasks import stage_tasks


def task_descriptors() -> Iterator[dict[str, Any]]:
    """Embed the tiles that were not embedded before."""
    return stage_tasks("descriptors", "embed the tiles that were not embedded before")
