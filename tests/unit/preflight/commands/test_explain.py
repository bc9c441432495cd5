from __future__ import annotations

import json
from dataclasses import replace

import pytest

from preflight.commands.explain import explain, plan_json, plan_text, waiting_for, why_json, why_text
from preflight.errors import CommandLineError
from preflight.run.planning import Plan, StagePlan
from preflight.run.session import Explanation, Stage
from preflight.trace.record import BuildRecord
from preflight.trace.rule import Change, LastBuild, Step, Verdict

OLD, NEW = "a" * 64, "b" * 64


class Stages:
    """The part of a session that `explain` uses."""

    def __init__(self, *stale):
        names = {
            "tiles": (),
            "engine:one": ("tiles",),
            "engine:two": ("tiles",),
            "index": ("engine:one",),
            "manifest": ("index", "engine:two"),
        }
        self.stages = {name: Stage(name, after, tuple(map(step, steps(name)))) for name, after in names.items()}
        self._stale = stale

    def explain(self, name):
        return [Explanation(step, Verdict(step not in self._stale), None, True) for step in steps(name)]


def steps(name):
    """Return the names of the steps of a stage."""
    kind, _, model = name.partition(":")
    return {"tiles": ["tiles", "windows"], "engine": [f"model:{model}", name, f"parity:{model}"]}.get(kind, [name])


def step(name):
    return Step(name, 1, (), dict, (), lambda: ())


def test_a_stage_or_all_engines_can_be_explained():
    assert [item.step for item in explain(Stages(), "index")] == ["index"]
    assert [item.step for item in explain(Stages(), "engine:two")] == ["model:two", "engine:two", "parity:two"]
    assert [item.step for item in explain(Stages(), "engine")] == [*steps("engine:one"), *steps("engine:two")]


def test_a_step_can_be_explained_by_its_name():
    assert [item.step for item in explain(Stages(), "windows")] == ["windows"]
    assert [item.step for item in explain(Stages(), "parity:two")] == ["parity:two"]
    assert [item.step for item in explain(Stages(), "parity")] == ["parity:one", "parity:two"]
    session = Stages()
    for stage in session.stages:
        for name in steps(stage):
            assert name in [item.step for item in explain(session, name)]


@pytest.mark.parametrize("task", ["", "three", "engine:three", "engine:", "parity:", "provision"])
def test_an_unknown_task_is_refused(task):
    known = "a stage: tiles, engine:one, engine:two, index, manifest; or a step: windows, model:one, parity:one, "
    with pytest.raises(CommandLineError, match=known):
        explain(Stages(), task)
    with pytest.raises(CommandLineError, match=known):
        waiting_for(Stages(), task)


def test_which_stages_will_run_before_a_stage():
    assert waiting_for(Stages(), "manifest") == []
    assert waiting_for(Stages("manifest"), "manifest") == []
    assert waiting_for(Stages("tiles", "engine:two"), "manifest") == ["tiles", "engine:two"]
    assert waiting_for(Stages("tiles", "engine:two"), "index") == ["tiles"]
    assert waiting_for(Stages("tiles"), "engine") == ["tiles"]


def test_which_stages_and_steps_will_run_before_a_step():
    assert waiting_for(Stages("windows"), "parity:two") == ["tiles"]
    assert waiting_for(Stages("engine:two"), "parity:two") == ["engine:two"]
    assert waiting_for(Stages("parity:two"), "parity:two") == []
    assert waiting_for(Stages("windows", "model:one", "engine:two"), "parity") == ["tiles", "model:one", "engine:two"]
    assert waiting_for(Stages("tiles"), "windows") == ["tiles"]


def changed():
    change = Change("onnx", OLD, NEW)
    return Explanation("engine:one", Verdict(False, (str(change), "output x was edited"), (change,)), None, True)


def current():
    record = BuildRecord("index", 1, "k", {}, {})
    return Explanation("index", Verdict(True), LastBuild(record, (f"vectors: {OLD} → {NEW}",)), True)


def test_the_text_has_short_digests():
    assert why_text([changed(), current()], []).splitlines() == [
        "engine:one: will be built",
        "    onnx: aaaaaaaaaaaa → bbbbbbbbbbbb",
        "    output x was edited",
        "index: up to date",
        "    last built because of vectors: aaaaaaaaaaaa → bbbbbbbbbbbb",
    ]


def test_the_text_starts_with_the_stages_that_run_before():
    assert why_text([current()], ["tiles"]).startswith("this is the state now; tiles will run before")


def test_the_json_has_full_digests():
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


def plan_with(status="will run", seconds=None):
    stages = (StagePlan("index", status, (f"index: vectors: {OLD} → {NEW}",) if status == "will run" else ()),)
    return Plan(stages, 1200, 1000, 1000, 40, 3_000_000, 5_000_000_000, seconds)


def test_a_plan_as_json():
    value = json.loads(plan_json(plan_with(seconds=1.5)))
    assert value == {
        "tiles_expected": 1200,
        "tiles_present": 1000,
        "units": 1000,
        "units_to_embed": 40,
        "tiles_to_import": 0,
        "at_most": False,
        "bytes_needed": 3_000_000,
        "bytes_free": 5_000_000_000,
        "seconds": 1.5,
        "stages": [{"name": "index", "status": "will run", "reasons": [f"index: vectors: {OLD} → {NEW}"]}],
    }


@pytest.mark.parametrize(
    ("plan", "time"),
    [
        (plan_with(), "unknown before the first build"),
        (plan_with(seconds=89.6), "about 90 s"),
        (plan_with("up to date", 0.0), "none"),
    ],
)
def test_a_plan_as_text(plan, time):
    said = " ".join(plan_text(plan, width=120).split())
    assert "1,000 of 1,200 in the tile store descriptors 1,000 in all, 40 to embed" in said
    assert f"time {time}" in said
    assert plan.stages[0].status in said
    assert OLD not in said


def test_a_plan_with_upper_bounds_says_at_most():
    plan = replace(plan_with(), at_most=True)
    assert json.loads(plan_json(plan))["at_most"]
    assert "at most 1,000 in all, at most 40 to embed" in plan_text(plan, width=120)
