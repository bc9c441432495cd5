"""Reads and checks what an ONNX file declares, before a runtime compiles it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from preflight.errors import BackboneError
from preflight.records import BackboneSpec

if TYPE_CHECKING:
    import onnx

__all__ = ["OnnxModel", "content_digest", "inspect"]

Shape = tuple["int | None", ...]

# Domains of operators that a runtime here may support: the standard, and ONNX Runtime's extensions. `onnx.checker`
# checks operators of the standard only.
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_SHOWN_NODES = 3
_PROTOBUF_LIMIT = 2**31 - 1  # bytes of a protobuf message; larger models keep their weights in other files


@dataclass(frozen=True, slots=True)
class OnnxModel:
    """The interface of an ONNX file.

    Attributes:
        path: the file.
        inputs: name -> shape; None stands for a dynamic dimension.
        outputs: name -> shape; None stands for a dynamic dimension.
        types: name of an input -> ONNX element type, such as FLOAT.
        opset: version of the default operator set.
        external_data: the files beside it that hold its weights, sorted.
    """

    path: Path
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    types: dict[str, str]
    opset: int
    external_data: tuple[Path, ...]

    def check_against(self, spec: BackboneSpec) -> None:
        """Compare the inputs with the mission: names and shapes, and for a descriptor backbone also the type fp32.

        A dynamic dimension of the graph fits any size. A fixed dimension fits only its own size.

        Args:
            spec: the backbone as the mission describes it.

        Raises:
            BackboneError: they differ. The message shows both.
        """
        if set(self.inputs) == set(spec.inputs) and all(
            _fits(self.inputs[name], shape) for name, shape in spec.inputs.items()
        ):
            self._check_pixels(spec)
            return
        raise BackboneError(
            f"The inputs of {self.path} differ from those that the mission states for {spec.model_name}.\n"
            f"  the ONNX file: {_shown(self.inputs.items())}\n"
            f"  the mission:   {_shown(spec.inputs.items())}\n"
            "Correct input_name and expected_input_shape (or inputs) in the mission, or export the model again."
        )

    def _check_pixels(self, spec: BackboneSpec) -> None:
        other = {name: kind for name, kind in self.types.items() if kind != "FLOAT"}
        if spec.role == "descriptor" and other:
            raise BackboneError(
                f"{self.path}: {spec.model_name} must take pixels as fp32 (FLOAT), but it takes {other}. Export it "
                "with fp32 input. The mission's `precision` sets the precision in which it computes."
            )


def inspect(path: Path) -> OnnxModel:
    """Read and check an ONNX file, without loading its weights.

    Returns:
        The interface of the model.

    Raises:
        BackboneError: the file cannot be read, is no ONNX file, or fails `onnx.checker`. Also raised if no runtime
            supports one of its operators (the message names these operators with their nodes), or if its external data
            is missing or outside its folder.
    """
    import onnx  # noqa: PLC0415 - heavy

    model = _loaded(path)
    sizes = _external_sizes(path, model)
    external = tuple(sorted({_external_file(path, location, size) for location, size in sizes.items()}))
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, ValueError, RuntimeError, TypeError) as error:
        raise BackboneError(f"{path} is not a valid ONNX model: {error}. Export it again.") from error
    _refuse_foreign_operators(path, model)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]  # old exporters list weights as inputs
    return OnnxModel(
        path=path,
        inputs={value.name: _shape(value) for value in inputs},
        outputs={value.name: _shape(value) for value in model.graph.output},
        types={value.name: onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type) for value in inputs},
        opset=next((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), 0),
        external_data=external,
    )


def join(path: Path, target: Path) -> None:
    """Write a model with its weights in one file, for a runtime that does not read external data.

    Args:
        path: the ONNX file.
        target: the file to write.

    Raises:
        BackboneError: as for `inspect`, or graph and weights exceed the 2 GiB limit of an ONNX file.
    """
    import onnx  # noqa: PLC0415 - heavy

    interface = inspect(path)
    if sum(file.stat().st_size for file in (path, *interface.external_data)) > _PROTOBUF_LIMIT:
        raise BackboneError(
            f"{path} and its weights exceed 2 GiB, the limit of one ONNX file, and this runtime does not read external "
            "data. Choose another runtime for this backbone in the mission."
        )
    model = _loaded(path)
    onnx.load_external_data_for_model(model, str(path.parent))
    onnx.save(model, str(target))


def content_digest(path: Path, external_data: Iterable[Path] | None = None) -> str:
    """Compute a digest of the bytes of a model.

    Without external data it is the SHA-256 of the file. With external data it is the SHA-256 of one line
    `<sha256>  <name>` for each file: the ONNX file first, then the others, sorted by their path relative to its folder.

    Args:
        path: the ONNX file.
        external_data: the files with its weights, from `inspect`. None reads them from the file, which imports `onnx`.

    Returns:
        64 hex digits.

    Raises:
        BackboneError: a file cannot be read.
    """
    files = inspect(path).external_data if external_data is None else tuple(external_data)
    own = _sha256(path)
    if not files:
        return own
    names = {file.resolve().relative_to(path.resolve().parent).as_posix(): file for file in files}
    lines = [f"{own}  {path.name}\n", *(f"{_sha256(names[name])}  {name}\n" for name in sorted(names))]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _loaded(path: Path) -> onnx.ModelProto:
    import onnx  # noqa: PLC0415 - heavy
    from google.protobuf.message import (  # type: ignore[import-untyped]  # noqa: PLC0415 - onnx's; ships no types
        DecodeError,
    )

    try:
        if path.stat().st_size > _PROTOBUF_LIMIT:
            raise BackboneError(f"{path} exceeds 2 GiB, the limit of one ONNX file. Export it with external data.")
        model = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise BackboneError(f"{path} cannot be read: {error.strerror}. Check onnx_path in the mission.") from error
    except (DecodeError, ValueError) as error:
        raise BackboneError(f"{path} is not an ONNX file: {error}. Export it again.") from error
    if not model.graph.node:
        raise BackboneError(f"{path} is not an ONNX model: it has no graph. Export it again.")
    return model


def _refuse_foreign_operators(path: Path, model: onnx.ModelProto) -> None:
    function_domains = {function.domain for function in model.functions}
    foreign: dict[str, list[str]] = {}
    for node in _nodes(model):
        if node.domain not in _DOMAINS | function_domains:
            foreign.setdefault(f"{node.domain}.{node.op_type}", []).append(node.name or next(iter(node.output), "?"))
    if not foreign:
        return
    listed = "; ".join(
        f"{kind} (node {', '.join(nodes[:_SHOWN_NODES])}{f' and {len(nodes) - _SHOWN_NODES} more' * (len(nodes) > _SHOWN_NODES)})"
        for kind, nodes in sorted(foreign.items())
    )
    raise BackboneError(
        f"{path} has operators that are not part of ONNX and that no runtime supports: {listed}. Export the model "
        "without them."
    )


def _external_sizes(path: Path, model: onnx.ModelProto) -> dict[str, int]:
    """Return the size that each external file must have: `location` -> bytes. Includes subgraphs and functions."""
    import onnx  # noqa: PLC0415 - heavy

    sizes: dict[str, int] = {}
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        try:
            offset, length = (int(entries.get(key) or "0") for key in ("offset", "length"))
        except ValueError as error:
            raise BackboneError(
                f"{path}: offset or length of tensor {tensor.name} is not a number: {error}. Export the model again."
            ) from error
        sizes[location] = max(sizes.get(location, 0), offset + length)
    return sizes


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for graph in _graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for attribute in (attribute for node in _nodes(model) for attribute in node.attribute):
        yield attribute.t
        yield from attribute.tensors
        yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of the graph, of its subgraphs, and of the functions that the model defines."""
    for graph in (
        *_graphs(model.graph),
        *(inner for function in model.functions for inner in _subgraphs(function.node)),
    ):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    yield from _subgraphs(graph.node)


def _subgraphs(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        for inner in (attribute.g, *attribute.graphs):
            if inner.node or inner.initializer:
                yield from _graphs(inner)


def _external_file(path: Path, location: str, needed: int) -> Path:
    folder = path.resolve().parent
    file = folder / location
    if not location or Path(location).is_absolute() or not file.resolve().is_relative_to(folder):
        raise BackboneError(
            f"{path} has weights in {location!r}, outside its folder. Keep all files of a model in one folder."
        )
    if not file.is_file():
        raise BackboneError(
            f"{path} has weights in {location!r}, but that file does not exist. Copy it beside the ONNX file."
        )
    size = file.stat().st_size
    if size < needed:
        raise BackboneError(
            f"{path} needs {needed} bytes of {location!r}, but that file is truncated to {size}. Copy it again."
        )
    return path.parent / location


def _shape(value: onnx.ValueInfoProto) -> Shape:
    return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim)


def _fits(graph: Shape, mission: tuple[int, ...]) -> bool:
    return len(graph) == len(mission) and all(
        fixed is None or fixed == size for fixed, size in zip(graph, mission, strict=True)
    )


def _shown(inputs: Iterable[tuple[str, tuple[int | None, ...]]]) -> str:
    def dims(shape: tuple[int | None, ...]) -> str:
        return ", ".join("any" if size is None else str(size) for size in shape)

    return "; ".join(f"{name} [{dims(shape)}]" for name, shape in sorted(inputs)) or "no inputs"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as file:
            while block := file.read(1 << 18):
                digest.update(block)
    except OSError as error:
        raise BackboneError(f"{path} cannot be read: {error.strerror}. Check onnx_path in the mission.") from error
    return digest.hexdigest()
