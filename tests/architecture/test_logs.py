"""docs/logs.md lists every event that the code logs, with its fields, and no other."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "lib" / "preflight").rglob("*.py"), *(ROOT / "recipes").rglob("*.py")]
CALLS = {"warn", "say", "CommandResult"}


def rows():
    """Event -> the text of its fields in the document."""
    found = re.findall(r"^\| `(c10\.[\w.]+)` \| \w+ \| (.*?) \|", (ROOT / "docs" / "logs.md").read_text(), re.MULTILINE)
    assert len(found) == len(dict(found)), "an event is listed twice"
    return dict(found)


def logged():
    """Event -> names of its fields that the code writes as literals."""
    found = defaultdict(set)
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                entries = {
                    key.value: value
                    for key, value in zip(node.keys, node.values, strict=True)
                    if isinstance(key, ast.Constant)
                }
                event = entries.get("event")
                if isinstance(event, ast.Constant):
                    fields = entries.get("fields")
                    keys = fields.keys if isinstance(fields, ast.Dict) else []
                    found[event.value] |= {key.value for key in keys if isinstance(key, ast.Constant)}
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in CALLS:
                first = node.args[0] if node.args else None
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    found[first.value] |= {keyword.arg for keyword in node.keywords if keyword.arg}
    # recipes/verify.py chooses between the two.
    text = (ROOT / "recipes" / "verify.py").read_text()
    for event in re.findall(r'"(c10\.verify\.\w+)"', text):
        found[event] |= set()
    return found


def test_every_event_is_in_the_document_and_no_other():
    assert set(logged()) == set(rows())


def test_every_event_has_the_form_of_its_name():
    assert [event for event in logged() if not re.fullmatch(r"c10(\.[a-z_]+){2}", event)] == []


def test_every_literal_field_is_in_the_document():
    documented = rows()
    lacking = {
        event: sorted(field for field in fields if f"`{field}`" not in documented[event])
        for event, fields in logged().items()
    }
    assert {event: fields for event, fields in lacking.items() if fields} == {}


def test_every_logger_is_a_child_of_the_component():
    names = {name for path in SOURCES for name in re.findall(r'getLogger\("([^"]+)"\)', path.read_text())}
    assert names
    assert [name for name in sorted(names) if name.split(".")[0] != "c10_provisioning"] == []
