"""Writes a precision into an ONNX file, for runtimes that read it there: fp16 by casts, int8 by Q/DQ nodes.

Q/DQ nodes are placed by ONNX Runtime's quantiser: for each channel of the weights, no quantised bias, and around what matrix
products and convolutions read, not what they put out. Both need the ranges of values measured on samples: a calibration table.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from preflight.adapters.onnx import fp16_cast as casts
from preflight.engine.precisions import QUANTISED, chosen_precision
from preflight.errors import BackboneError, CalibrationCacheError, EngineBuildError
from preflight.records import BackboneSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OnnxPrecision"]

Ranges = Mapping[str, tuple[float, float]]

_LEAST, _MOST = ".least", ".most"
_MARGIN = 2.0  # a sample does not show the greatest value there is
_PROTOBUF_LIMIT = 2**31 - 1
_SHOWN_NODES = 5
_PER_CHANNEL = 13  # the opset from which DequantizeLinear has an axis
_SETTINGS = {
    "WeightSymmetric": True,
    "QuantizeBias": False,
    # What products and convolutions put out goes to sums and norms, which run in floats.
    "OpTypesToExcludeOutputQuantization": sorted(QUANTISED),
}

log = logging.getLogger("preflight.engines")


class OnnxPrecision:
    """The `PrecisionTools` by onnx and ONNX Runtime's quantiser.

    runtime_version: ONNX Runtime's own release, asked of the adapter that knows how to import it.
    """

    def __init__(self, runtime_version: Callable[[], str]) -> None:
        self._runtime_version = runtime_version

    def probe(self, spec: BackboneSpec, target: Path) -> None:
        """Write a model that puts out the least and the greatest value of each fp32 tensor of `spec`'s.

        Raises:
            BackboneError: an override's pattern names no node that can be of its precision.
            EngineBuildError: the model is larger than one file can be, or quantised already.
        """
        model = _read(spec)
        _check_patterns(spec, model)
        graph, types = model.graph, casts.typed(model)
        weights = {tensor.name for tensor in graph.initializer}
        values = [*(value.name for value in graph.input), *(name for node in graph.node for name in node.output)]
        del graph.output[:]
        flat = helper.make_tensor("probe.flat", TensorProto.INT64, [1], [1])
        graph.initializer.append(flat)
        for name in values:
            if types.get(name) != TensorProto.FLOAT or name in weights:
                continue
            for suffix, kind in ((_LEAST, "ReduceMin"), (_MOST, "ReduceMax")):
                inner, outer = f"{name}{suffix}.whole", f"{name}{suffix}"
                graph.node.append(helper.make_node(kind, [name], [inner], keepdims=0, name=inner))
                graph.node.append(helper.make_node("Reshape", [inner, flat.name], [outer], name=outer))
                graph.output.append(helper.make_tensor_value_info(outer, TensorProto.FLOAT, [1]))
        _write(spec, model, target)

    def ranges(self, outputs: Mapping[str, NDArray[np.float32]]) -> dict[str, tuple[float, float]]:
        """What one run of a probe found: tensor -> its least and greatest value."""
        names = [name.removesuffix(_LEAST) for name in outputs if name.endswith(_LEAST)]
        return {name: (float(outputs[name + _LEAST].min()), float(outputs[name + _MOST].max())) for name in names}

    def prepare(self, spec: BackboneSpec, ranges: Ranges, target: Path, *, symmetric: bool) -> None:
        """Write the model of `spec` in its precision; the same bytes for the same model, ranges and versions.

        symmetric: whether int8 values are signed around zero, which is all TensorRT reads; else unsigned with a zero point.

        Raises:
            CalibrationCacheError: a tensor has no range.
            EngineBuildError: nothing of the model can be of the precision, or the quantiser refuses the model.
        """
        model = _read(spec)
        plan = _check_patterns(spec, model)
        halves = _halves(spec, model, ranges, plan)
        if spec.precision == "fp16" and not halves and TensorProto.FLOAT16 not in casts.typed(model).values():
            raise EngineBuildError(f"{spec.onnx_path}: no layer can run in fp16. Set `precision` to fp32.")
        if spec.precision == "int8":
            model = self._quantised(spec, model, ranges, plan, symmetric=symmetric)
        if halves:
            try:
                model = casts.cast_nodes(model, halves)
            except EngineBuildError as error:
                raise EngineBuildError(f"{spec.onnx_path}: {error}.") from error
        _write(spec, model, target)

    def _quantised(
        self,
        spec: BackboneSpec,
        model: onnx.ModelProto,
        ranges: Ranges,
        plan: Mapping[str, str],
        *,
        symmetric: bool,
    ) -> onnx.ModelProto:
        used = _int8_nodes(spec, model, ranges, plan)
        self._runtime_version()  # so that the next line imports no reporter
        from onnxruntime.quantization.calibrate import (  # noqa: PLC0415 - only after the line above
            CalibrationMethod,
            TensorData,
            TensorsData,
        )
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer  # noqa: PLC0415 - as above
        from onnxruntime.quantization.quant_utils import QuantType  # noqa: PLC0415 - as above

        data = {
            name: TensorData(lowest=np.float32(least), highest=np.float32(most))
            for name, (least, most) in ranges.items()
            if math.isfinite(least) and math.isfinite(most)
        }
        try:
            with _quietly():
                quantiser = QDQQuantizer(
                    _typed(model),
                    per_channel=True,
                    reduce_range=False,
                    weight_qType=QuantType.QInt8,
                    activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                    tensors_range=TensorsData(CalibrationMethod.MinMax, data),
                    nodes_to_quantize=used,
                    nodes_to_exclude=[],
                    op_types_to_quantize=sorted(QUANTISED),
                    extra_options={**_SETTINGS, "ActivationSymmetric": symmetric},
                )
                quantiser.quantize_model()
        except (ValueError, RuntimeError, KeyError, AttributeError, AssertionError) as error:
            raise EngineBuildError(
                f"{spec.onnx_path}: ONNX Runtime cannot quantise the model: {error}. Keep the layers named there in fp32 "
                "by `precision_overrides`, or set `precision` to fp32."
            ) from error
        return casts.ordered(casts.lifted(quantiser.model.model))


def _read(spec: BackboneSpec) -> onnx.ModelProto:
    path = spec.onnx_path
    try:
        model = onnx.load(str(path))
    except OSError as error:
        raise BackboneError(f"{path} cannot be read: {error}. Check onnx_path in the mission.") from error
    if {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in model.graph.node}:
        raise EngineBuildError(
            f"{path} is quantised already, so nothing tells what its layers said before. Give the fp32 model: it is "
            f"brought to {spec.precision} here, and compared with it."
        )
    return casts.lifted(model)


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the type of every value noted in it, where the quantiser looks."""
    return onnx.shape_inference.infer_shapes(model)


def _write(spec: BackboneSpec, model: onnx.ModelProto, target: Path) -> None:
    if model.ByteSize() > _PROTOBUF_LIMIT:
        raise EngineBuildError(
            f"{spec.onnx_path} holds more than 2 GiB of weights: too much for one ONNX file of another precision. Set "
            "`precision` to fp32."
        )
    target.write_bytes(model.SerializeToString(deterministic=True))


def _check_patterns(spec: BackboneSpec, model: onnx.ModelProto) -> dict[str, str]:
    """Node -> the precision the mission wants it in. Raises BackboneError for a pattern that names none."""
    names = {node.name: node.op_type for node in model.graph.node}
    for pattern, precision in spec.precision_overrides:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            shown = ", ".join(list(names)[:_SHOWN_NODES])
            raise BackboneError(
                f"{spec.onnx_path} has no node {pattern!r}, which precision_overrides of {spec.model_name} names. Its "
                f"{len(names)} nodes begin with {shown}."
            )
        if precision == "int8" and not any(names[name] in QUANTISED for name in matched):
            raise BackboneError(
                f"{spec.onnx_path}: precision_overrides of {spec.model_name} wants {pattern!r} in int8, but it names no "
                f"{' or '.join(sorted(QUANTISED))}: only these run in int8."
            )
    return {name: chosen_precision(spec, name, kind) for name, kind in names.items()}


def _halves(spec: BackboneSpec, model: onnx.ModelProto, ranges: Ranges, plan: Mapping[str, str]) -> frozenset[str]:
    """The nodes that are cast to fp16: those the mission wants so, but for those where numbers would not survive it."""
    if "fp16" not in plan.values():
        return frozenset()
    types, opset = casts.typed(model), casts.opset_of(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    wide = {tensor.name for tensor in model.graph.initializer if not casts.fits(tensor)}
    wide |= {name for name, reach in ranges.items() if not _survives(*reach)}
    found, kept = set(), []
    for node in model.graph.node:
        if plan[node.name] != "fp16" or not casts.runs_in_fp16(node, types, opset):
            continue
        floats = [name for name in (*node.input, *node.output) if types.get(name) == TensorProto.FLOAT]
        missing = [name for name in floats if name not in ranges and name not in weights]
        if missing:
            raise _no_range(spec, missing[0])
        if wide.isdisjoint(floats):
            found.add(node.name)
        else:
            kept.append(node.name)
    if kept:
        log.debug(f"{spec.model_name}: kept in fp32, where fp16 would overflow or vanish: {', '.join(kept)}")
    return frozenset(found)


def _int8_nodes(spec: BackboneSpec, model: onnx.ModelProto, ranges: Ranges, plan: Mapping[str, str]) -> list[str]:
    """The nodes that become int8. Raises EngineBuildError where there are none, or the model's opset has no word for it."""
    used = [
        node.name for node in model.graph.node if plan[node.name] == "int8" and _quantisable(spec, node, model, ranges)
    ]
    opset = casts.opset_of(model)
    if opset < _PER_CHANNEL:
        raise EngineBuildError(
            f"{spec.onnx_path} is of opset {opset}, which cannot say a scale for each channel of int8. "
            f"Export it with opset {_PER_CHANNEL} or a later one, or set `precision` to fp32."
        )
    if not used:
        raise EngineBuildError(f"{spec.onnx_path}: no layer can run in int8. Set `precision` to fp32 or fp16.")
    return used


def _quantisable(spec: BackboneSpec, node: onnx.NodeProto, model: onnx.ModelProto, ranges: Ranges) -> bool:
    """Whether what a node reads has finite bounds. Raises CalibrationCacheError where they are not known."""
    weights = {tensor.name for tensor in model.graph.initializer}
    read = [name for name in node.input[:2] if name not in weights]
    missing = [name for name in read if name not in ranges]
    if missing:
        raise _no_range(spec, missing[0])
    return all(math.isfinite(bound) for name in read for bound in ranges[name])


def _survives(least: float, most: float) -> bool:
    """Whether a tensor's values can be told in fp16. Infinities can: masks have them."""
    reach = max((abs(value) for value in (least, most) if math.isfinite(value)), default=0.0)
    return reach == 0.0 or casts.FP16_NORMAL <= reach <= casts.FP16_MAX / _MARGIN


def _no_range(spec: BackboneSpec, name: str) -> CalibrationCacheError:
    return CalibrationCacheError(
        f"The calibration table of {spec.model_name} holds no range of {name}: it was made for another model. Run doit "
        "provision recalibrate=1."
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """The quantiser advises through the root logger, and gives it a handler for standard error where it has none."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)
