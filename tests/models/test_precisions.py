"""The corpus in fp16 and int8: what the prepared files compute, and that TensorRT builds them."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from preflight.adapters import images
from preflight.adapters.onnx.precision import OnnxPrecision
from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.adapters.openvino.runtime import OpenVinoRuntime
from preflight.adapters.tensorrt.runtime import TENSORRT_RTX, TensorRtRuntime
from preflight.engine.calibration_table import CalibrationTable, merged
from preflight.engine.compiler import EngineCompiler
from preflight.engine.parity import cosines, synthetic_inputs
from preflight.engine.runtime_choice import RuntimeChoice
from preflight.engine.runtimes import RUNTIMES
from preflight.ports import CompileRequest
from preflight.records import BackboneSpec, HostCapabilities
from preflight.report.run_log import RunLog
from preflight.stages.engines import compile_step, inspect_step, prepared_path
from preflight.stages.prepare_onnx import Preparation, table_path
from preflight.store.atomic import atomic_write
from preflight.store.cache_layout import CacheLayout
from preflight.trace.digests import DigestCache
from preflight.trace.rule import Tracer
from preflight.wiring.libraries import onnx_models, precision_tools
from preflight.wiring.provisioner import CacheProvisionerImpl

SHAPES = {
    "vit": {"image": (1, 3, 56, 56)},
    "aliked": {"image": (1, 3, 64, 64)},
    "lightglue": {
        "keypoints0": (1, 20, 2),
        "keypoints1": (1, 30, 2),
        "descriptors0": (1, 20, 32),
        "descriptors1": (1, 30, 32),
    },
}
MIXED = (("*", "int8"), ("*", "fp16"))
# Which points are best depends on the last digits. So the rows of these outputs can have another order.
RANKED = {"aliked": {"keypoints", "descriptors"}, "lightglue": {"matches0"}}


_CPU = Path("/proc/cpuinfo").read_text()
EXACT = pytest.mark.skipif(
    platform.machine() == "x86_64" and "vnni" not in _CPU, reason="without VNNI, x86-64 saturates sums of int8 products"
)


@pytest.fixture(scope="session")
def tools():
    return OnnxPrecision(lambda: OnnxRuntime().version)


@pytest.fixture
def feed(pictures):
    """feed(kind, seed): eight input samples."""

    def make(kind, seed):
        if kind == "lightglue":
            return synthetic_inputs(SHAPES[kind], 8, seed)
        whole = pictures(16, SHAPES[kind]["image"][2])
        return {"image": whole[8 * seed : 8 * seed + 8]}

    return make


@pytest.fixture
def brought(model_file, tools, feed, tmp_path):
    """brought(kind, precision): the spec with the prepared file, and the reference's outputs for other samples."""

    def make(kind, precision, overrides=(), *, opset=17, symmetric=True):
        small = {"depth": 6, "width": 96, "heads": 3, "side": 56} if kind == "vit" else {}
        path = model_file(kind, opset, **small)
        spec = BackboneSpec(kind, "auxiliary", path, SHAPES[kind], precision, precision_overrides=overrides)
        probe, target = tmp_path / "probe.onnx", tmp_path / "prepared.onnx"
        tools.probe(spec, probe)
        with OnnxRuntime().reference(probe) as engine:
            ranges = merged({}, tools.ranges(engine.run(feed(kind, 0))))
        tools.prepare(spec, ranges, target, symmetric=symmetric)
        with OnnxRuntime().reference(path) as reference:
            return replace(spec, onnx_path=target), reference.run(feed(kind, 1))

    return make


def least(kind, found, expected):
    """Return the smallest cosine of the outputs that do not depend on the order of points."""
    assert found.keys() == expected.keys()
    names = found.keys() - RANKED.get(kind, set())
    return min(float(cosines(found[name], expected[name]).min()) for name in names)


@pytest.mark.parametrize("kind", sorted(SHAPES))
@pytest.mark.parametrize("opset", [13, 20])
def test_fp16_agrees_with_the_model(brought, feed, kind, opset):
    spec, expected = brought(kind, "fp16", opset=opset)
    with OnnxRuntime().reference(spec.onnx_path) as engine:
        assert least(kind, engine.run(feed(kind, 1)), expected) > 0.9999


@EXACT
@pytest.mark.parametrize("kind", ["vit", "aliked"])
@pytest.mark.parametrize("make", [OnnxRuntime, OpenVinoRuntime])
def test_int8_agrees_with_the_model(brought, feed, tmp_path, kind, make):
    """OpenVINO agrees as well. It computed ONNX Runtime's default quantisation and signed convolutions differently."""
    spec, expected = brought(kind, "int8", symmetric=False)
    asked = CompileRequest(spec.onnx_path, spec.inputs, "int8", 256, 8)
    make().compile(asked, tmp_path / "engine")
    with make().load(tmp_path / "engine", asked) as engine:
        assert 0.995 < least(kind, engine.run(feed(kind, 1)), expected) < 0.99999


@EXACT
@pytest.mark.skipif(platform.machine() != "x86_64", reason="seen on x86-64")
def test_openvino_computes_signed_convolutions_differently(brought, feed, tmp_path):
    """This is why int8 is signed only for TensorRT. If this test fails, OpenVINO has been fixed."""
    spec, expected = brought("aliked", "int8")
    asked = CompileRequest(spec.onnx_path, spec.inputs, "int8", 256, 8)
    OpenVinoRuntime().compile(asked, tmp_path / "engine")
    with OpenVinoRuntime().load(tmp_path / "engine", asked) as engine:
        assert least("aliked", engine.run(feed("aliked", 1)), expected) < 0.99
    with OnnxRuntime().reference(spec.onnx_path) as engine:
        assert least("aliked", engine.run(feed("aliked", 1)), expected) > 0.998


@pytest.mark.parametrize(
    ("kind", "precision", "overrides"),
    [
        ("vit", "fp16", ()),
        ("vit", "int8", ()),
        ("vit", "int8", MIXED),
        ("aliked", "fp16", ()),
        ("aliked", "int8", MIXED),
        ("lightglue", "fp16", (("*Softmax*", "fp32"),)),
    ],
)
def test_tensorrt_builds_the_prepared_files(brought, feed, tmp_path, kind, precision, overrides):
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this machine")
    spec, expected = brought(kind, precision, overrides)
    asked = CompileRequest(spec.onnx_path, spec.inputs, precision, 256, 8)
    TensorRtRuntime(TENSORRT_RTX).compile(asked, tmp_path / "engine")
    assert f"preflight:{precision}".encode() in (tmp_path / "engine").read_bytes()
    with OnnxRuntime().reference(spec.onnx_path) as engine:
        assert least(kind, engine.run(feed(kind, 1)), expected) > 0.99


@pytest.fixture
def orin():
    """A compiler as on an Orin. It uses TensorRT-RTX, which needs no GPU to build."""
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this machine")
    choice = RuntimeChoice(RUNTIMES.named("tensorrt"), "10.3", lambda: TensorRtRuntime(TENSORRT_RTX), gpu=True)
    host = HostCapabilities("aarch64", "neon", sm="87", jetpack="6.2")
    return EngineCompiler(choice, host, onnx_models(), workspace_mb=256, batch_size=4)


@pytest.mark.parametrize(("kind", "precision"), [("vit", "int8"), ("lightglue", "fp16")])
def test_a_build_for_tensorrt_calibrates_writes_and_compiles(orin, model_file, tmp_path, kind, precision):
    """Calibrates on tiles, or on synthetic inputs for a model without an image input."""
    layout = CacheLayout(tmp_path / "cache")
    layout.calibration_sample.parent.mkdir(parents=True)
    low = np.random.default_rng(4).integers(0, 256, size=(9, 8, 8, 3), dtype=np.uint8)
    np.save(layout.calibration_sample, np.kron(low, np.ones((1, 8, 8, 1), np.uint8)))
    small = {"depth": 2, "width": 96, "heads": 3, "side": 56} if kind == "vit" else {}
    spec = BackboneSpec(kind, "auxiliary", model_file(kind, 17, **small), SHAPES[kind], precision)
    digests = DigestCache(layout.digests)
    preparation = Preparation(
        spec, layout, orin, digests, lambda: images, precision_tools, ("onnxruntime 1", "all 1"), recalibrate=False
    )
    tracer = Tracer(digests, atomic_write)
    steps = (
        inspect_step(spec, layout, orin, digests),
        *preparation.steps(),
        compile_step(spec, layout, orin, digests, RunLog()),
    )
    for step in steps:
        assert not tracer.judge(step).current
        tracer.run(step)
    assert all(tracer.judge(step).current for step in steps)
    (engine,) = layout.engines.glob("*.engine")
    assert engine.name == f"{kind}__sm87_jp6.2_trt10.3_{precision}.engine"
    assert f"preflight:{precision}".encode() in engine.read_bytes()
    table = CalibrationTable.decode(table_path(spec, layout).read_bytes(), "table")
    assert (table.samples, table.key.sample == "32 drawn from seed 2") == ((9, False) if kind == "vit" else (32, True))
    assert prepared_path(spec, layout, orin).is_file()
    # The temporary model that outputs all tensors is removed.
    assert sorted(path.name for path in layout.calibration.iterdir()) == [f"{kind}.json", f"{kind}.json.record.json"]


def test_a_diagnostic_compilation_calibrates_without_tiles(orin, model_file, tmp_path):
    provisioner = CacheProvisionerImpl(None, orin, None, None, None, None)
    spec = BackboneSpec("aliked", "auxiliary", model_file("aliked"), SHAPES["aliked"], "fp16")
    (entry,) = provisioner.compile_engines_for_corpus([spec], tmp_path)
    assert entry.path.name == "aliked__sm87_jp6.2_trt10.3_fp16.engine"
    assert b"preflight:fp16" in entry.path.read_bytes()
