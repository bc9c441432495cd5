"""Engines: ONNX to engine, one task a backbone, and the parity gate against the ONNX reference."""

from __future__ import annotations

import json
import logging
import os.path
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from preflight.engine_names import EngineName
from preflight.errors import BackboneError
from preflight.journal import Journal
from preflight.parity import THRESHOLDS, check_parity, synthetic_inputs
from preflight.ports import CompileRequest, Engine, ImageCodec, InferenceRuntime, OnnxModels
from preflight.records import PREPROCESSING_VERSION, BackboneSpec, HostCapabilities, ModelSummary
from preflight.store.atomic import atomic_path, atomic_write
from preflight.store.layout import CacheLayout
from preflight.trace.digests import DigestCache, hash_file
from preflight.trace.record import canonical_json
from preflight.trace.rule import Step
from takeoff.layout import sidecar_bytes
from takeoff.names import sidecar_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Raised by hand when the built-in graph changes.
BUILTIN_VERSION = 1
INSPECT_VERSION = 2
COMPILE_VERSION = 1
PARITY_VERSION = 1
PARITY_SEED = 1
PARITY_BATCH = 32

log = logging.getLogger("preflight.engines")


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """A runtime by name and version, known without importing it; `make` imports it."""

    name: str
    version: str
    make: Callable[[], InferenceRuntime]


class EngineCompiler:
    """Compiles the backbones of a corpus for one host with one runtime."""

    def __init__(
        self, runtime: RuntimeChoice, host: HostCapabilities, models: OnnxModels, *, workspace_mb: int, batch_size: int
    ) -> None:
        self.runtime = runtime
        self.host = host
        self._models = models
        self._workspace_mb = workspace_mb
        self.batch_size = batch_size

    def name(self, spec: BackboneSpec) -> EngineName:
        """The file name that says what the engine is and where it runs (D-C10-7). Raises EngineBuildError."""
        runtime = self.runtime
        return EngineName.on_host(spec.model_name, self.host, runtime.name, runtime.version, spec.precision)

    def components(self, spec: BackboneSpec, model: Mapping[str, str]) -> dict[str, str]:
        """Everything that decides the engine. model: the digests of the ONNX file and of its external data."""
        host = self.host
        return {
            **model,
            "inputs": canonical_json({name: list(shape) for name, shape in spec.inputs.items()}).decode(),
            "precision": spec.precision,
            "workspace_mb": str(self._workspace_mb),
            "batch_size": str(self.batch_size),
            "runtime": self.runtime.name,
            "runtime_version": self.runtime.version,
            "host": f"{host.arch} {host.isa} sm {host.sm or 'none'} jetpack {host.jetpack or 'none'}",
        }

    def request(self, spec: BackboneSpec) -> CompileRequest:
        """The spec as the runtime port takes it."""
        return CompileRequest(spec.onnx_path, spec.inputs, spec.precision, self._workspace_mb, self.batch_size)

    def inspect(self, spec: BackboneSpec) -> ModelSummary:
        """Check the ONNX file against the spec. Raises BackboneError."""
        return self._models.inspect(spec)

    def compile(self, spec: BackboneSpec, target: Path) -> None:
        """Write the engine and its sidecar. Raises EngineBuildError."""
        with atomic_path(target) as temporary:
            self.runtime.make().compile(self.request(spec), temporary)
            digest = hash_file(temporary)
        atomic_write(target.with_name(sidecar_name(target.name)), sidecar_bytes(digest))

    def load(self, spec: BackboneSpec, engine: Path) -> Engine:
        """The exported bytes, imported again. Raises EngineBuildError."""
        return self.runtime.make().load(engine, self.request(spec))

    def reference(self, spec: BackboneSpec) -> Engine:
        """ONNX Runtime fp32 on the model itself. Raises EngineBuildError."""
        return self._models.reference(spec.onnx_path)


def builtin_step(spec: BackboneSpec, write: Callable[[Path], None]) -> Step:
    """The built-in backbone's ONNX file, written by code."""

    def build() -> Iterable[Path]:
        with atomic_path(spec.onnx_path) as temporary:
            write(temporary)
        return ()

    return Step(f"onnx:{spec.model_name}", BUILTIN_VERSION, (), dict, (spec.onnx_path,), build)


def model_path(spec: BackboneSpec, layout: CacheLayout) -> Path:
    """Where what is known of a backbone's ONNX file lies."""
    return layout.onnx / f"{spec.model_name}.json"


def inspect_step(spec: BackboneSpec, layout: CacheLayout, compiler: EngineCompiler, digests: DigestCache) -> Step:
    """Reads the ONNX file once: is it what the mission says, what does it put out, which files hold its weights."""
    target = model_path(spec, layout)

    def components() -> Mapping[str, str]:
        inputs = canonical_json({name: list(shape) for name, shape in spec.inputs.items()}).decode()
        return {"onnx": digests.sha256(spec.onnx_path), "inputs": inputs}

    def build() -> Iterable[Path]:
        summary = compiler.inspect(spec)
        value = {
            "outputs": {name: list(shape) for name, shape in summary.outputs.items()},
            # Relative, so that nothing is read again because everything was moved.
            "external_data": [os.path.relpath(path, spec.onnx_path.parent) for path in summary.external_data],
            "opset": summary.opset,
            "types": summary.types,
        }
        atomic_write(target, canonical_json(value))
        return ()

    def doubt() -> str | None:
        gone = [path.name for path in _external_data(spec, layout) if not path.is_file()]
        return f"weights {gone[0]} are not there" if gone else None

    return Step(f"model:{spec.model_name}", INSPECT_VERSION, (spec.onnx_path,), components, (target,), build, doubt)


def _external_data(spec: BackboneSpec, layout: CacheLayout) -> list[Path]:
    """The files an ONNX file's weights lie in. Raises FileNotFoundError before it was read."""
    names = json.loads(model_path(spec, layout).read_bytes())["external_data"]
    return [spec.onnx_path.parent / name for name in names]


def model_digests(spec: BackboneSpec, layout: CacheLayout, digests: DigestCache) -> dict[str, str]:
    """The digests of the ONNX file and of each file its weights lie in, by name. Raises FileNotFoundError."""
    names = {f"onnx weights {path.name}": digests.sha256(path) for path in _external_data(spec, layout)}
    return {"onnx": digests.sha256(spec.onnx_path), **names}


def descriptor_dim(spec: BackboneSpec, layout: CacheLayout) -> int:
    """The length of a descriptor backbone's one output. Raises BackboneError, FileNotFoundError."""
    outputs = json.loads(model_path(spec, layout).read_bytes())["outputs"]
    shapes = list(outputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 2 or shapes[0][1] is None:
        raise BackboneError(
            f"{spec.onnx_path}: a descriptor backbone has one output [batch, length] of fixed length; "
            f"this one has {outputs}. Export it with one pooled, L2-normalised output"
        )
    return int(shapes[0][1])


def compile_step(
    spec: BackboneSpec, layout: CacheLayout, compiler: EngineCompiler, digests: DigestCache, journal: Journal
) -> Step:
    """One engine. The artifact's bytes need not be reproducible: it is reused by its action key."""
    target = layout.engines / str(compiler.name(spec))

    def build() -> Iterable[Path]:
        host, runtime = compiler.host, compiler.runtime
        log.warning(
            f"no engine {target.name} for this action key: building it",
            extra={
                "event": "engine_cache_miss",
                "fields": {
                    "model": spec.model_name,
                    "sm": host.sm,
                    "jp": host.jetpack,
                    "trt": runtime.version if runtime.name == "tensorrt" else None,
                    "runtime": f"{runtime.name} {runtime.version}",
                    "precision": spec.precision,
                },
            },
        )
        compiler.compile(spec, target)
        journal.counts["engines_built"] += 1
        return ()

    return Step(
        f"engine:{spec.model_name}",
        COMPILE_VERSION,
        (spec.onnx_path,),
        lambda: compiler.components(spec, model_digests(spec, layout, digests)),
        (target, target.with_name(sidecar_name(target.name))),
        build,
    )


def parity_path(spec: BackboneSpec, layout: CacheLayout) -> Path:
    """Where the gate's report on a backbone lies."""
    return layout.work / "parity" / f"{spec.model_name}.json"


def parity_step(
    spec: BackboneSpec,
    layout: CacheLayout,
    compiler: EngineCompiler,
    digests: DigestCache,
    images: Callable[[], ImageCodec],
    reference_version: str,
) -> Step:
    """The gate: the exported bytes, imported again, against ONNX Runtime fp32 on real tiles of the area."""
    engine = layout.engines / str(compiler.name(spec))
    target = parity_path(spec, layout)

    def components() -> Mapping[str, str]:
        return {
            **model_digests(spec, layout, digests),
            "engine": digests.sha256(engine),
            # Equal bytes can mean other numbers under another version.
            "runtime": f"{compiler.runtime.name} {compiler.runtime.version}",
            "sample": digests.sha256(layout.parity_sample),
            "threshold": repr(_threshold(spec)),
            "preprocessing": preprocessing_text(spec),
            "reference": f"onnxruntime {reference_version}",
        }

    def build() -> Iterable[Path]:
        feed = _feed(spec, layout, images())
        with compiler.load(spec, engine) as built, compiler.reference(spec) as reference:
            report = check_parity(
                engine.name,
                built.run,
                reference.run,
                feed,
                precision=spec.precision,
                batch_size=min(compiler.batch_size, PARITY_BATCH),
                threshold=_threshold(spec),
            )
        value = {
            "cosine_min": repr(report.cosine_min),
            "threshold": repr(report.threshold),
            "samples": report.sample_count,
            "worst_output": report.worst_output,
        }
        atomic_write(target, canonical_json(value))
        return ()

    reads = (engine, spec.onnx_path, layout.parity_sample)
    return Step(f"parity:{spec.model_name}", PARITY_VERSION, reads, components, (target,), build)


def _threshold(spec: BackboneSpec) -> float:
    """The mission's for this model, else its precision's."""
    return THRESHOLDS[spec.precision] if spec.parity_cosine is None else spec.parity_cosine


def preprocessing_text(spec: BackboneSpec) -> str:
    """What is done to pixels before a backbone sees them, as a component of action keys."""
    section = spec.preprocessing
    return f"version {PREPROCESSING_VERSION} mean {section.mean} std {section.std}"


def image_size(spec: BackboneSpec) -> tuple[int, int] | None:
    """(height, width) of a backbone that takes one image; None for any other."""
    shapes = list(spec.inputs.values())
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] != 3:
        return None
    return shapes[0][2], shapes[0][3]


def _feed(spec: BackboneSpec, layout: CacheLayout, images: ImageCodec) -> Mapping[str, NDArray[np.generic]]:
    """The parity sample as the backbone takes it; seeded numbers for one that does not take an image."""
    import numpy as np  # noqa: PLC0415 - heavy

    tiles = np.load(layout.parity_sample, allow_pickle=False)
    size = image_size(spec)
    if size is None:
        types = json.loads(model_path(spec, layout).read_bytes())["types"]
        return synthetic_inputs(spec.inputs, len(tiles), PARITY_SEED, types)
    resized = np.stack([images.resize(tile, size) for tile in tiles])
    return {next(iter(spec.inputs)): images.to_batch(resized, spec.preprocessing)}
