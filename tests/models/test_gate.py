"""The parity gate as a build runs it: it compares an engine with its ONNX file, and refuses a wrong engine."""

from __future__ import annotations

import json
import logging
import platform
from dataclasses import replace

import numpy as np
import onnx
import pytest

from preflight.adapters import images
from preflight.adapters.onnxruntime import runtime as onnxruntime
from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.adapters.openvino.runtime import OpenVinoRuntime
from preflight.engine.compiler import EngineCompiler
from preflight.engine.parity import check_parity, cosines
from preflight.engine.runtime_choice import RuntimeChoice
from preflight.engine.runtimes import RUNTIMES
from preflight.errors import ParityError
from preflight.records import BackboneSpec, HostCapabilities, Preprocessing
from preflight.report.run_log import RunLog
from preflight.stages.engines import compile_step, inspect_step
from preflight.stages.parity_gate import parity_path, parity_step
from preflight.store.cache_layout import CacheLayout
from preflight.trace.digests import DigestCache
from preflight.wiring.libraries import onnx_models

IMAGENET = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
SHAPES = {
    "tiny_vit": {"image": (1, 3, 56, 56)},
    "aliked": {"image": (1, 3, 64, 64)},
    "lightglue": {
        "keypoints0": (1, 20, 2),
        "keypoints1": (1, 30, 2),
        "descriptors0": (1, 20, 32),
        "descriptors1": (1, 30, 32),
    },
}


@pytest.fixture
def layout(tmp_path):
    """A cache root with a sample of tiles."""
    layout = CacheLayout(tmp_path / "cache")
    for folder in (layout.engines, layout.onnx, layout.parity_sample.parent, layout.work / "parity"):
        folder.mkdir(parents=True, exist_ok=True)
    low = np.random.default_rng(4).integers(0, 256, size=(6, 8, 8, 3), dtype=np.uint8)
    np.save(layout.parity_sample, np.kron(low, np.ones((1, 8, 8, 1), np.uint8)))
    return layout


@pytest.fixture
def gate(layout):
    """gate(spec, runtime): run the steps inspect, compile and parity of a build.

    Returns the parity report and components.
    """

    def run(spec, runtime):
        choice = RuntimeChoice(RUNTIMES.named(runtime.name), runtime.version, lambda: runtime)
        host = HostCapabilities(platform.machine(), "avx2")
        compiler = EngineCompiler(choice, host, onnx_models(), workspace_mb=256, batch_size=4)
        digests = DigestCache(layout.digests)
        inspect_step(spec, layout, compiler, digests).build()
        compile_step(spec, layout, compiler, digests, RunLog()).build()
        step = parity_step(spec, layout, compiler, digests, lambda: images, "1")
        step.build()
        return json.loads(parity_path(spec, layout).read_bytes()), step.components()

    return run


def _spec(kind, path, **changes):
    return replace(BackboneSpec(kind, "auxiliary", path, SHAPES[kind], "fp32", IMAGENET), **changes)


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_a_build_gates_every_kind(gate, runtime, model_file, kind):
    record, components = gate(_spec(kind, model_file(kind)), runtime)
    assert record["samples"] == 6
    assert record["threshold"] == components["threshold"] == "0.99999"
    assert float(record["cosine_min"]) >= 0.99999


def test_a_mission_can_set_the_threshold_of_one_model(gate, layout, runtime, model_file):
    spec = _spec("tiny_vit", model_file("tiny_vit"))
    record, components = gate(replace(spec, parity_cosine=0.995), runtime)
    assert record["threshold"] == components["threshold"] == "0.995"
    parity_path(spec, layout).unlink()
    with pytest.raises(ParityError, match=r"at least 1\.5 is needed"):
        gate(replace(spec, parity_cosine=1.5), runtime)
    assert not parity_path(spec, layout).exists()


def test_an_engine_of_other_weights_is_refused(gate, layout, model_file, runtime):
    spec = _spec("aliked", model_file("aliked"))
    gate(spec, runtime)
    host = HostCapabilities(platform.machine(), "avx2")
    choice = RuntimeChoice(RUNTIMES.named(runtime.name), runtime.version, lambda: runtime)
    compiler = EngineCompiler(choice, host, onnx_models(), workspace_mb=256, batch_size=4)
    engine = layout.engines / str(compiler.name(spec))
    engine.unlink()
    compiler.compile(replace(spec, onnx_path=model_file("aliked", seed=9)), engine)
    with pytest.raises(ParityError, match=r"aliked__cpu-avx2.*output \w+: cosine"):
        parity_step(spec, layout, compiler, DigestCache(layout.digests), lambda: images, "1").build()


class _Calibration:
    """Gives samples to ONNX Runtime's quantiser, four at a time."""

    def __init__(self, samples):
        self._left = iter([{"image": samples[at : at + 4]} for at in range(0, len(samples), 4)])

    def get_next(self):
        return next(self._left, None)


@pytest.fixture(scope="session")
def quantised(model_file, tmp_path_factory):
    """quantised(kinds): a ViT of six blocks, and the same model with these operators quantised."""
    onnxruntime._library()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    CalibrationDataReader.register(_Calibration)
    source = model_file("vit", depth=6, width=96, heads=3, side=56)
    low = np.random.default_rng(0).normal(size=(16, 3, 7, 7))
    samples = np.kron(low, np.ones((8, 8))).astype(np.float32)

    def make(kinds):
        target = tmp_path_factory.mktemp("quantised") / "vit.onnx"
        logging.disable(logging.WARNING)  # the tool recommends a preparation that this test does not need
        try:
            quantize_static(
                str(source),
                str(target),
                _Calibration(samples),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(kinds),
            )
        finally:
            logging.disable(logging.NOTSET)
        assert "QuantizeLinear" in {node.op_type for node in onnx.load(str(target)).graph.node}
        return source, target, {"image": samples}

    return make


@pytest.mark.skipif(platform.machine() != "x86_64", reason="OpenVINO reads Q/DQ so on x86-64")
def test_a_runtime_that_interprets_a_quantised_file_differently_is_refused(quantised, request_for, tmp_path):
    """OpenVINO runs ONNX Runtime's Q/DQ model without an error, but its outputs differ from those of ONNX Runtime."""
    source, target, feed = quantised(("MatMul", "Conv"))
    asked, engine = request_for("tiny_vit", target), tmp_path / "engine"
    OpenVinoRuntime().compile(asked, engine)
    with OpenVinoRuntime().load(engine, asked) as built, OnnxRuntime().reference(target) as reference:
        apart = cosines(built.run(feed)["descriptor"], reference.run(feed)["descriptor"]).min()
        assert apart < 0.9999
        with pytest.raises(ParityError, match="output descriptor: cosine"):
            check_parity("vit", built.run, reference.run, feed, precision="fp32", batch_size=16)
    # ONNX Runtime's outputs of the same file pass at the threshold of int8.
    OnnxRuntime().compile(asked, engine)
    with OnnxRuntime().load(engine, asked) as built, OnnxRuntime().reference(source) as reference:
        assert check_parity("vit", built.run, reference.run, feed, precision="int8", batch_size=16).cosine_min < 0.9999


def test_a_badly_quantised_file_is_refused_by_every_runtime(runtime, quantised, request_for, tmp_path):
    """Sums are quantised as well.

    The model runs and its outputs look like descriptors, but no threshold accepts them.
    """
    source, target, feed = quantised(("MatMul", "Conv", "Add"))
    asked, engine = request_for("tiny_vit", target), tmp_path / "engine"
    runtime.compile(asked, engine)
    with runtime.load(engine, asked) as built, OnnxRuntime().reference(source) as reference:
        np.testing.assert_allclose(np.linalg.norm(built.run(feed)["descriptor"], axis=1), 1, atol=1e-4)
        for threshold in (None, 0.95):
            with pytest.raises(ParityError, match=r"output descriptor: cosine 0\.[0-8]"):
                check_parity(
                    "vit", built.run, reference.run, feed, precision="int8", batch_size=16, threshold=threshold
                )
