"""A new runtime needs only one row and one adapter package. No other module has to change."""

from __future__ import annotations

import dataclasses
import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from preflight.engine.file_names import EngineName
from preflight.engine.runtimes import RUNTIMES, RuntimeTable
from preflight.errors import EngineBuildError, MissionError
from preflight.mission.loading import load_mission
from preflight.records import HostCapabilities
from preflight.wiring import runtime_choice
from preflight.wiring.factories import engine_compiler

CPU = HostCapabilities("x86_64", "avx2")
AT = "components.c10_provisioning"


@pytest.fixture
def toy(monkeypatch):
    """Make the adapter package of the toy runtime importable."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "toy_runtime"))
    return import_module("toy_adapter")


@pytest.fixture
def table(toy):
    return RuntimeTable((*RUNTIMES.rows, toy.ROW))


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The installer's record of the toy runtime's library."""
    record = tmp_path / "toy_library-3.1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-library\nVersion: 3.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def load(tmp_path, tiny_onnx):
    """load(table, backbone, **config): read a mission file that uses the toy runtime, with a table of runtimes."""
    (tmp_path / "camera.json").write_text("{}")
    backbone = {
        "model_name": "tiny",
        "role": "descriptor",
        "onnx_path": str(tiny_onnx),
        "input_name": "image",
        "expected_input_shape": [1, 3, 32, 32],
    }

    def run(table, changes=None, **config):
        section = {
            "runtime": "toy_runtime",
            "backbones": [backbone | (changes or {})],
            "manifest": {"signing_mode": "dev", "signing_key": "dev.pem"},
        }
        mission = {
            "version": 1,
            "cache_root": "cache",
            "tile_store": {"root": "tiles"},
            "area": {"bbox": {"lat_min": 0.346, "lon_min": 32.588, "lat_max": 0.352, "lon_max": 32.6}},
            "zoom_levels": [19],
            "sector_class": "stable_rear",
            "calibration": "camera.json",
            "trust": "trust",
            "components": {"c10_provisioning": section | config},
        }
        path = tmp_path / "mission.yaml"
        path.write_text(json.dumps(mission))
        return load_mission(path, {}, table).job

    return run


@pytest.fixture
def refused(load):
    """refused(table, ...): the problems for which the mission is refused."""

    def run(*arguments, **config):
        with pytest.raises(MissionError) as refusal:
            load(*arguments, **config)
        return refusal.value.problems

    return run


# The mission


def test_a_mission_may_name_it_if_the_table_contains_it(load, refused, table):
    assert load(table).config.runtime == "toy_runtime"
    assert load(table, {"runtime": "toy_runtime"}, runtime="openvino").descriptor.runtime == "toy_runtime"
    (problem,) = refused(RUNTIMES)
    assert problem.startswith(f"{AT}.runtime: 'toy_runtime' is not a runtime of this version; say openvino")
    (problem,) = refused(table, runtime="caffe")
    assert problem.endswith("tensorrt, pytorch_fp16 or toy_runtime")


def test_a_mission_may_use_only_its_precisions(load, refused, table):
    assert load(table, {"precision": "int8"}).descriptor.precision == "int8"
    (problem,) = refused(table, {"precision": "bf16"})
    assert problem == (
        f"{AT}.backbones[0].precision: the runtime toy_runtime builds fp32 and int8 engines alone, not bf16; say fp32 or "
        "int8, or choose the runtime openvino or tensorrt"
    )
    (problem,) = refused(table, {"precision": "fp32"}, runtime="pytorch_fp16")
    assert problem.endswith("openvino, onnxruntime, tensorrt or toy_runtime")


def test_its_other_properties_are_applied(load, refused, table):
    (problem,) = refused(table, device="cuda")
    assert problem.startswith(
        f"{AT}.device: is for the runtime onnxruntime alone, not toy_runtime, which runs on the CPU"
    )
    (problem,) = refused(table, {"precision": "int8", "precision_overrides": {"*": "fp16"}})
    assert "the runtime toy_runtime runs what is not int8 in fp32; only tensorrt can" in problem
    able = RuntimeTable((*RUNTIMES.rows, dataclasses.replace(table.named("toy_runtime"), fp16_layers=True)))
    assert load(able, {"precision": "int8", "precision_overrides": {"*": "fp16"}})


# The engine


def test_its_engines_have_its_tag_in_their_names(table, toy):
    text = "tiny__cpu-avx2_toy3.1_int8.engine"
    name = EngineName("tiny", toy.ROW, "3.1", "int8", isa="avx2")
    assert str(name) == text
    assert EngineName.parse(text, table) == name
    with pytest.raises(EngineBuildError, match="is not an engine file name"):
        EngineName.parse(text)


@pytest.mark.usefixtures("installed")
def test_its_engine_is_compiled_loaded_and_run(load, table, tmp_path, images):
    job = load(table, {"precision": "int8"})
    compiler = engine_compiler(job.config, CPU, {}, runtimes=table)
    assert compiler.reads_precision(job.descriptor)
    job = load(table)
    assert not compiler.reads_precision(job.descriptor)
    engine = tmp_path / str(compiler.name(job.descriptor))
    assert engine.name == "tiny__cpu-avx2_toy3.1_fp32.engine"
    compiler.compile(job.descriptor, engine)
    with compiler.load(job.descriptor, engine) as toy, compiler.reference(job.descriptor) as reference:
        found, expected = (which.run({"image": images})["descriptor"] for which in (toy, reference))
    np.testing.assert_array_equal(found, expected)
    components = compiler.components(job.descriptor, {})
    assert (components["runtime"], components["runtime_version"]) == ("toy_runtime", "3.1")


@pytest.mark.usefixtures("installed")
def test_a_backbone_can_choose_it(load, table):
    job = load(table, {"runtime": "toy_runtime"}, runtime="onnxruntime")
    compiler = engine_compiler(job.config, CPU, {}, runtimes=table)
    assert [choice.name for choice in compiler.runtimes()] == ["onnxruntime", "toy_runtime"]
    assert compiler.runtime_of(job.descriptor).version == "3.1"


# Errors


def test_if_its_library_is_missing_the_error_names_the_extra(table):
    with pytest.raises(EngineBuildError, match=r"^The toy is not installed: run pip install -e '\.\[cpu,toy\]'$"):
        runtime_choice("toy_runtime", CPU, {}, runtimes=table)


@pytest.mark.usefixtures("installed")
def test_its_gate_can_forbid_it(table):
    assert runtime_choice("toy_runtime", CPU, {"BUILD_TOY_RUNTIME": "1"}, runtimes=table).version == "3.1"
    with pytest.raises(EngineBuildError, match="runtime toy_runtime is forbidden here by BUILD_TOY_RUNTIME=0"):
        runtime_choice("toy_runtime", CPU, {"BUILD_TOY_RUNTIME": "0"}, runtimes=table)
    with pytest.raises(EngineBuildError, match="BUILD_TOY_RUNTIME is 'no': set it to 1"):
        runtime_choice("toy_runtime", CPU, {"BUILD_TOY_RUNTIME": "no"}, runtimes=table)


@pytest.mark.usefixtures("installed")
def test_a_runtime_that_needs_a_gpu_is_refused_without_one(toy):
    table = RuntimeTable((dataclasses.replace(toy.ROW, place="gpu"),))
    for host in (None, CPU):
        with pytest.raises(EngineBuildError, match=r"builds for this machine's GPU, and no GPU was found.*\[cpu,toy\]"):
            runtime_choice("toy_runtime", host, {}, runtimes=table)
    choice = runtime_choice("toy_runtime", HostCapabilities("x86_64", "avx2", "86"), {}, runtimes=table)
    assert choice.gpu
    assert not choice.aside


@pytest.mark.parametrize(
    ("adapter", "content", "said"),
    [
        ("no_such_adapter", None, "No module named 'no_such_adapter'"),
        ("bare_adapter", "", "has no attribute 'installed'"),
        ("broken_adapter", "import no_such_library", "No module named 'no_such_library'"),
    ],
)
def test_a_missing_or_incomplete_adapter_gives_one_message(toy, tmp_path, monkeypatch, adapter, content, said):
    if content is not None:
        (tmp_path / f"{adapter}.py").write_text(content)
        monkeypatch.syspath_prepend(str(tmp_path))
    table = RuntimeTable((dataclasses.replace(toy.ROW, adapter=adapter),))
    with pytest.raises(EngineBuildError) as refusal:
        runtime_choice("toy_runtime", CPU, {}, runtimes=table)
    text = str(refusal.value)
    assert text.startswith(f"the runtime toy_runtime cannot be used: its adapter {adapter} is not complete (")
    assert said in text
    assert text.endswith("Install preflight again, or choose another runtime")
