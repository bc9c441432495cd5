"""The two sides of the comparison: each runtime behind the port, and the same runtime bare, as its vendor documents it.

A `Burst` computes all prepared batches to numpy results and returns the last result. Both sides use the same engine
file and the same options, so that only the port differs.
"""

# ruff: noqa: PLC0415, ANN401 - PyTorch is optional: functions that need it import it. OpenVINO ships no types
from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preflight.adapters.onnxruntime import runtime as port_onnxruntime
from preflight.adapters.openvino import library as openvino_library
from preflight.adapters.openvino import runtime as port_openvino
from preflight.ports import CompileRequest, Engine, InferenceRuntime, QueueingEngine
from preflight.wiring import runtime_choice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Batch = NDArray[np.float32]
    Burst = Callable[[Sequence[Batch]], Batch]

INPUT, OUTPUT = "image", "descriptor"
SIDE = 224
CORES = len(os.sched_getaffinity(0))
HINTS = {"fp32": "f32", "bf16": "bf16"}


def runtime(name: str) -> InferenceRuntime:
    """Return a runtime, created as for a provision."""
    return runtime_choice(name).make()


def request(model: Path, precision: str, batch: int) -> CompileRequest:
    return CompileRequest(model, {INPUT: (1, 3, SIDE, SIDE)}, precision, 1024, batch)


def library(name: str) -> Any:
    """Return the vendor's package, imported without telemetry, as the adapter imports it."""
    if name == "openvino":
        return openvino_library.library()
    if name == "onnxruntime":
        return port_onnxruntime._library()
    from preflight.adapters.pytorch.runtime import _library

    return _library()


# Behind the port


def port_run(engine: Engine) -> Burst:
    def burst(batches: Sequence[Batch]) -> Batch:
        for batch in batches:
            outputs = engine.run({INPUT: batch})
        return outputs[OUTPUT]

    return burst


def port_queue(engine: QueueingEngine) -> Burst:
    def burst(batches: Sequence[Batch]) -> Batch:
        pending = 0
        for batch in batches:
            if pending == engine.depth:
                engine.collect()
                pending -= 1
            engine.submit({INPUT: batch})
            pending += 1
        for _ in range(pending):
            outputs = engine.collect()
        return outputs[OUTPUT]

    return burst


# Bare


def bare_openvino(engine: Path, precision: str) -> Burst:
    """Return the loop of OpenVINO's sample sync_benchmark, with the engine file and the properties of the adapter."""
    openvino = library("openvino")
    properties = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    model = openvino.Core().import_model(
        engine.read_bytes(), "CPU", {**properties, "INFERENCE_PRECISION_HINT": HINTS[precision]}
    )
    infer = model.create_infer_request()

    def burst(batches: Sequence[Batch]) -> Batch:
        for batch in batches:
            result = infer.infer({INPUT: batch}, share_inputs=True, share_outputs=True)
        return result[0].copy()

    return burst


def bare_openvino_queue(engine: Path, precision: str, streams: int, depth: int) -> Burst:
    """Return the loop of OpenVINO's sample throughput_benchmark. It copies each result when its request ends."""
    openvino = library("openvino")
    properties = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": streams, "ENABLE_CPU_PINNING": False}
    model = openvino.Core().import_model(
        engine.read_bytes(), "CPU", {**properties, "INFERENCE_PRECISION_HINT": HINTS[precision]}
    )
    queue = openvino.AsyncInferQueue(model, depth)
    results: dict[int, Batch] = {}  # requests may end in any order
    queue.set_callback(lambda infer, number: results.update({number: infer.get_output_tensor(0).data.copy()}))

    def burst(batches: Sequence[Batch]) -> Batch:
        for number, batch in enumerate(batches):
            queue.start_async({INPUT: batch}, number, share_inputs=True)
        queue.wait_all()
        return results[len(batches) - 1]

    return burst


def bare_onnxruntime(model: Path, *, defaults: bool) -> Burst:
    """Return a loop of ONNX Runtime. defaults: use its default options, such as spinning threads, not the adapter's."""
    onnxruntime = library("onnxruntime")
    options = onnxruntime.SessionOptions()
    if not defaults:
        options.intra_op_num_threads = CORES
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def burst(batches: Sequence[Batch]) -> Batch:
        for batch in batches:
            (result,) = session.run([OUTPUT], {INPUT: batch})
        return result

    return burst


def bare_pytorch(module: Callable[[Any], Any]) -> Burst:
    torch = library("pytorch_fp16")

    def burst(batches: Sequence[Batch]) -> Batch:
        with torch.inference_mode():
            for batch in batches:
                outputs = module(torch.from_numpy(batch))
                result = (outputs[0] if isinstance(outputs, (tuple, list)) else outputs).float().numpy()
        return result

    return burst


def exported_module(engine: Path) -> Callable[[Any], Any]:
    """Return the exported program in an engine file of the adapter."""
    from preflight.adapters.pytorch.archive import unpack

    return unpack(engine.read_bytes(), str(engine))[0].module()


# Both


def port(name: str, model: Path, precision: str, engine: Path, batch: int, *, queue: bool) -> Burst:
    loaded = runtime(name).load(engine, request(model, precision, batch))
    if not queue:
        return port_run(loaded)
    if not isinstance(loaded, QueueingEngine):
        raise SystemExit(f"the adapter of {name} has no queue")
    return port_queue(loaded)


def bare(name: str, precision: str, engine: Path, *, queue: bool) -> Burst:
    if name == "onnxruntime":
        return bare_onnxruntime(engine, defaults=False)
    if name == "pytorch_fp16":
        return bare_pytorch(exported_module(engine))
    if not queue:
        return bare_openvino(engine, precision)
    streams = min(port_openvino._STREAMS, CORES)
    return bare_openvino_queue(engine, precision, streams, streams + 1)
