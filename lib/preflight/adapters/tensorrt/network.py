"""Compares a network with its request: shapes and precision. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest

__all__ = ["Profile", "check_precision", "engine_label", "profiles", "timing_cache_name"]

Shape = tuple[int, ...]

# Types that say nothing about the precision.
_NEUTRAL = frozenset({"BOOL", "INT32", "INT64", "UINT8"})
# precision -> the types that its tensors may also have, and the type that at least one of them must have.
_TYPES = {
    "fp32": (frozenset({"FLOAT"}), "FLOAT"),
    "fp16": (frozenset({"FLOAT", "HALF"}), "HALF"),
    "bf16": (frozenset({"FLOAT", "BF16"}), "BF16"),
    "int8": (frozenset({"FLOAT", "HALF", "BF16", "INT8"}), "INT8"),
}
_QUANTISING = frozenset({"QUANTIZE", "DEQUANTIZE"})
_ADVICE = {
    "fp32": "Set `precision` to that of the ONNX file, or export it in fp32.",
    "fp16": "Cast the ONNX file to fp16, or set `precision` to that of the file.",
    "bf16": "Cast the ONNX file to bf16, or set `precision` to that of the file.",
    "int8": "Quantise the ONNX file (QuantizeLinear and DequantizeLinear nodes), or set `precision` to that of the file.",
}


@dataclass(frozen=True, slots=True)
class Profile:
    """The range of shapes that an engine supports for one dynamic input. Tactics are chosen for `opt`."""

    least: Shape
    opt: Shape
    most: Shape


def profiles(network: Mapping[str, Shape], request: CompileRequest) -> dict[str, Profile]:
    """Return the profile of every dynamic input.

    The batch ranges from one sample to a whole batch. The other dimensions are those of the request. If the graph has a
    fixed batch size, it stays as it is.

    Args:
        network: input name -> shape; -1 stands for a dynamic dimension.
        request: the request.

    Raises:
        EngineBuildError: the inputs are not those of the request, or their dimensions do not fit.
    """
    if sorted(network) != sorted(request.inputs):
        raise EngineBuildError(f"it has the inputs {sorted(network)}, but the request has {sorted(request.inputs)}")
    found = {}
    for name, shape in network.items():
        asked = request.inputs[name]
        if len(shape) != len(asked) or any(
            size not in (-1, wanted) for size, wanted in zip(shape[1:], asked[1:], strict=True)
        ):
            raise EngineBuildError(f"its input {name} has the shape {list(shape)}, but the request has {list(asked)}")
        if -1 in shape:
            rest = asked[1:]
            first, last = (1, request.batch_size) if shape[0] == -1 else (shape[0], shape[0])
            found[name] = Profile((first, *rest), (last, *rest), (last, *rest))
    return found


def check_precision(precision: str, types: Iterable[str], layers: Iterable[str]) -> None:
    """Compare the requested precision with that of a strongly typed network.

    Args:
        precision: the requested precision.
        types: the names of the tensors' types, as in TensorRT's DataType.
        layers: the names of the layers' types.

    Raises:
        EngineBuildError: they differ. The message says what the network contains.
    """
    if precision not in _TYPES:
        raise EngineBuildError(f"precision {precision} is not supported; set `precision` to one of {', '.join(_TYPES)}")
    held = set(types) - _NEUTRAL
    allowed, needed = _TYPES[precision]
    quantised = not _QUANTISING.isdisjoint(layers)
    if precision == "int8" and not (quantised and needed in held):
        raise EngineBuildError(f"int8 is requested, but the model has no Q/DQ nodes. {_ADVICE[precision]}")
    if precision != "int8" and quantised:
        raise EngineBuildError(f"{precision} is requested, but the model has Q/DQ nodes. {_ADVICE[precision]}")
    if held - allowed:
        raise EngineBuildError(
            f"{precision} is requested, but the model has {', '.join(sorted(held - allowed))} tensors. {_ADVICE[precision]}"
        )
    if needed not in held:
        raise EngineBuildError(f"{precision} is requested, but the model has no {needed} tensors. {_ADVICE[precision]}")


def engine_label(precision: str) -> str:
    """Return the network's name. TensorRT stores it in the engine, which does not record its precision otherwise."""
    return f"preflight:{precision}"


def timing_cache_name(version: str, sm: str, device: str) -> str:
    """Return the name of the file with the timings of one GPU model and one TensorRT version."""
    slug = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in device.lower())
    return f"trt{version}_sm{sm}_{slug}.timings"
