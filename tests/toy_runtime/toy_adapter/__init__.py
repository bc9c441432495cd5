"""A runtime that is not part of preflight: all that is needed to add one.

Its engine is a copy of the ONNX file, which ONNX Runtime computes.
"""

from __future__ import annotations

import shutil

from preflight.adapters.onnxruntime.runtime import OnnxRuntime
from preflight.engine.runtime_choice import InstalledRuntime
from preflight.engine.runtimes import Runtime

ROW = Runtime(
    name="toy_runtime",
    title="The toy",
    tag="toy",
    adapter="toy_adapter",
    extra="cpu,toy",
    place="cpu",
    precisions=("fp32", "int8"),
    prepared=("int8",),
    gate="BUILD_TOY_RUNTIME",
)


def installed(setup):
    return InstalledRuntime(setup.version("toy-library"), ToyRuntime)


class ToyRuntime:
    name = "toy_runtime"
    version = "3.1"

    def compile(self, request, target):
        shutil.copyfile(request.onnx_path, target)

    def load(self, engine, request):
        return OnnxRuntime().reference(engine)
