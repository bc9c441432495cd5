from __future__ import annotations

import json

import pytest

from preflight.commands.explain import explain, plan_json, plan_text, waiting_for, why_json, why_text
from preflight.errors import CommandLineError
from preflight.planning import Plan, StagePlan
from preflight.session import Explanation, Stage
from preflight.trace.record import BuildRecord
from preflight.trace.rule import Change, LastBuild, Verdict

OLD, NEW = "a" * 64, "b" * 64


class Stages:
    """As much of a session as explaining needs."""

    def __init__(self, *stale):
        names = {
            "tiles": (),
            "engine:one": ("tiles",),
            "engine:two": ("tiles",),
            "index": ("engine:one",),
            "manifest": ("index", "engine:two"),
        }
        self.stages = {name: Stage(name, after, ()) for name, after in names.items()}
        self._stale = stale

    def explain(self, name):
        return [Explanation(name, Verdict(name not in self._stale), None, True)]


def test_a_task_and_all_engines():
    assert [item.step for item in explain(Stages(), "index")] == ["index"]
    assert [item.step for item in explain(Stages(), "engine:two")] == ["engine:two"]
    assert [item.step for item in explain(Stages(), "engine")] == ["engine:one", "engine:two"]


@pytest.mark.parametrize("task", ["", "three", "engine:three", "engine:", "provision"])
def test_no_task_of_this_mission(task):
    with pytest.raises(CommandLineError, match=r"tiles, engine:one, engine:two, index, manifest"):
        explain(Stages(), task)


def test_what_will_run_before():
    assert waiting_for(Stages(), "manifest") == []
    assert waiting_for(Stages("manifest"), "manifest") == []
    assert waiting_for(Stages("tiles", "engine:two"), "manifest") == ["tiles", "engine:two"]
    assert waiting_for(Stages("tiles", "engine:two"), "index") == ["tiles"]
    assert waiting_for(Stages("tiles"), "engine") == ["tiles"]


def changed():
    change = Change("onnx", OLD, NEW)
    return Explanation("engine:one", Verdict(False, (str(change), "output x was edited"), (change,)), None, True)


def current():
    record = BuildRecord("index", 1, "k", {}, {})
    return Explanation("index", Verdict(True), LastBuild(record, (f"vectors: {OLD} → {NEW}",)), True)


def test_for_people_digests_are_short():
    assert why_text([changed(), current()], []).splitlines() == [
        "engine:one: will be built",
        "    onnx: aaaaaaaaaaaa → bbbbbbbbbbbb",
        "    output x was edited",
        "index: up to date",
        "    last built because of vectors: aaaaaaaaaaaa → bbbbbbbbbbbb",
    ]


def test_what_is_waited_for_is_said_first():
    assert why_text([current()], ["tiles"]).startswith("judged as things are; tiles will run before")


def test_for_programs_digests_are_whole():
    text = why_json([changed(), current()], ["tiles"])
    assert "\n" not in text
    assert json.loads(text) == {
        "after": ["tiles"],
        "steps": [
            {
                "step": "engine:one",
                "current": False,
                "reasons": [f"onnx: {OLD} → {NEW}", "output x was edited"],
                "changes": [{"component": "onnx", "old": OLD, "new": NEW}],
                "last_built_because": None,
            },
            {
                "step": "index",
                "current": True,
                "reasons": [],
                "changes": [],
                "last_built_because": [f"vectors: {OLD} → {NEW}"],
            },
        ],
    }


def plan_with(fate="will run", seconds=None):
    stages = (StagePlan("index", fate, (f"index: vectors: {OLD} → {NEW}",) if fate == "will run" else ()),)
    return Plan(stages, 1200, 1000, 1000, 40, 3_000_000, 5_000_000_000, seconds)


def test_a_plan_for_programs():
    value = json.loads(plan_json(plan_with(seconds=1.5)))
    assert value == {
        "tiles_expected": 1200,
        "tiles_present": 1000,
        "units": 1000,
        "units_to_embed": 40,
        "tiles_to_import": 0,
        "bytes_needed": 3_000_000,
        "bytes_free": 5_000_000_000,
        "seconds": 1.5,
        "stages": [{"name": "index", "fate": "will run", "reasons": [f"index: vectors: {OLD} → {NEW}"]}],
    }


@pytest.mark.parametrize(
    ("plan", "time"),
    [
        (plan_with(), "unknown before the first build"),
        (plan_with(seconds=89.6), "about 90 s"),
        (plan_with("up to date", 0.0), "none"),
    ],
)
def test_a_plan_for_people(plan, time):
    said = " ".join(plan_text(plan, width=120).split())
    assert "1,000 of 1,200 there descriptors 1,000 in all, 40 to embed" in said
    assert f"time {time}" in said
    assert plan.stages[0].fate in said
    assert OLD not in said
