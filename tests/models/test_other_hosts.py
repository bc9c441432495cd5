"""Engines of several hosts in one cache root.

Each host builds and uses its own engines and never changes the others.
"""

from __future__ import annotations

import logging
import platform
from dataclasses import replace

import numpy as np
import pytest

from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.adapters.openvino.runtime import OpenVinoRuntime
from preflight.engine.compiler import EngineCompiler
from preflight.engine.runtime_choice import RuntimeChoice
from preflight.engine.runtimes import RUNTIMES
from preflight.errors import EngineBuildError
from preflight.records import BackboneSpec, HostCapabilities
from preflight.report.run_log import RunLog
from preflight.stages.engines import compile_step, inspect_step
from preflight.store.atomic import atomic_write
from preflight.store.cache_layout import CacheLayout
from preflight.trace.digests import DigestCache, hash_file
from preflight.trace.rule import Tracer
from preflight.wiring.libraries import onnx_models

HERE = HostCapabilities(platform.machine(), "avx2")


@pytest.fixture
def step_on(tmp_path, model_file):
    """step_on(host): the step that compiles one model on this host, and a tracer that judges and runs it."""
    spec = BackboneSpec("tiny_vit", "descriptor", model_file("tiny_vit"), {"image": (1, 3, 56, 56)}, "fp32")
    layout = CacheLayout(tmp_path / "cache")
    digests = DigestCache(layout.digests)
    runtime = OpenVinoRuntime()
    choice = RuntimeChoice(RUNTIMES.named(runtime.name), runtime.version, lambda: runtime)

    def make(host):
        compiler = EngineCompiler(choice, host, onnx_models(), workspace_mb=256, batch_size=4)
        tracer = Tracer(digests, atomic_write, layout.history)
        inspect = inspect_step(spec, layout, compiler, digests)
        if not tracer.judge(inspect).current:
            tracer.run(inspect)
        return compile_step(spec, layout, compiler, digests, RunLog()), tracer

    return make


def test_an_engine_of_another_host_is_neither_changed_nor_reused(step_on, caplog):
    caplog.set_level(logging.WARNING, "c10_provisioning.engine")
    there = replace(HERE, isa="avx512")
    ours, tracer = step_on(HERE)
    assert not tracer.judge(ours).current
    tracer.run(ours)
    before = {path: (hash_file(path), path.stat().st_ino) for path in ours.outputs}

    theirs, tracer = step_on(there)
    verdict = tracer.judge(theirs)
    assert not verdict.current
    assert [(change.component, change.old, change.new) for change in verdict.changes] == [
        ("host", f"{HERE.arch} avx2", f"{HERE.arch} avx512")
    ]
    tracer.run(theirs)
    assert {path: (hash_file(path), path.stat().st_ino) for path in ours.outputs} == before
    assert {path.name for path in theirs.outputs[0].parent.glob("*.engine")} == {
        ours.outputs[0].name,
        theirs.outputs[0].name,
    }
    # Each engine is current on its own host, so nothing is built again.
    for host in (HERE, there):
        step, tracer = step_on(host)
        assert tracer.judge(step).current

    misses = [record for record in caplog.records if record.event == "c10.engine.miss"]
    assert [record.levelname for record in misses] == ["WARNING", "WARNING"]
    for record, step in zip(misses, (ours, theirs), strict=True):
        assert step.outputs[0].name in record.getMessage()
        assert record.fields["model"] == "tiny_vit"
        assert record.fields["precision"] == "fp32"
        assert {"sm", "jp", "trt", "runtime"} <= record.fields.keys()


def test_an_engine_of_another_runtime_version_is_not_changed(step_on, tmp_path):
    step, tracer = step_on(HERE)
    tracer.run(step)
    other = step.outputs[0].with_name(step.outputs[0].name.replace("openvino", "openvino1."))
    other.write_bytes(b"older")
    again, tracer = step_on(HERE)
    assert tracer.judge(again).current
    assert other.read_bytes() == b"older"


def test_an_engine_of_a_gpu_is_not_loaded_without_one(tmp_path):
    """An engine of an Orin was copied to a workstation. The error message contains the reason of the library."""
    engine = tmp_path / "vpr__sm87_jp6.2_trt10.3_fp16.engine"
    engine.write_bytes(b"plan")
    from preflight.ports import CompileRequest

    request = CompileRequest(tmp_path / "m.onnx", {"image": (1, 3, 8, 8)}, "fp32", 1, 1)
    with pytest.raises(EngineBuildError, match=r"cannot load the engine .*sm87"):
        OpenVinoRuntime().load(engine, request)


def test_external_weights_are_merged_into_one_file_for_onnx_runtime(tmp_path, model_file):
    """ONNX Runtime needs one file here. The engine computes the same as that of a model in one file."""
    runtime = OnnxRuntime()
    choice = RuntimeChoice(RUNTIMES.named(runtime.name), runtime.version, lambda: runtime)
    compiler = EngineCompiler(choice, HERE, onnx_models(), workspace_mb=256, batch_size=4)
    engines = []
    for external in (False, True):
        path = model_file("tiny_vit", external=external)
        spec = BackboneSpec("tiny_vit", "descriptor", path, {"image": (1, 3, 56, 56)}, "fp32")
        engines.append(tmp_path / f"{external}.engine")
        compiler.compile(spec, engines[-1])
    feed = {"image": np.random.default_rng(1).random((4, 3, 56, 56), np.float32)}
    outputs = []
    for engine in engines:
        with compiler.load(spec, engine) as loaded:
            outputs.append(loaded.run(feed)["descriptor"])
    np.testing.assert_array_equal(*outputs)
