"""Exported programs (`.pt2` archives) that contain only data.

They are written without code, and checked before they are loaded.

`torch.export.load` runs code for some archives: it unpickles tensors and objects, evaluates the text of symbolic sizes,
and compiles the text of guards. This product needs none of that: its weights are raw bytes in the zip file, and its
only symbolic size is the batch. An archive that needs more is refused before PyTorch reads it. The format is defined in
torch/export/pt2_archive and torch/_export/serde/schema.py.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from preflight.errors import EngineBuildError

__all__ = ["SIGNATURE", "pack", "unpack"]

SIGNATURE = "preflight.json"
"""The name of the file, inside an archive, with the engine's signature."""

_MEMBERS = re.compile(
    r"[^/]+/("
    r"data/weights/(weight_[0-9]+|model_weights_config\.json)|data/constants/(tensor_[0-9]+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json|extra/preflight\.json"
    r"|archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id)"
)
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SYMBOL = re.compile(r"Symbol\('s[0-9]+', positive=True, integer=True\)")
_ARITHMETIC = re.compile(r"(?:(?:Add|Mul|Mod|FloorDiv|Max|Min|Integer)(?=\()|-?[0-9]+|[(), ])*")
_TARGET = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.(add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge)")


def pack(program: Any, signature: Mapping[str, Any]) -> bytes:  # noqa: ANN401 - an ExportedProgram
    """Return an exported program as the bytes of an archive, without sample inputs and source lines.

    The same program gives the same bytes. signature: what the engine must know about itself, as JSON values.
    """
    program.example_inputs = None
    for node in program.graph.nodes:
        for name in ("stack_trace", "nn_module_stack"):  # they contain file names of the building machine
            node.meta.pop(name, None)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={SIGNATURE: json.dumps(signature, sort_keys=True)})
    return buffer.getvalue()


def unpack(content: bytes, label: str) -> tuple[Any, dict[str, Any]]:
    """Return the program of an archive and its signature, as given to `pack`.

    Args:
        content: the bytes of the archive.
        label: the engine in messages.

    Raises:
        EngineBuildError: it is not such an archive, or contains more than data.
        RuntimeError and other exceptions of PyTorch: its content is damaged.
    """
    problem = _problem(content)
    if problem is not None:
        raise EngineBuildError(f"The engine {label} is refused: {problem}. Remove the file and build it again.")
    extra = {SIGNATURE: ""}
    program = torch.export.load(io.BytesIO(content), extra_files=extra)
    signature = json.loads(extra[SIGNATURE])
    if not isinstance(signature, dict):
        raise EngineBuildError(f"The engine {label} is refused: its {SIGNATURE} is not a mapping. Build it again.")
    return program, signature


def _problem(content: bytes) -> str | None:
    """Return what the archive contains besides data; None if there is nothing."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return next(_problems(archive), None)
    except (
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        AttributeError,
        TypeError,
        EOFError,
        NotImplementedError,
    ) as error:
        return f"it is not an exported program ({type(error).__name__}: {error})"
    except RecursionError:
        return "it is nested too deeply"


def _problems(archive: zipfile.ZipFile) -> Iterator[str]:
    members = archive.infolist()
    yield from (f"it contains {entry.filename!r}" for entry in members if _MEMBERS.fullmatch(entry.filename) is None)
    files = {entry.filename.partition("/")[2]: entry for entry in members}
    if len(files) != len(members) or len({entry.filename.partition("/")[0] for entry in members}) != 1:
        yield "it contains a file twice, or two programs"
    if archive.testzip() is not None:
        yield "its checksums do not match"
    if files["data/sample_inputs/model.pt"].file_size:
        yield "it contains pickled samples"
    for name in _CONFIGS:
        if any(entry.get("use_pickle", True) for entry in json.loads(archive.read(files[name]))["config"].values()):
            yield "it contains pickled data"
    yield from _texts_that_run(json.loads(archive.read(files["models/model.json"])))


def _texts_that_run(value: object) -> Iterator[str]:
    """Yield texts that PyTorch would evaluate, except plain arithmetic on sizes and ATen operators."""
    if isinstance(value, list):
        for item in value:
            yield from _texts_that_run(item)
    if not isinstance(value, dict):
        return
    if value.get("guards_code") or value.get("custom_obj_values"):
        yield "it contains code"
    text, target = value.get("expr_str"), value.get("target")
    if text is not None and not (isinstance(text, str) and _ARITHMETIC.fullmatch(_SYMBOL.sub("0", text))):
        yield f"it contains the expression {text!r}"
    if target is not None and not (isinstance(target, str) and _TARGET.fullmatch(target)):
        yield f"it calls {target!r}"
    for item in value.values():
        yield from _texts_that_run(item)
