"""dodo.py names every stage of a session, in the order of the session."""

from __future__ import annotations

import json
from pathlib import Path

from preflight import wiring
from preflight.mission.loading import load_mission
from recipes import stages, tasks

ROOT = Path(__file__).parents[3]


def creators():
    return {name.removeprefix("task_"): value for name, value in vars(stages).items() if name.startswith("task_")}


def test_every_stage_of_a_session_has_its_task(tmp_path):
    """The Python API would build a stage without a task, but doit would not."""
    mission = load_mission(ROOT / "cache_templates" / "demo.yaml", {})
    session = wiring.assemble(mission, wiring.Surroundings.real(), wiring.Options()).session()
    try:
        order = list(dict.fromkeys(name.partition(":")[0] for name in session.stages))
    finally:
        session.close()
    assert list(creators()) == order


def test_dodo_imports_every_stage_and_exports_it():
    text = (ROOT / "dodo.py").read_text()
    for name in creators():
        assert f"task_{name}," in text, name
        assert json.dumps(f"task_{name}") in text, name


def test_the_task_of_a_stage_has_the_text_that_doit_list_shows(monkeypatch):
    monkeypatch.setattr(stages, "stage_tasks", lambda name, doc: iter([{"basename": name, "doc": doc}]))
    for name, create in creators().items():
        (task,) = create()
        assert task["basename"] == name
        assert task["doc"] == create.__doc__


def test_each_creator_makes_the_tasks_of_its_own_stage(monkeypatch):
    """This fails if all creators use the last row of the table."""
    asked = []
    monkeypatch.setattr(stages, "stage_tasks", lambda name, _: iter(asked.append(name) or []))
    for create in creators().values():
        list(create())
    assert asked == list(creators())
    assert tasks.LOCK not in asked
