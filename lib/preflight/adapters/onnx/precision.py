"""Writes a precision into an ONNX file, for runtimes that read it from the file: fp16 by casts, int8 by Q/DQ nodes.

ONNX Runtime's quantiser places the Q/DQ nodes. It quantises weights per channel, and the inputs of matrix products and
convolutions. It quantises neither biases nor outputs. Both precisions need value ranges measured on samples: a
calibration table.
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
_MARGIN = 2.0  # values may exceed the range that the samples show
_PROTOBUF_LIMIT = 2**31 - 1
_SHOWN_NODES = 5
_PER_CHANNEL = 13  # the first opset in which DequantizeLinear has an axis
_SETTINGS = {
    "WeightSymmetric": True,
    "QuantizeBias": False,
    # The outputs of products and convolutions go to sums and norms, which run in floats.
    "OpTypesToExcludeOutputQuantization": sorted(QUANTISED),
}

log = logging.getLogger("c10_provisioning.engine")


class OnnxPrecision:
    """`PrecisionTools` with onnx and ONNX Runtime's quantiser."""

    def __init__(self, runtime_version: Callable[[], str]) -> None:
        """Store the arguments.

        runtime_version: a function of ONNX Runtime's adapter. It imports ONNX Runtime without telemetry, and returns
            the version.
        """
        self._runtime_version = runtime_version

    def probe(self, spec: BackboneSpec, target: Path) -> None:
        """Write a model whose outputs are the smallest and the largest value of each fp32 tensor of a backbone.

        Args:
            spec: the backbone.
            target: the file to write.

        Raises:
            BackboneError: the pattern of an override matches no node that can run in its precision.
            EngineBuildError: the model exceeds the size limit of one file, or is quantised already.
        """
        model = _read(spec)
        _check_patterns(spec, model)
        graph, types = model.graph, casts.value_types(model)
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
        """Return the ranges of one run of a probe: name of a tensor -> its smallest and largest value.

        outputs: the outputs of the probe.
        """
        names = [name.removesuffix(_LEAST) for name in outputs if name.endswith(_LEAST)]
        return {name: (float(outputs[name + _LEAST].min()), float(outputs[name + _MOST].max())) for name in names}

    def prepare(self, spec: BackboneSpec, ranges: Ranges, target: Path, *, symmetric: bool) -> None:
        """Write the model of a backbone in its precision. The same model, ranges and versions give the same bytes.

        Args:
            spec: the backbone.
            ranges: name of a tensor -> its smallest and largest value.
            target: the file to write.
            symmetric: whether int8 values are signed and lie around zero; TensorRT reads only these. Otherwise they are
                unsigned with a zero point.

        Raises:
            CalibrationCacheError: a tensor has no range.
            EngineBuildError: no layer of the model can run in the precision, or the quantiser refuses the model.
        """
        model = _read(spec)
        plan = _check_patterns(spec, model)
        fp16_nodes = _fp16_nodes(spec, model, ranges, plan)
        if spec.precision == "fp16" and not fp16_nodes and TensorProto.FLOAT16 not in casts.value_types(model).values():
            raise EngineBuildError(f"{spec.onnx_path}: no layer can run in fp16. Set `precision` to fp32.")
        if spec.precision == "int8":
            model = self._quantised(spec, model, ranges, plan, symmetric=symmetric)
        if fp16_nodes:
            try:
                model = casts.cast_nodes(model, fp16_nodes)
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
        int8_nodes = _int8_nodes(spec, model, ranges, plan)
        self._runtime_version()  # imports ONNX Runtime without telemetry, before the next line imports it
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
                    _with_types(model),
                    per_channel=True,
                    reduce_range=False,
                    weight_qType=QuantType.QInt8,
                    activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
                    tensors_range=TensorsData(CalibrationMethod.MinMax, data),
                    nodes_to_quantize=int8_nodes,
                    nodes_to_exclude=[],
                    op_types_to_quantize=sorted(QUANTISED),
                    extra_options={**_SETTINGS, "ActivationSymmetric": symmetric},
                )
                quantiser.quantize_model()
        except (ValueError, RuntimeError, KeyError, AttributeError, AssertionError) as error:
            raise EngineBuildError(
                f"{spec.onnx_path}: ONNX Runtime cannot quantise the model: {error}. Keep the layers named there in "
                "fp32 with `precision_overrides`, or set `precision` to fp32."
            ) from error
        return casts.sort_nodes(casts.normalise(quantiser.model.model))


def _read(spec: BackboneSpec) -> onnx.ModelProto:
    path = spec.onnx_path
    try:
        model = onnx.load(str(path))
    except OSError as error:
        raise BackboneError(f"{path} cannot be read: {error}. Check onnx_path in the mission.") from error
    if {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in model.graph.node}:
        raise EngineBuildError(
            f"{path} is quantised already, so an engine cannot be compared with the original. Give the fp32 model; "
            f"this program converts it to {spec.precision} and compares both."
        )
    return casts.normalise(model)


def _with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the types of its values recorded in it, because the quantiser reads them there."""
    return onnx.shape_inference.infer_shapes(model)


def _write(spec: BackboneSpec, model: onnx.ModelProto, target: Path) -> None:
    if model.ByteSize() > _PROTOBUF_LIMIT:
        raise EngineBuildError(
            f"{spec.onnx_path} holds more than 2 GiB of weights, so it cannot be converted to {spec.precision}: one "
            "ONNX file has at most 2 GiB. Set `precision` to fp32."
        )
    target.write_bytes(model.SerializeToString(deterministic=True))


def _check_patterns(spec: BackboneSpec, model: onnx.ModelProto) -> dict[str, str]:
    """Return the precision that the mission states for each node. Raises BackboneError if a pattern matches no node."""
    names = {node.name: node.op_type for node in model.graph.node}
    for pattern, precision in spec.precision_overrides:
        matched = [name for name in names if fnmatchcase(name, pattern)]
        if not matched:
            shown = ", ".join(list(names)[:_SHOWN_NODES])
            raise BackboneError(
                f"{spec.onnx_path} has no node {pattern!r}, which precision_overrides of {spec.model_name} names. "
                f"Correct the pattern; the {len(names)} nodes begin with {shown}."
            )
        if precision == "int8" and not any(names[name] in QUANTISED for name in matched):
            raise BackboneError(
                f"{spec.onnx_path}: precision_overrides of {spec.model_name} asks for int8 in {pattern!r}, but only "
                f"{' and '.join(sorted(QUANTISED))} run in int8, and the pattern matches none. Correct or remove it."
            )
    return {name: chosen_precision(spec, name, kind) for name, kind in names.items()}


def _fp16_nodes(spec: BackboneSpec, model: onnx.ModelProto, ranges: Ranges, plan: Mapping[str, str]) -> frozenset[str]:
    """Return the nodes to cast to fp16: those that the mission asks for, unless values would overflow or vanish."""
    if "fp16" not in plan.values():
        return frozenset()
    types, opset = casts.value_types(model), casts.opset_of(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    unfit = {tensor.name for tensor in model.graph.initializer if not casts.fits_fp16(tensor)}
    unfit |= {name for name, bounds in ranges.items() if not _fits_fp16(*bounds)}
    chosen, kept = set(), []
    for node in model.graph.node:
        if plan[node.name] != "fp16" or not casts.runs_in_fp16(node, types, opset):
            continue
        floats = [name for name in (*node.input, *node.output) if types.get(name) == TensorProto.FLOAT]
        missing = [name for name in floats if name not in ranges and name not in weights]
        if missing:
            raise _no_range(spec, missing[0])
        if unfit.isdisjoint(floats):
            chosen.add(node.name)
        else:
            kept.append(node.name)
    if kept:
        log.debug(f"{spec.model_name}: stay in fp32, because fp16 would overflow or vanish: {', '.join(kept)}")
    return frozenset(chosen)


def _int8_nodes(spec: BackboneSpec, model: onnx.ModelProto, ranges: Ranges, plan: Mapping[str, str]) -> list[str]:
    """Return the nodes to quantise. Raises EngineBuildError if there are none, or the opset is too old."""
    chosen = [
        node.name for node in model.graph.node if plan[node.name] == "int8" and _quantisable(spec, node, model, ranges)
    ]
    opset = casts.opset_of(model)
    if opset < _PER_CHANNEL:
        raise EngineBuildError(
            f"{spec.onnx_path} has opset {opset}, which has no int8 scales per channel. "
            f"Export it with opset {_PER_CHANNEL} or later, or set `precision` to fp32."
        )
    if not chosen:
        raise EngineBuildError(f"{spec.onnx_path}: no layer can run in int8. Set `precision` to fp32 or fp16.")
    return chosen


def _quantisable(spec: BackboneSpec, node: onnx.NodeProto, model: onnx.ModelProto, ranges: Ranges) -> bool:
    """Return whether the ranges of a node's inputs are finite. Raises CalibrationCacheError if a range is missing."""
    weights = {tensor.name for tensor in model.graph.initializer}
    read = [name for name in node.input[:2] if name not in weights]
    missing = [name for name in read if name not in ranges]
    if missing:
        raise _no_range(spec, missing[0])
    return all(math.isfinite(bound) for name in read for bound in ranges[name])


def _fits_fp16(least: float, most: float) -> bool:
    """Return whether values of a range can be represented in fp16. Infinities can; masks contain them."""
    magnitude = max((abs(value) for value in (least, most) if math.isfinite(value)), default=0.0)
    return magnitude == 0.0 or casts.FP16_NORMAL <= magnitude <= casts.FP16_MAX / _MARGIN


def _no_range(spec: BackboneSpec, name: str) -> CalibrationCacheError:
    return CalibrationCacheError(
        f"The calibration table of {spec.model_name} has no range of {name}: it was made for another model. Run `doit "
        "provision recalibrate=1`."
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the quantiser from printing its advice. It logs to the root logger, which adds a handler if it has none."""
    root, silent = logging.getLogger(), logging.NullHandler()
    root.addHandler(silent)
    try:
        yield
    finally:
        root.removeHandler(silent)
