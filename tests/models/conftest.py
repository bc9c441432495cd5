"""ONNX files of real architectures, built once in a session, and inputs for them."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.adapters.openvino.runtime import OpenVinoRuntime
from preflight.ports import CompileRequest, InferenceRuntime

SHAPES = {
    "vit": {"image": (1, 3, 224, 224)},
    "tiny_vit": {"image": (1, 3, 56, 56)},
    "aliked": {"image": (1, 3, 64, 64)},
    "aliked_sampled": {"image": (1, 3, 64, 64)},
    "lightglue": {
        "keypoints0": (1, 20, 2),
        "keypoints1": (1, 30, 2),
        "descriptors0": (1, 20, 32),
        "descriptors1": (1, 30, 32),
    },
}


@pytest.fixture(scope="session")
def architectures() -> ModuleType:
    """Load `architectures.py` from this folder. The tests are not a package."""
    path = Path(__file__).with_name("architectures.py")
    spec = importlib.util.spec_from_file_location("preflight_tests_architectures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def model_file(architectures: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """model_file(kind, opset, external=False, **changes): the path of an ONNX file.

    Equal arguments give the same file.
    """
    made: dict[object, Path] = {}

    def make(kind: str, opset: int = 17, *, external: bool = False, **changes: object) -> Path:
        key = (kind, opset, external, *sorted(changes.items()))
        if key not in made:
            function = getattr(architectures, kind.removesuffix("_sampled"))
            more = {"sampled": True} if kind.endswith("_sampled") else {}
            path = tmp_path_factory.mktemp("architectures") / f"{kind}_{opset}.onnx"
            beside = {"save_as_external_data": True, "location": f"{kind}.data", "size_threshold": 1024}
            onnx.save(function(opset, **more, **changes), str(path), **(beside if external else {}))
            made[key] = path
        return made[key]

    return make


@pytest.fixture
def request_for() -> Callable[..., CompileRequest]:
    def make(kind: str, path: Path, **changes: object) -> CompileRequest:
        values = {"inputs": SHAPES[kind], "precision": "fp32", "workspace_mb": 256, "batch_size": 8}
        return CompileRequest(onnx_path=path, **(values | changes))

    return make


@pytest.fixture
def pictures() -> Callable[[int, int], np.ndarray]:
    """pictures(count, side): smooth random images in the range of normalised pixels."""

    def make(count: int, side: int) -> np.ndarray:
        low = np.random.default_rng(side).normal(size=(count, 3, 7, 7))
        whole = np.kron(low, np.ones((side // 7 + 1, side // 7 + 1)))[..., :side, :side]
        return whole.astype(np.float32)

    return make


@pytest.fixture(params=["openvino", "onnxruntime"])
def runtime(request: pytest.FixtureRequest) -> InferenceRuntime:
    return {"openvino": OpenVinoRuntime, "onnxruntime": OnnxRuntime}[request.param]()
