"""The mission template for a Jetson Orin: valid on an Orin, and refused elsewhere with the correct reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from preflight.errors import EngineBuildError
from preflight.mission.loading import load_mission
from preflight.records import HostCapabilities
from preflight.wiring.factories import engine_compiler

TEMPLATES = Path(__file__).resolve().parents[4] / "cache_templates"
ORIN = HostCapabilities("aarch64", "neon", "87", "6.2")
DESK = HostCapabilities("x86_64", "avx2")


@pytest.fixture
def job(tmp_path):
    """The job of the template, with the files of the operator in place."""
    (tmp_path / "mission.yaml").write_bytes((TEMPLATES / "jetson-orin.yaml").read_bytes())
    (tmp_path / "camera.json").write_text("{}")
    (tmp_path / "models").mkdir()
    for name in ("ultra_vpr", "aliked", "lightglue"):
        (tmp_path / "models" / f"{name}.onnx").write_bytes(b"")
    return load_mission(tmp_path / "mission.yaml", {}).job


@pytest.fixture
def jetpacks_own(tmp_path, monkeypatch):
    """The installer's record of the TensorRT in JetPack 6.2."""
    record = tmp_path / "tensorrt-10.3.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: tensorrt\nVersion: 10.3.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("jetpacks_own")
def test_on_an_orin_the_names_of_the_engines_contain_it(job):
    compiler = engine_compiler(job.config, ORIN, {})
    assert [str(compiler.name(spec)) for spec in job.backbones] == [
        f"{model}__sm87_jp6.2_trt10.3.0_fp16.engine" for model in ("ultra_vpr", "aliked", "lightglue")
    ]
    assert job.descriptor.model_name == "ultra_vpr"


def test_without_tensorrt_the_error_says_how_to_install_it(job):
    with pytest.raises(EngineBuildError, match=r"\[gpu,tensorrt\].*on a Jetson.*--system-site-packages"):
        engine_compiler(job.config, ORIN, {})


@pytest.mark.usefixtures("jetpacks_own")
def test_without_a_gpu_it_is_refused_and_no_other_runtime_is_used(job):
    with pytest.raises(EngineBuildError, match="builds for this machine's GPU, and no GPU was found"):
        engine_compiler(job.config, DESK, {})


@pytest.mark.usefixtures("jetpacks_own")
def test_if_tensorrt_is_forbidden_the_error_names_the_gate(job):
    with pytest.raises(EngineBuildError, match="BUILD_TENSORRT_RUNTIME=0"):
        engine_compiler(job.config, ORIN, {"BUILD_TENSORRT_RUNTIME": "0"})
