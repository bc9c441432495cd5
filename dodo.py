"""The table of contents: every task of the build, in the order they run. `doit list` shows them."""

from recipes.checks import task_check, task_test
from recipes.context import ContentChecker, context
from recipes.provision import task__lock, task_provision
from recipes.reporter import StageReporter
from recipes.stages import (
    task_descriptors,
    task_engine,
    task_index,
    task_manifest,
    task_publish,
    task_selftest,
    task_tiles,
)
from recipes.verify import task_verify

DOIT_CONFIG = {
    "default_tasks": ["provision"],
    "backend": "preflight",
    "dep_file": context().doit_database(),
    "check_file_uptodate": ContentChecker,
    "reporter": StageReporter,
    "verbosity": 2,
}

__all__ = [
    "DOIT_CONFIG", "task__lock", "task_check", "task_descriptors", "task_engine", "task_index", "task_manifest",
    "task_provision", "task_publish", "task_selftest", "task_test", "task_tiles", "task_verify",
]  # fmt: skip
