"""Checks CONTRIBUTING.md: each file, command and name that it mentions exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from preflight.engine import runtimes
from recipes import checks
from takeoff import manifest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
PATHS = sorted(set(re.findall(r"`((?:lib|tests|recipes|docs|benchmarks)/[\w./-]+|dodo\.py|pyproject\.toml)`", TEXT)))


@pytest.mark.parametrize("path", PATHS)
def test_a_path_exists(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("name", ["Add a runtime", "Add a tile source", "Add a stage", "Add a manifest field"])
def test_a_recipe_has_five_lines_and_an_example_that_a_test_runs(name):
    steps = re.findall(r"^\d\. .*$", SECTIONS[name], re.MULTILINE)
    assert len(steps) == 5
    assert re.search(r"`tests/[\w/]+\.py`", SECTIONS[name])


def test_the_commands_exist():
    tasks = {name.removeprefix("task_") for name in vars(checks) if name.startswith("task_")}
    assert set(re.findall(r"bin/doit (\w+)", SECTIONS["The loop"])) <= tasks


def test_the_names_exist():
    assert runtimes.RUNTIMES
    assert manifest.SCHEMA_VERSION
    assert {"RUNTIMES", "SCHEMA_VERSION"} <= set(re.findall(r"`([A-Z_]{5,})`", TEXT))


def test_the_targets_of_links_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    assert targets
    assert all((ROOT / target).exists() for target in targets)
