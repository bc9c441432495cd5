"""`doit engines` shows which engines exist, why others cannot be reused, and whether this host can build them."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from preflight.trace.digests import hash_file


def snapshot(folder):
    """Return every file below a folder with its hash, inode and mtime."""
    return {
        str(path.relative_to(folder)): (hash_file(path), path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def small_model(path, kind="Relu", domain=""):
    """Write a model of one matrix and one operator."""
    weight = numpy_helper.from_array(np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node(kind, ["a"], ["y"], name="last", domain=domain),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
        [weight],
    )
    opsets = [helper.make_opsetid("", 17), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(path))


def add_backbone(place, name, path):
    entry = {"model_name": name, "onnx_path": str(path), "input_name": "x", "expected_input_shape": [1, 4]}
    place.edit(lambda mission: mission["components"]["c10_provisioning"]["backbones"].append(entry))


@pytest.fixture
def engines(tmp_path):
    """engines(place, *options): the exit status, and the state of each backbone.

    Checks that no temporary file is left.
    """
    room = tmp_path / "tmp"
    room.mkdir()

    def ask(place, *options):
        done = place.doit("engines", *options, "log=json", env={**os.environ, "TMPDIR": str(room)})
        assert list(room.iterdir()) == []
        found = [line["engines"] for line in done.events if "engines" in line]
        return done, {entry["model"]: entry for entry in found[0]} if found else {}

    return ask


def test_a_built_engine_is_reused_and_nothing_is_touched(built, engines):
    assert built.provision_json().ran == []  # from now on, the copy's digests are cached
    before = snapshot(built.cache)
    with (built.cache / ".c10.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done, found = engines(built, "--check")
    assert done.status == 0, done.said
    entry = found["weight_free_vpr"]
    assert (entry["reused"], entry["tried"], entry["problem"], entry["reasons"]) == (True, False, None, [])
    assert (built.work / "engines" / entry["engine"]).is_file()
    assert float(entry["parity"]) > 0.99999
    assert entry["seconds"] > 0
    assert snapshot(built.cache) == before
    assert built.servers() == []


def test_a_missing_engine_is_reported_and_built_outside_the_cache(built, engines, tmp_path):
    assert built.provision_json().ran == []
    before = snapshot(built.cache)
    small_model(tmp_path / "small.onnx")
    add_backbone(built, "small", tmp_path / "small.onnx")
    built.edit(lambda mission: mission["components"]["c10_provisioning"].update(workspace_mb=512))
    done, found = engines(built)
    assert done.status == 0, done.said
    assert found["weight_free_vpr"]["reasons"] == ["workspace_mb: 256 → 512"]
    assert found["small"]["reasons"] == ["never built here"]
    assert not any(entry["reused"] or entry["tried"] for entry in found.values())

    done, found = engines(built, "--check")
    assert done.status == 0, done.said
    for entry in found.values():
        assert (entry["tried"], entry["problem"]) == (True, None)
        assert float(entry["parity"]) > 0.99999
        assert entry["seconds"] > 0
    assert snapshot(built.cache) == before
    text = built.doit("engines").sentences
    assert "would be built" in text
    assert "workspace_mb: 256 → 512" in text


def test_one_that_cannot_be_built_is_an_error_and_the_others_are_tried(fresh, engines, tmp_path):
    small_model(tmp_path / "strange.onnx", "Relu", "com.example")
    add_backbone(fresh, "strange", tmp_path / "strange.onnx")
    assert engines(fresh)[0].status == 0
    done, found = engines(fresh, "--check")
    assert done.status == 1
    assert "com.example" in found["strange"]["problem"]
    assert found["weight_free_vpr"]["problem"] is None
    assert found["weight_free_vpr"]["tried"]
    assert found["weight_free_vpr"]["parity"] is None  # no tiles are sealed yet
    (refused,) = done.event("c10.command.refused")
    assert refused["error"] == "EngineBuildError"
    assert "strange: " in str(refused)
    assert not fresh.cache.exists()
    assert fresh.servers() == []
    plain = fresh.doit("engines", "--check")
    assert plain.status == 1
    assert "CANNOT BE BUILT" in plain.out
    assert "doit engines failed: strange:" in plain.err


def test_a_runtime_that_is_not_installed_is_an_error(fresh, engines):
    fresh.edit(lambda mission: mission["components"]["c10_provisioning"].update(runtime="tensorrt"))
    done, found = engines(fresh)
    assert done.status == 1
    assert found == {}
    assert "[gpu,tensorrt]" in done.said
    assert engines(fresh, "argument")[0].status == 1


def test_an_engine_that_cannot_be_built_does_not_prevent_the_others(fresh, tmp_path):
    """Doit itself stops at the first failed task. An engine that is requested by name is built alone."""
    for name, domain in (("a_strange", "com.example"), ("sound", "")):
        small_model(tmp_path / f"{name}.onnx", "Relu", domain)
        add_backbone(fresh, name, tmp_path / f"{name}.onnx")
    # The failing backbone comes first.
    fresh.edit(
        lambda mission: mission["components"]["c10_provisioning"]["backbones"].sort(key=lambda b: b["model_name"])
    )
    done = fresh.doit("engine:a_strange", "log=json")
    assert done.status == 1
    assert not list((fresh.work / "engines").glob("*.engine"))
    done = fresh.provision_json()
    assert done.status == 1
    (failure,) = done.event("c10.build.failed")
    assert "com.example" in str(failure)
    assert {path.name.partition("__")[0] for path in (fresh.work / "engines").glob("*.engine")} == {
        "sound",
        "weight_free_vpr",
    }
    small_model(tmp_path / "a_strange.onnx", "Tanh")
    done = fresh.provision_json()
    assert done.status == 0, done.said
    assert {step for step in done.ran if step.startswith("engine:")} == {"engine:a_strange"}
    assert (fresh.report["engines_built"], fresh.report["engines_reused"]) == (1, 2)
    assert fresh.takeoff().status == 0


def compiling(place):
    """Return the processes that compile an engine of this place."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            said = (process / "cmdline").read_text() if process.name.isdigit() else ""
            if "preflight.engine.compile_process" in said and str(place.folder) in said:
                found.append(int(process.name))
        except OSError:
            continue  # the process has ended
    return found


def test_a_stopped_run_leaves_no_compiling_process(fresh, tmp_path):
    for name in ("second", "third"):
        small_model(tmp_path / f"{name}.onnx")
        add_backbone(fresh, name, tmp_path / f"{name}.onnx")
    process = fresh.start("provision")
    while not compiling(fresh):
        assert process.poll() is None
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert compiling(fresh) == []
    assert not list(fresh.cache.rglob(".preflight-*"))
    done = fresh.provision_json()
    assert done.status == 0, done.said
    assert fresh.report["engines_built"] + fresh.report["engines_reused"] == 3
