"""A whole build with a new runtime. The build gets only a table with one more row."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from preflight import wiring
from preflight.engine.runtimes import RUNTIMES, RuntimeTable
from preflight.mission.loading import load_mission


@pytest.fixture
def table(tmp_path, monkeypatch):
    """The runtimes of preflight and one more, with an installer's record of its library."""
    record = tmp_path / "toy_library-3.1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-library\nVersion: 3.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "toy_runtime"))
    return RuntimeTable((*RUNTIMES.rows, import_module("toy_adapter").ROW))


def test_a_build_on_a_new_runtime(built, table):
    built.edit(lambda mission: mission["components"]["c10_provisioning"].update(runtime="toy_runtime"))
    mission = load_mission(built.mission, {}, table)
    surroundings = wiring.Surroundings(wiring.wall_clock, {}, wiring.Surroundings.real().host, table)
    outcomes = [wiring.assemble(mission, surroundings, wiring.Options()).session().build().outcome for _ in range(2)]
    assert outcomes == ["success", "idempotent_no_op"]
    predicate = built.manifest["predicate"]
    (model,) = predicate["identity"]["models"]
    assert (model["runtime"], model["runtime_version"]) == ("toy_runtime", "3.1")
    assert "_toy3.1_fp32.engine" in model["engine"]
    assert predicate["builder"]["toy_runtime"] == "3.1"
    assert built.takeoff().status == 0
