from __future__ import annotations

import pytest

from preflight.engine.file_names import EngineFilenameSchema, EngineName, model_name_problem
from preflight.engine.runtimes import RUNTIMES, RuntimeTable
from preflight.errors import EngineBuildError
from preflight.records import HostCapabilities, PrecisionMode

_ORIN = HostCapabilities("aarch64", "neon", sm="87", jetpack="6.2")
_DESKTOP = HostCapabilities("x86_64", "avx512", sm="89")
_CPU = HostCapabilities("x86_64", "avx2")
_OPENVINO = RUNTIMES.named("openvino")


@pytest.mark.parametrize(
    ("host", "model", "runtime", "version", "precision", "text"),
    [
        (_ORIN, "ultra_vpr", "tensorrt", "10.3", "fp16", "ultra_vpr__sm87_jp6.2_trt10.3_fp16.engine"),
        (_ORIN, "ultra_vpr", "openvino", "2025.2", "fp32", "ultra_vpr__cpu-neon_openvino2025.2_fp32.engine"),
        (_DESKTOP, "m", "tensorrt", "11.4", "int8", "m__sm89_jpnone_trt11.4_int8.engine"),
        (_DESKTOP, "m", "pytorch_fp16", "2.13.0", "fp16", "m__sm89_jpnone_torch2.13.0_fp16.engine"),
        (_CPU, "m", "pytorch_fp16", "2.13.0", "fp16", "m__cpu-avx2_torch2.13.0_fp16.engine"),
        (_CPU, "light_glue2", "onnxruntime", "1.23.2", "bf16", "light_glue2__cpu-avx2_onnxruntime1.23.2_bf16.engine"),
    ],
)
def test_names_are_formatted_and_parsed(host, model, runtime, version, precision, text):
    row = RUNTIMES.named(runtime)
    name = EngineName.on_host(model, host, row, version, precision, gpu=row.on_gpu(host))
    assert str(name) == text
    assert EngineName.parse(text) == name


@pytest.mark.parametrize("model", ["", "_a", "a_", "a__b", "A", "a-b", "a.b", "a/b", "é", "a b", "a\n", "²", "x" * 101])
def test_model_names_that_would_break_the_schema_are_refused(model):
    assert model_name_problem(model) is not None
    with pytest.raises(EngineBuildError, match="model_name"):
        EngineName(model, _OPENVINO, "1.0", "fp32", isa="avx2")


@pytest.mark.parametrize("model", ["a", "ultra_vpr", "7", "x" * 100])
def test_valid_model_names(model):
    assert model_name_problem(model) is None


@pytest.mark.parametrize(
    "fields",
    [
        {"precision": "fp8"},
        {"version": "10.3-rc1"},
        {"version": ""},
        {"version": "1..2"},
        {"isa": "AVX2"},
        {"isa": "a_b"},
        {"isa": None},
        {"sm": "87"},
        {"jetpack": "6.2"},
        {"isa": None, "sm": "8.7"},
        {"isa": None, "sm": "87", "jetpack": "none"},
        {"isa": None, "sm": "٨"},
    ],
)
def test_fields_that_a_name_cannot_contain_are_refused(fields):
    values = {"model": "m", "runtime": _OPENVINO, "version": "1.0", "precision": "fp32", "isa": "avx2"}
    with pytest.raises(EngineBuildError):
        EngineName(**(values | fields))


def test_tensorrt_needs_a_gpu():
    with pytest.raises(EngineBuildError, match="compute capability"):
        EngineName.on_host("m", _CPU, RUNTIMES.named("tensorrt"), "10.3", "fp16", gpu=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "m.engine",
        "m__cpu-avx2_openvino1.0_fp32",
        "m__cpu-avx2_openvino1.0_fp32.engine.sha256",
        "m__cpu-avx2_openvino1.0_fp32.engine\n",
        "M__cpu-avx2_openvino1.0_fp32.engine",
        "m_cpu-avx2_openvino1.0_fp32.engine",
        "m__cpu-avx2_openvino_fp32.engine",
        "m__cpu-avx2_caffe1.0_fp32.engine",
        "m__cpu-avx2_trt1.0trt1.0_fp32.engine",
        "m__cpu-avx2_openvino1.0_fp64.engine",
        "m__sm87_trt10.3_fp16.engine",
        "m__sm87_jp6.2_trt10.3_fp16.ENGINE",
        "../m__cpu-avx2_openvino1.0_fp32.engine",
    ],
)
def test_other_texts_are_no_names(text):
    with pytest.raises(EngineBuildError, match="not an engine file name"):
        EngineName.parse(text)


@pytest.mark.parametrize("precision", ["fp16", PrecisionMode.FP16])
def test_the_schema_prints_what_it_parses(precision):
    schema = EngineFilenameSchema()
    text = schema.print("ultra_vpr", host=_ORIN, runtime="tensorrt", version="10.3", precision=precision)
    assert text == "ultra_vpr__sm87_jp6.2_trt10.3_fp16.engine"
    parsed = schema.parse(text)
    assert (parsed.model, parsed.runtime.name, parsed.sm, parsed.precision) == ("ultra_vpr", "tensorrt", "87", "fp16")
    assert str(parsed) == text


def test_the_schema_knows_the_runtimes_that_it_is_given():
    text = EngineFilenameSchema().print("m", host=_CPU, runtime="openvino", version="1.0", precision="fp32")
    schema = EngineFilenameSchema(RuntimeTable((RUNTIMES.named("tensorrt"),)))
    with pytest.raises(EngineBuildError, match="is not an engine file name"):
        schema.parse(text)
    with pytest.raises(EngineBuildError, match="runtime openvino is unknown"):
        schema.print("m", host=_CPU, runtime="openvino", version="1.0", precision="fp32")
