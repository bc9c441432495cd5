"""Every name of TensorRT that the adapter uses exists in TensorRT 10.3, in 11.4 and in TensorRT-RTX.

The names are read from the adapter's source. PyPI has the bindings of both versions as wheels, but not the native
libraries below them. To import the bindings, fake libraries with the right symbols are enough.
`PREFLIGHT_TENSORRT_WHEELS` names the folder with the downloaded wheels of tensorrt-cu12-bindings 10.3 and
tensorrt-cu13-bindings 11.4.
"""

from __future__ import annotations

import ast
import json
import os
import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from preflight.adapters.tensorrt import engine, library, network

ADAPTERS = Path(library.__file__).parent
MODULE = ""
# file -> function, or "" for the whole file -> variable -> the TensorRT class of its value.
VARIABLES = {
    "build.py": {
        "": {
            "library": MODULE,
            "builder": "Builder",
            "network": "INetworkDefinition",
            "parser": "OnnxParser",
            "config": "IBuilderConfig",
            "profile": "IOptimizationProfile",
            "tensor": "ITensor",
            "layer": "ILayer",
            "mine": "ITimingCache",
        },
        "_node_error": {"error": "ParserError"},
    },
    "engine.py": {
        "__init__": {"library": MODULE, "engine": "ICudaEngine"},
        "_execute": {"context": "IExecutionContext"},
        "_output_shape": {"self._context": "IExecutionContext"},
    },
    "library.py": {"": {"library": MODULE}},
    "runtime.py": {"_opened": {"library": MODULE, "runtime": "Runtime", "deserialised": "ICudaEngine"}},
}
SYMBOLS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip

PROBE = """
import importlib, json, sys, warnings
warnings.simplefilter("error")
library = importlib.import_module(sys.argv[1])
missing = []
for name in json.loads(sys.argv[2]):
    held = library
    for part in name.split("."):
        held = getattr(held, part, None)
    if held is None:
        missing.append(name)
from preflight.adapters.tensorrt.library import Words, capturing_logger, error_recorder
words = Words()
logger, recorder = capturing_logger(library, words), error_recorder(library, words)
logger.log(library.ILogger.Severity.ERROR, "heard")
recorder.report_error(library.ErrorCodeTRT.FAILED_ALLOCATION, "recorded")
failed = None
if len(sys.argv) > 3:
    try:
        library.Builder(logger)
    except TypeError as error:
        failed = str(error)
device_memory = library.IExecutionContext.set_device_memory.__doc__
context = library.ICudaEngine.create_execution_context.__doc__
print(json.dumps({
    "version": library.__version__, "missing": missing, "words": str(words), "failed": failed,
    "signatures": ["memory: " in device_memory and "size: " in device_memory, "strategy: " in context],
}))
"""


def _dotted(node):
    """Return the text of a chain of attributes that begins with a plain name; None for anything else."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else None


def _used(tree, variables):
    """Yield the names that the code below a node reads from the variables."""
    for node in ast.walk(tree):
        chain = _dotted(node) if isinstance(node, ast.Attribute) else None
        for variable, owner in variables.items():
            if chain is not None and chain.startswith(f"{variable}."):
                rest = chain[len(variable) + 1 :]
                yield rest if owner == MODULE else f"{owner}.{rest.partition('.')[0]}"


def _names():
    found = set()
    for file, functions in VARIABLES.items():
        tree = ast.parse((ADAPTERS / file).read_text())
        for function, variables in functions.items():
            scopes = [tree] if not function else [
                node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function
            ]  # fmt: skip
            found |= {name for scope in scopes for name in _used(scope, variables)}
    types = {*engine._DTYPES, *network._NEUTRAL, "BF16"}
    types |= {kind for allowed, _ in network._TYPES.values() for kind in allowed}
    found |= {f"DataType.{kind}" for kind in types}
    found |= {f"LayerType.{kind}" for kind in network._QUANTISING}
    found |= {f"ILogger.Severity.{kind}" for kind in library._LOUD}
    overridden = ("num_errors", "get_error_code", "get_error_desc", "has_overflowed", "clear", "report_error")
    return found | {"ILogger.log", *(f"IErrorRecorder.{name}" for name in overridden)}


def _probed(module, names, environment, *flags):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, module, json.dumps(sorted(names)), *flags],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _path(*first):
    return os.pathsep.join([*map(str, first), *(entry for entry in sys.path if entry)])


@pytest.fixture(scope="session")
def bindings(tmp_path_factory, compile_library):
    """bindings(wheel, major): the environment in which the bindings of one version can be imported."""

    def unpack(wheel_name, major):
        folder = os.environ.get("PREFLIGHT_TENSORRT_WHEELS")
        if not folder:
            pytest.skip("PREFLIGHT_TENSORRT_WHEELS names no folder with TensorRT's bindings")
        tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
        wheels = sorted(Path(folder).glob(f"{wheel_name}*-{tag}-*{platform.machine()}.whl"))
        if not wheels:
            pytest.skip(f"no {wheel_name} wheel for {tag} on {platform.machine()} in {folder}")
        root = tmp_path_factory.mktemp(f"bindings{major}")
        with zipfile.ZipFile(wheels[-1]) as wheel:
            wheel.extractall(root)
        source = root / "stand_in.c"
        source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in SYMBOLS))
        for name in ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin"):
            compile_library(source, root / f"{name}.so.{major}", f"-Wl,-soname,{name}.so.{major}")
        return {"LD_LIBRARY_PATH": str(root), "PYTHONPATH": _path(root)}

    return unpack


def test_the_names_are_found_in_the_source():
    names = _names()
    assert len(names) > 70
    assert {
        "Builder.build_serialized_network",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "MemoryPoolType.WORKSPACE",
        "OnnxParser.parse_from_file",
        "ParserError.node_operator",
        "IBuilderConfig.add_optimization_profile",
        "IOptimizationProfile.set_shape",
        "ITimingCache.combine",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.create_execution_context",
        "ExecutionContextAllocationStrategy.USER_MANAGED",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.get_tensor_shape",
        "init_libnvinfer_plugins",
        "__version__",
    } <= names


@pytest.mark.parametrize(
    ("wheel", "major", "version"),
    [("tensorrt_cu12_bindings-10.3", 10, "10.3."), ("tensorrt_cu13_bindings-11.4", 11, "11.4.")],
)
def test_tensorrt_has_every_name(bindings, wheel, major, version):
    found = _probed("tensorrt_bindings", _names(), bindings(wheel, major), "nothing behind it")
    assert found["version"].startswith(version)
    assert found["missing"] == []
    assert found["words"] == "ERROR: heard; FAILED_ALLOCATION: recorded"
    assert found["signatures"] == [True, True]
    # This is the error by which the adapter recognises that a native factory returned nothing.
    assert "factory function returned nullptr" in found["failed"]


def test_tensorrt_rtx_has_every_name():
    pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX has no wheel for this machine")
    found = _probed("tensorrt_rtx_bindings", {*_names(), "Builder.no_such_name"}, {"PYTHONPATH": _path()})
    assert found["missing"] == ["Builder.no_such_name"]
    assert found["words"] == "ERROR: heard; FAILED_ALLOCATION: recorded"
