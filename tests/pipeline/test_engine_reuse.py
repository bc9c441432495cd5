"""A build decides by hashes and records alone whether to reuse an engine. It opens no model and imports no runtime."""

from __future__ import annotations

import json
import sys

import pytest

RUNTIMES = {"onnx", "onnxruntime", "openvino", "torch", "tensorrt"}
MODEL = "weight_free_vpr"
# Runs doit in a fresh interpreter. At exit it always writes three facts: how often each file below a folder was opened,
# which modules were imported, and which Python programs were started.
PROGRAM = """
import atexit, collections, json, os, sys
result, folder, *arguments = sys.argv[1:]
opened, started = collections.Counter(), []
def hook(event, given):
    if event == "open" and isinstance(given[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(given[0]))
        if path.startswith(folder):
            opened[os.path.relpath(path, folder)] += 1
    elif event == "subprocess.Popen" and os.fsdecode(given[0]) == sys.executable:
        started.append([os.fsdecode(part) for part in given[1]])
def dump():
    roots = sorted({name.partition(".")[0] for name in sys.modules})
    with open(result, "w") as out:
        json.dump({"opened": opened, "imported": roots, "started": started}, out)
atexit.register(dump)
sys.addaudithook(hook)
sys.path[0] = os.getcwd()
from doit.doit_cmd import DoitMain
raise SystemExit(DoitMain().run(arguments))
"""


@pytest.fixture
def watched(tmp_path, python_outside):
    """watched(place, task, folder): run a task. Returns the process, and what it opened, imported and started."""

    def run(place, task, folder):
        result = tmp_path / "watched.json"
        command = [
            sys.executable,
            "-c",
            PROGRAM,
            result,
            folder.resolve(),
            task,
            f"mission={place.mission}",
            "log=json",
        ]
        done = python_outside([str(part) for part in command])
        assert done.status == 0, done.said
        found = json.loads(result.read_text())
        return done, found["opened"], RUNTIMES & set(found["imported"]), found["started"]

    return run


def test_the_second_provision_opens_no_model_and_imports_no_runtime(built, watched):
    # In the copy every file has another inode. So each file without a cached digest is read and hashed once.
    done, opened, imported, started = watched(built, "provision", built.work)
    assert done.ran == []
    models = [name for name in opened if name.endswith(".onnx")]
    assert [opened[name] for name in models] == [1]
    assert (imported, started) == (set(), [])

    done, opened, imported, started = watched(built, "provision", built.work)
    assert done.ran == []
    assert [name for name in opened if name.startswith(("onnx/", "engines/")) and not name.endswith(".json")] == []
    assert (imported, started) == (set(), [])


def test_a_rewritten_model_is_hashed_but_not_loaded(built, watched):
    assert built.provision().status == 0
    (path,) = (built.work / "onnx").glob("*.onnx")
    path.write_bytes(path.read_bytes())
    done, opened, imported, started = watched(built, "provision", built.work)
    assert done.ran == []
    assert opened[str(path.relative_to(built.work))] == 1
    assert (imported, started) == (set(), [])


def test_embedding_opens_the_engine_and_not_the_model(built, watched):
    built.edit(lambda mission: mission["components"]["c10_provisioning"]["descriptors"].update(overlap=0.5))
    done, opened, imported, _ = watched(built, "descriptors", built.work)
    assert done.ran == ["windows", "descriptors"]
    (engine,) = (built.work / "engines").glob(f"{MODEL}*.engine")
    assert opened[str(engine.relative_to(built.work))] >= 1
    assert imported == {"openvino"}


def test_building_an_engine_opens_the_model(built, watched):
    """This shows that the checks of the other tests can fail."""
    (engine,) = (built.work / "engines").glob(f"{MODEL}*.engine")
    engine.unlink()
    done, opened, imported, started = watched(built, "engine", built.work)
    assert done.ran == [f"engine:{MODEL}"]
    assert opened
    assert len(started) == 1
    assert imported
