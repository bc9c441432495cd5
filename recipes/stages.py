"""The stages as doit tasks, one line a stage. `preflight.stages` does the work; `tasks` makes the task dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from recipes.tasks import stage_tasks

TaskCreator = Callable[[], Iterator[dict[str, Any]]]


def _stage(name: str, doc: str) -> TaskCreator:
    """Returns the function that doit calls to create a stage's task. `doit list` shows `doc`."""

    def create() -> Iterator[dict[str, Any]]:
        return stage_tasks(name, doc)

    create.__doc__ = doc
    return create


task_tiles = _stage("tiles", "seal the tile set of the area")
task_engine = _stage("engine", "compile each backbone and hold it to the parity gate")
task_descriptors = _stage("descriptors", "embed the tiles that were not embedded before")
task_index = _stage("index", "build the descriptor index")
task_selftest = _stage("selftest", "look simulated aerial photographs up in the index")
task_manifest = _stage("manifest", "check the quality gate and sign")
task_publish = _stage("publish", "verify the staged cache and make it current")
