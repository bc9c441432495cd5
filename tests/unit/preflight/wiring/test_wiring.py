from __future__ import annotations

import ast
from pathlib import Path

import pytest

from preflight import wiring


def told_to_mypy():
    """Return the names of each part, from the imports that only mypy sees."""
    found = ast.walk(ast.parse(Path(wiring.__file__).read_text()))
    imports = [node for node in found if isinstance(node, ast.ImportFrom)]
    return {
        node.module.rpartition(".")[2]: tuple(name.name for name in node.names)
        for node in imports
        if node.module.startswith("preflight.wiring.")
    }


def test_python_finds_the_names_that_mypy_sees():
    assert told_to_mypy() == wiring._HOMES
    assert {name for names in wiring._HOMES.values() for name in names if not callable(getattr(wiring, name))} == set()


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="has no attribute 'assembel'"):
        wiring.assembel  # noqa: B018
