"""Publish: one verified, atomic flip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recipes.tasks import stage_tasks


def task_publish() -> Iterator[dict[str, Any]]:
    """Verify the staged cache and make it current."""
    return stage_tasks("publish", "verify the staged cache and make it current")
