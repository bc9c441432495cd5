"""ONNX to engine, one task a backbone: write the built-in model, read what a model declares, compile it."""

from __future__ import annotations

import json
import logging
import os.path
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from preflight.engine.compiler import EngineCompiler
from preflight.errors import BackboneError, PreflightError
from preflight.records import BackboneSpec
from preflight.report.run_log import RunLog
from preflight.store.atomic import atomic_path, atomic_write
from preflight.store.cache_layout import CacheLayout
from preflight.trace.digests import DigestCache, signature
from preflight.trace.record import canonical_json
from preflight.trace.rule import Step
from takeoff.names import sidecar_name

# Raise it by hand when the built-in graph changes.
BUILTIN_VERSION = 1
INSPECT_VERSION = 2
COMPILE_VERSION = 1

log = logging.getLogger("c10_provisioning.engine")


def prepared_path(spec: BackboneSpec, layout: CacheLayout, compiler: EngineCompiler) -> Path:
    """Returns the path of the ONNX file to compile: with the precision written into it, or as the mission names it."""
    if not compiler.reads_precision(spec):
        return spec.onnx_path
    return layout.onnx / f"{spec.model_name}.{compiler.runtime_of(spec).name}.{spec.precision}.onnx"


def builtin_step(spec: BackboneSpec, write: Callable[[Path], None]) -> Step:
    """Returns the step that writes the built-in backbone's ONNX file. write: writes it to a path."""

    def build() -> Iterable[Path]:
        with atomic_path(spec.onnx_path) as temporary:
            write(temporary)
        return ()

    return Step(f"onnx:{spec.model_name}", BUILTIN_VERSION, (), dict, (spec.onnx_path,), build)


def model_path(spec: BackboneSpec, layout: CacheLayout) -> Path:
    """Returns the path of the facts that `inspect_step` reads from a backbone's ONNX file."""
    return layout.onnx / f"{spec.model_name}.json"


def inspect_step(spec: BackboneSpec, layout: CacheLayout, compiler: EngineCompiler, digests: DigestCache) -> Step:
    """Returns the step that reads the ONNX file once. It checks the inputs against the mission and notes outputs and weights."""
    target = model_path(spec, layout)

    def components() -> Mapping[str, str]:
        inputs = canonical_json({name: list(shape) for name, shape in spec.inputs.items()}).decode()
        return {"onnx": digests.sha256(spec.onnx_path), "inputs": inputs}

    def build() -> Iterable[Path]:
        summary = compiler.inspect(spec)
        value = {
            "outputs": {name: list(shape) for name, shape in summary.outputs.items()},
            # Relative paths, so that moving the whole folder does not make the step run again.
            "external_data": [os.path.relpath(path, spec.onnx_path.parent) for path in summary.external_data],
            "opset": summary.opset,
            "types": summary.types,
        }
        atomic_write(target, canonical_json(value))
        return ()

    def rerun_reason() -> str | None:
        gone = [path.name for path in _external_data(spec, layout) if not path.is_file()]
        return f"weights {gone[0]} are not there" if gone else None

    return Step(
        f"model:{spec.model_name}", INSPECT_VERSION, (spec.onnx_path,), components, (target,), build, rerun_reason
    )


def _external_data(spec: BackboneSpec, layout: CacheLayout) -> list[Path]:
    """Returns the files that hold an ONNX file's weights. Raises FileNotFoundError before the inspection."""
    names = json.loads(model_path(spec, layout).read_bytes())["external_data"]
    return [spec.onnx_path.parent / name for name in names]


def model_digests(spec: BackboneSpec, layout: CacheLayout, digests: DigestCache) -> dict[str, str]:
    """Returns name -> digest of the ONNX file and of each file with its weights. Raises FileNotFoundError."""
    names = {f"onnx weights {path.name}": digests.sha256(path) for path in _external_data(spec, layout)}
    return {"onnx": digests.sha256(spec.onnx_path), **names}


def descriptor_dim(spec: BackboneSpec, layout: CacheLayout) -> int:
    """Returns the length of a descriptor backbone's only output. Raises BackboneError, FileNotFoundError."""
    outputs = json.loads(model_path(spec, layout).read_bytes())["outputs"]
    shapes = list(outputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] is None:
        raise BackboneError(
            f"{spec.onnx_path}: a descriptor backbone has one output [batch, length] of fixed length; "
            f"this one has {outputs}. Export it with one pooled, L2-normalised output"
        )
    return int(shapes[0][1])


def compile_step(
    spec: BackboneSpec, layout: CacheLayout, compiler: EngineCompiler, digests: DigestCache, run_log: RunLog
) -> Step:
    """Returns the step that compiles one engine. Its bytes need not be reproducible: it is reused by its action key."""
    target = layout.engines / str(compiler.name(spec))
    source = prepared_path(spec, layout, compiler)

    def components() -> Mapping[str, str]:
        prepared = {} if source == spec.onnx_path else {"prepared onnx": _digest_or_absence(source, digests)}
        return {**compiler.components(spec, model_digests(spec, layout, digests)), **prepared}

    def state() -> object:
        """Every input by content, and each file by its time of writing. A file changed and changed back counts as changed."""
        files = dict.fromkeys((spec.onnx_path, source, *_external_data(spec, layout)))
        return dict(components()), [signature(path) for path in files]

    def build() -> Iterable[Path]:
        host, runtime = compiler.host, compiler.runtime_of(spec)
        log.warning(
            f"no engine {target.name} for this action key: building it",
            extra={
                "event": "c10.engine.miss",
                "fields": {
                    "model": spec.model_name,
                    "sm": host.sm,
                    "jp": host.jetpack,
                    "trt": runtime.version if runtime.row.tag == "trt" else None,
                    "runtime": f"{runtime.name} {runtime.version}",
                    "precision": spec.precision,
                },
            },
        )
        try:
            compiler.compile(replace(spec, onnx_path=source), target, state())
        except PreflightError as error:
            fields = {"model": spec.model_name, "runtime": f"{runtime.name} {runtime.version}", "error": str(error)}
            said = f"no engine for {spec.model_name}: {error}"
            log.error(said, extra={"event": "c10.engine.failed", "fields": fields})  # noqa: TRY400 - an operator's sentence
            raise
        run_log.counts["engines_built"] += 1
        return ()

    return Step(
        f"engine:{spec.model_name}",
        COMPILE_VERSION,
        (spec.onnx_path, source),
        components,
        (target, target.with_name(sidecar_name(target.name))),
        build,
        start=(lambda: compiler.start(replace(spec, onnx_path=source), target, state()))
        if compiler.aside(spec)
        else None,
    )


def _digest_or_absence(path: Path, digests: DigestCache) -> str:
    """The digest, or a text for a file that does not exist yet. The dry run reads the text's ending."""
    try:
        return digests.sha256(path)
    except FileNotFoundError:
        return f"{path.name} is not there"
