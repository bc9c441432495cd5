"""The complete path on a real GPU: build, load, run, and compare with ONNX Runtime in fp32."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.adapters.tensorrt.cuda import NoDeviceError, open_device
from preflight.adapters.tensorrt.runtime import TENSORRT, TENSORRT_RTX, TensorRtRuntime
from preflight.engine.parity import check_parity

MATCHER = {"left": (1, 12, 16), "right": (1, 20, 16)}


@pytest.fixture(params=[TENSORRT, TENSORRT_RTX], ids=["tensorrt", "tensorrt_rtx"])
def gpu(request, tmp_path):
    try:
        device = open_device()
    except NoDeviceError as error:
        pytest.skip(f"no GPU here: {error}")
    if importlib.util.find_spec(request.param.module) is None:
        pytest.skip(f"{request.param.title} is not installed here")
    return TensorRtRuntime(request.param, sm=device.sm, timings=tmp_path / "timings")


@pytest.mark.parametrize("model", ["fp32", "fixed", "fp16", "int8"])
def test_an_engine_agrees_with_the_reference(gpu, models, request_for, tmp_path, model):
    precision = model if model in ("fp16", "int8") else "fp32"
    asked = request_for(models[model], precision=precision)
    gpu.compile(asked, tmp_path / "engine")
    feed = {"image": np.random.default_rng(5).uniform(-1, 1, size=(8, 3, 8, 8)).astype(np.float32)}
    with gpu.load(tmp_path / "engine", asked) as engine, OnnxRuntime().reference(models[model]) as reference:
        report = check_parity(model, engine.run, reference.run, feed, precision=precision, batch_size=2)
        assert report.sample_count == 8
        counts = (2, 4) if model == "fixed" else (1, 3, 4)
        assert [len(engine.run({"image": feed["image"][:count]})["y"]) for count in counts] == list(counts)


def test_two_inputs_agree_with_the_reference(gpu, models, request_for, tmp_path):
    asked = request_for(models["two_inputs"], inputs=MATCHER)
    gpu.compile(asked, tmp_path / "engine")
    random = np.random.default_rng(5)
    feed = {name: random.normal(size=(4, *shape[1:])).astype(np.float32) for name, shape in MATCHER.items()}
    with (
        gpu.load(tmp_path / "engine", asked) as engine,
        OnnxRuntime().reference(models["two_inputs"]) as reference,
    ):
        np.testing.assert_allclose(engine.run(feed)["scores"], reference.run(feed)["scores"], atol=1e-3)


def test_a_damaged_engine_is_refused_with_words(gpu, models, request_for, tmp_path):
    from preflight.errors import EngineBuildError

    (tmp_path / "engine").write_bytes(b"garbage" * 999)
    with pytest.raises(EngineBuildError, match=r"engine: .*ERROR"):
        gpu.load(tmp_path / "engine", request_for(models["fp32"]))
