"""Every test that docs/threat-model.md names exists, and every threat in its tables names a test."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from pathlib import Path

TESTS = Path(__file__).parents[2]
TEXT = (TESTS.parent / "docs" / "threat-model.md").read_text()
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


@lru_cache
def functions(path):
    """Returns the names of the functions in the source of a test file."""
    tree = ast.parse((TESTS / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_named_test_exists():
    named = NAMED.findall(TEXT)
    missing = [f"{path}::{name}" for path, name in named if not (TESTS / path).is_file() or name not in functions(path)]
    assert missing == []
    assert len(named) > 80
    assert TEXT.count("::") == len(named)  # no test is named in another form, which NAMED would not find


def test_every_threat_has_a_rule_and_a_test():
    tables = TEXT.partition("## Threats, rules, tests")[2].partition("## Out of scope")[0]
    rows = [line.strip("|").split("|") for line in tables.splitlines() if line.startswith("|")]
    threats = [row for row in rows if row[0].strip() not in ("threat", "---")]
    assert len(threats) > 40
    for threat in threats:
        assert len(threat) == 3, threat
        assert threat[1].strip(), threat
        assert NAMED.search(threat[2]), threat
