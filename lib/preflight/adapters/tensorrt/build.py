"""Builds one TensorRT engine, in a process that was started for it (`compile_process`).

The build has its own process also because native code leaves a CUDA context behind.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preflight.adapters.tensorrt.build_request import Order
from preflight.adapters.tensorrt.cuda import Device, NoDeviceError, open_device
from preflight.adapters.tensorrt.library import Words, capturing_logger, error_recorder, release
from preflight.adapters.tensorrt.network import (
    Profile,
    check_precision,
    engine_label,
    profiles,
    timing_cache_name,
)
from preflight.engine.compile_process import write_engine
from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest
from preflight.store.atomic import atomic_write

__all__ = ["build", "compile_here"]

# These objects live until the end of the process, which destroys none of them.
_ALIVE: list[Any] = []


def build(order: Order, target: Path, words: Words, alive: list[Any]) -> None:
    """Build the engine and write it to `target`.

    Args:
        order: the order.
        target: the file for the engine; it exists.
        words: receives the messages of the library.
        alive: receives the objects that must live longer than this call.

    Raises:
        EngineBuildError: there is no GPU although the library needs one, or TensorRT refuses something.
        OSError: the engine or the timing cache cannot be written.
    """
    device = _device(order)
    library = order.library.imported(order.version)
    logger, recorder = capturing_logger(library, words), error_recorder(library, words)
    alive += [logger, recorder]
    try:
        library.init_libnvinfer_plugins(logger, "")
        builder = library.Builder(logger)
        builder.error_recorder = recorder
        network = builder.create_network(1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = library.OnnxParser(network, logger)
    except TypeError as error:  # the bindings raise it if a native factory returns nothing
        raise EngineBuildError(f"the library does not start: {words}") from error
    alive += [builder, network, parser]
    _parse(parser, order.request.onnx_path)
    check_precision(order.request.precision, *_held(network))
    network.name = engine_label(order.request.precision)
    config = _configured(library, builder, network, order.request, words)
    alive.append(config)
    timings = _Timings.of(order, library, device)
    if timings is not None:
        alive.append(timings.attach(config))
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        hint = " Lower workspace_mb, or build on a machine with more memory." if words.out_of_memory else ""
        raise EngineBuildError(f"{words}{hint}")
    if timings is not None:
        timings.keep(config)
    write_engine(target, plan)


def _device(order: Order) -> Device | None:
    """Return the GPU, before any native code runs that would crash without one."""
    if order.library.builds_without_device:
        return None
    try:
        return open_device(order.cuda)
    except NoDeviceError as error:
        raise EngineBuildError(f"{order.library.title} needs the GPU that will run the engine: {error}") from error


def _parse(parser: Any, onnx: Path) -> None:  # noqa: ANN401 - TensorRT ships no types
    """Read the ONNX file and its weights. The error names every node that TensorRT refuses."""
    if parser.parse_from_file(str(onnx)):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    raise EngineBuildError("; ".join(_node_error(error) for error in errors) or "the ONNX parser gave no reason")


def _node_error(error: Any) -> str:  # noqa: ANN401 - TensorRT ships no types
    said = f"{error.code().name}: {' '.join(error.desc().split())}"
    if error.node() < 0 or not error.node_operator():
        return said
    return f"node {error.node()} {error.node_name()!r}, operator {error.node_operator()}, is refused ({said})"


def _held(network: Any) -> tuple[set[str], set[str]]:  # noqa: ANN401 - TensorRT ships no types
    """Return the names of the types of a network's tensors, and those of its layers."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    tensors = [layer.get_output(index) for layer in layers for index in range(layer.num_outputs)]
    tensors += [network.get_input(index) for index in range(network.num_inputs)]
    return {tensor.dtype.name for tensor in tensors if tensor is not None}, {layer.type.name for layer in layers}


def _configured(library: Any, builder: Any, network: Any, request: CompileRequest, words: Words) -> Any:  # noqa: ANN401 - TensorRT ships no types
    """Return the builder's settings: the workspace, no TF32, and a profile for the dynamic inputs."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    if any(tensor.is_shape_tensor for tensor in inputs):
        raise EngineBuildError(
            "an input is a shape tensor, which decides shapes inside the graph. Export it as a constant."
        )
    config = builder.create_builder_config()
    config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, request.workspace_mb << 20)
    # TF32 is on by default. With it, fp32 convolutions would have only ten bits of mantissa.
    config.clear_flag(library.BuilderFlag.TF32)
    wanted = profiles({tensor.name: tuple(tensor.shape) for tensor in inputs}, request)
    if wanted:
        _add_profile(builder, config, wanted, words)
    return config


def _add_profile(builder: Any, config: Any, wanted: Mapping[str, Profile], words: Words) -> None:  # noqa: ANN401
    profile = builder.create_optimization_profile()
    try:
        for name, shapes in wanted.items():
            profile.set_shape(name, shapes.least, shapes.opt, shapes.most)
    except ValueError as error:
        raise EngineBuildError(f"TensorRT refuses the optimisation profile ({error}): {words}") from error
    if config.add_optimization_profile(profile) < 0:
        raise EngineBuildError(f"TensorRT refuses the optimisation profile: {words}")


class _Timings:
    """The timing cache of one GPU model and TensorRT version.

    It makes the choice of tactics more stable and builds shorter.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, order: Order, library: Any, device: Device | None) -> _Timings | None:  # noqa: ANN401 - no types
        """Return the timing cache; None if the library keeps no timings or the order has no folder for them."""
        if not order.library.keeps_timings or order.timings is None or device is None:
            return None
        return cls(order.timings / timing_cache_name(release(library.__version__), device.sm, device.name))

    def attach(self, config: Any) -> Any:  # noqa: ANN401 - TensorRT ships no types
        """Give the stored timings to the builder.

        If it does not accept the file, warn and start with an empty cache.
        """
        for content in (self._stored(), b""):
            found = config.create_timing_cache(content)
            if found is not None and config.set_timing_cache(found, False):
                return found
            sys.stderr.write(
                f"WARNING: TensorRT does not accept the timing cache {self._path}; starting an empty one\n"
            )
        raise EngineBuildError("TensorRT cannot create a timing cache")

    def keep(self, config: Any) -> None:  # noqa: ANN401 - TensorRT ships no types
        """Write the timings, together with those that another build wrote meanwhile."""
        mine = config.get_timing_cache()
        theirs = config.create_timing_cache(self._stored())
        if theirs is not None:
            mine.combine(theirs, False)
        atomic_write(self._path, bytes(mine.serialize()))

    def _stored(self) -> bytes:
        try:
            return self._path.read_bytes()
        except FileNotFoundError:
            return b""


def compile_here(value: Mapping[str, Any], target: Path) -> None:
    """Do the work that `TensorRtRuntime.compile` ordered, in the process that was started for it.

    Raises EngineBuildError.
    """
    order = Order.of(value)
    words = Words(lambda line: os.write(2, f"{line}\n".encode()))
    try:
        build(order, target, words, _ALIVE)
    except (EngineBuildError, OSError, RuntimeError, MemoryError) as error:
        raise EngineBuildError(f"{order.failure()}: {str(error) or type(error).__name__}") from error
