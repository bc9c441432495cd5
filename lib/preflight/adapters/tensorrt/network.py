"""What is asked of a network, compared with what it is: shapes and precision. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from preflight.errors import EngineBuildError
from preflight.ports import CompileRequest

__all__ = ["Profile", "check_precision", "engine_label", "profiles", "timing_cache_name"]

Shape = tuple[int, ...]

# Types that carry no precision.
_NEUTRAL = frozenset({"BOOL", "INT32", "INT64", "UINT8"})
# precision -> the types its tensors may have beside those, and the one that makes it that precision.
_TYPES = {
    "fp32": (frozenset({"FLOAT"}), "FLOAT"),
    "fp16": (frozenset({"FLOAT", "HALF"}), "HALF"),
    "bf16": (frozenset({"FLOAT", "BF16"}), "BF16"),
    "int8": (frozenset({"FLOAT", "HALF", "BF16", "INT8"}), "INT8"),
}
_QUANTISING = frozenset({"QUANTIZE", "DEQUANTIZE"})
_ADVICE = {
    "fp32": "Set `precision` to what the ONNX file is, or export it in fp32.",
    "fp16": "Cast the ONNX file to fp16, or set `precision` to what it is.",
    "bf16": "Cast the ONNX file to bf16, or set `precision` to what it is.",
    "int8": "Quantise the ONNX file (QuantizeLinear and DequantizeLinear nodes), or set `precision` to what it is.",
}


@dataclass(frozen=True, slots=True)
class Profile:
    """The range of shapes one dynamic input is built for; tactics are chosen for `opt`."""

    least: Shape
    opt: Shape
    most: Shape


def profiles(network: Mapping[str, Shape], request: CompileRequest) -> dict[str, Profile]:
    """The profile of every dynamic input: one sample to a whole batch, the other dimensions as the request says.

    network: input name -> shape, -1 for a dynamic dimension. A batch dimension the graph fixes stays as it is.

    Raises:
        EngineBuildError: other inputs than the request's, or dimensions that do not fit.
    """
    if sorted(network) != sorted(request.inputs):
        raise EngineBuildError(f"it takes the inputs {sorted(network)}, but {sorted(request.inputs)} were asked for")
    found = {}
    for name, shape in network.items():
        asked = request.inputs[name]
        if len(shape) != len(asked) or any(
            size not in (-1, wanted) for size, wanted in zip(shape[1:], asked[1:], strict=True)
        ):
            raise EngineBuildError(f"its input {name} is {list(shape)}, but {list(asked)} was asked for")
        if -1 in shape:
            rest = asked[1:]
            first, last = (1, request.batch_size) if shape[0] == -1 else (shape[0], shape[0])
            found[name] = Profile((first, *rest), (last, *rest), (last, *rest))
    return found


def check_precision(precision: str, types: Iterable[str], layers: Iterable[str]) -> None:
    """Compare the precision asked for with a strongly typed network's own.

    types: the names of its tensors' types, as TensorRT's DataType has them. layers: the names of its layers' types.

    Raises:
        EngineBuildError: they differ; the message says what the network is.
    """
    if precision not in _TYPES:
        raise EngineBuildError(f"no engines of precision {precision} are built; take one of {', '.join(_TYPES)}")
    held = set(types) - _NEUTRAL
    allowed, needed = _TYPES[precision]
    quantised = not _QUANTISING.isdisjoint(layers)
    if precision == "int8" and not (quantised and needed in held):
        raise EngineBuildError(f"int8 was asked for, but it holds no Q/DQ nodes. {_ADVICE[precision]}")
    if precision != "int8" and quantised:
        raise EngineBuildError(f"{precision} was asked for, but it holds Q/DQ nodes. {_ADVICE[precision]}")
    if held - allowed:
        raise EngineBuildError(
            f"{precision} was asked for, but it holds {', '.join(sorted(held - allowed))} tensors. {_ADVICE[precision]}"
        )
    if needed not in held:
        raise EngineBuildError(f"{precision} was asked for, but it holds no {needed} tensors. {_ADVICE[precision]}")


def engine_label(precision: str) -> str:
    """The network's name: TensorRT stores it in the engine, which says nothing else of its precision."""
    return f"preflight:{precision}"


def timing_cache_name(version: str, sm: str, device: str) -> str:
    """The file that holds the timings of one GPU model under one TensorRT version."""
    slug = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in device.lower())
    return f"trt{version}_sm{sm}_{slug}.timings"
