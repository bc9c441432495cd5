"""Fixtures for the fault tests: a small mission, and the harness in harness.py."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

NAME = "preflight_fault_harness"


def _load():
    if NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(NAME, Path(__file__).with_name("harness.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[NAME]


@pytest.fixture(scope="session")
def harness():
    return _load()


@pytest.fixture(scope="session")
def scene(harness):
    """A mission that was provisioned once and then changed. Its `copy` makes a place for one test."""
    with harness.pipeline().open_folder() as folder, harness.ground(folder) as made:
        yield made
