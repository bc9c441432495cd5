"""Index: the HNSW graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recipes.tasks import stage_tasks


def task_index() -> Iterator[dict[str, Any]]:
    """Build the descriptor index."""
    return stage_tasks("index", "build the descriptor index")
