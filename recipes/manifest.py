"""Manifest: what was built, signed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recipes.tasks import stage_tasks


def task_manifest() -> Iterator[dict[str, Any]]:
    """Check the quality gate and sign."""
    return stage_tasks("manifest", "check the quality gate and sign")
