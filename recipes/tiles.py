"""Tiles: the sealed set of the area."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recipes.tasks import stage_tasks


def task_tiles() -> Iterator[dict[str, Any]]:
    """Seal the tile set of the area, and draw the sample for the gates."""
    return stage_tasks("tiles", "seal the tile set of the area")
