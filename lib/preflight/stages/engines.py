"""Engines: ONNX to engine, one task a backbone, and the parity gate against the ONNX reference."""

from __future__ import annotations

import json
import logging
import os.path
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import TYPE_CHECKING

from preflight.engine_names import EngineName
from preflight.errors import BackboneError
from preflight.journal import Journal
from preflight.parity import THRESHOLDS, check_parity, synthetic_inputs
from preflight.ports import (
    Compilation,
    CompileRequest,
    ConcurrentRuntime,
    Engine,
    ImageCodec,
    InferenceRuntime,
    OnnxModels,
)
from preflight.precisions import written_in_onnx
from preflight.records import PREPROCESSING_VERSION, BackboneSpec, HostCapabilities, ModelSummary
from preflight.store.atomic import atomic_path, atomic_write
from preflight.store.layout import CacheLayout
from preflight.trace.digests import DigestCache, hash_file, signature
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
    """A runtime by name and version, known without importing it; `make` imports it.

    cuda: told to use the GPU. aside: it is a `ConcurrentRuntime`, and this host's memory is all it takes. one_file: it takes
    no weights beside the ONNX file.
    """

    name: str
    version: str
    make: Callable[[], InferenceRuntime]
    cuda: bool = False
    aside: bool = False
    one_file: bool = False


class EngineCompiler:
    """Compiles the backbones of a corpus for one host: with one runtime, but for those that name another.

    others: the runtimes that backbones name for themselves.
    """

    def __init__(
        self,
        runtime: RuntimeChoice,
        host: HostCapabilities,
        models: OnnxModels,
        *,
        workspace_mb: int,
        batch_size: int,
        others: Mapping[str, RuntimeChoice] = MappingProxyType({}),
    ) -> None:
        self._runtime = runtime
        self._others = others
        self.host = host
        self._models = models
        self._workspace_mb = workspace_mb
        self.batch_size = batch_size
        # As many at a time as there are cores, and memory for each one's workspace.
        self._slots = min(host.cpus, host.memory_mb // workspace_mb)
        self._begun: dict[Path, _Begun] = {}

    def runtime_of(self, spec: BackboneSpec) -> RuntimeChoice:
        """What compiles and runs this backbone."""
        return self._others.get(spec.runtime or "", self._runtime)

    def runtimes(self) -> tuple[RuntimeChoice, ...]:
        """All that are used."""
        return (self._runtime, *self._others.values())

    def aside(self, spec: BackboneSpec) -> bool:
        """Whether it can be compiled beside another."""
        return self.runtime_of(spec).aside and self._slots > 1

    def name(self, spec: BackboneSpec) -> EngineName:
        """The file name that says what the engine is and where it runs (D-C10-7). Raises EngineBuildError."""
        runtime = self.runtime_of(spec)
        return EngineName.on_host(
            spec.model_name, self.host, runtime.name, runtime.version, spec.precision, cuda=runtime.cuda
        )

    def components(self, spec: BackboneSpec, model: Mapping[str, str]) -> dict[str, str]:
        """Everything that decides the engine. model: the digests of the ONNX file and of its external data."""
        host = self.host
        return {
            **model,
            "inputs": canonical_json({name: list(shape) for name, shape in spec.inputs.items()}).decode(),
            "precision": spec.precision,
            "workspace_mb": str(self._workspace_mb),
            "batch_size": str(self.batch_size),
            "runtime": self.runtime_of(spec).name,
            "runtime_version": self.runtime_of(spec).version,
            "host": f"{host.arch} {host.isa}",
            # A CPU's engine stays what it is when a GPU or its driver changes.
            **({} if self.name(spec).sm is None else {"gpu": _gpu_text(host)}),
        }

    def reads_precision(self, spec: BackboneSpec) -> bool:
        """Whether the runtime finds a model's precision in its ONNX file, which must be brought to it before."""
        return written_in_onnx(self.runtime_of(spec).name, spec.precision)

    def request(self, spec: BackboneSpec) -> CompileRequest:
        """The spec as the runtime port takes it."""
        return CompileRequest(spec.onnx_path, spec.inputs, spec.precision, self._workspace_mb, self.batch_size)

    def inspect(self, spec: BackboneSpec) -> ModelSummary:
        """Check the ONNX file against the spec. Raises BackboneError."""
        return self._models.inspect(spec)

    def start(self, spec: BackboneSpec, target: Path, inputs: object) -> None:
        """Begin `compile` aside, where the runtime can and there is room beside one more.

        inputs: what it is compiled from, by value; what was begun is used only where `compile` is given the same.
        """
        taken = {begun.slot for begun in self._begun.values()}
        slot = next((slot for slot in range(1, self._slots) if slot not in taken), None)
        if slot is None or target in self._begun:
            return
        runtime = self.runtime_of(spec).make()
        if not isinstance(runtime, ConcurrentRuntime):
            return
        with ExitStack() as stack:
            temporary = stack.enter_context(atomic_path(target))
            readable = stack.enter_context(self._readable(spec))
            compilation = runtime.start(self.request(readable), temporary, slot=slot)
            self._begun[target] = _Begun(compilation, temporary, slot, inputs, stack.pop_all())

    def compile(self, spec: BackboneSpec, target: Path, inputs: object = None) -> None:
        """Write the engine and its sidecar; begun before or now. Raises EngineBuildError."""
        begun = self._begun.pop(target, None)
        if begun is not None and begun.inputs != inputs:
            begun.stop()
            begun = None
        if begun is not None:
            with begun.place:
                begun.compilation.wait()
                digest = hash_file(begun.temporary)
        else:
            with atomic_path(target) as temporary, self._readable(spec) as readable:
                self.runtime_of(spec).make().compile(self.request(readable), temporary)
                digest = hash_file(temporary)
        atomic_write(target.with_name(sidecar_name(target.name)), sidecar_bytes(digest))

    @contextmanager
    def _readable(self, spec: BackboneSpec) -> Iterator[BackboneSpec]:
        """The spec, with the weights in its file where the runtime reads no others."""
        if not self.runtime_of(spec).one_file or not self._models.inspect(spec).external_data:
            yield spec
            return
        with TemporaryDirectory(prefix="preflight-onnx-") as folder:
            joined = Path(folder) / spec.onnx_path.name
            self._models.join(spec.onnx_path, joined)
            yield replace(spec, onnx_path=joined)

    def stop(self) -> None:
        """Give up what was begun and not asked for. Idempotent."""
        while self._begun:
            _, begun = self._begun.popitem()
            begun.stop()

    def load(self, spec: BackboneSpec, engine: Path) -> Engine:
        """The exported bytes, imported again. Raises EngineBuildError."""
        return self.runtime_of(spec).make().load(engine, self.request(spec))

    def reference(self, spec: BackboneSpec) -> Engine:
        """ONNX Runtime fp32 on the model itself. Raises EngineBuildError."""
        return self._models.reference(spec.onnx_path)


class _GivenUp(Exception):  # noqa: N818 - leaves the place of an engine that is given up
    pass


@dataclass(frozen=True)
class _Begun:
    """An engine that is being compiled aside. place: puts it where it belongs, or removes it."""

    compilation: Compilation
    temporary: Path
    slot: int
    inputs: object
    place: ExitStack

    def stop(self) -> None:
        """Leave nothing of it."""
        with suppress(_GivenUp), self.place:
            self.compilation.stop()
            raise _GivenUp


def _gpu_text(host: HostCapabilities) -> str:
    """What decides an engine of this host's GPU."""
    fields = {"sm": host.sm, "jetpack": host.jetpack, "driver": host.driver}
    return " ".join([host.gpu or "unnamed", *(f"{name} {value or 'none'}" for name, value in fields.items())])


def prepared_path(spec: BackboneSpec, layout: CacheLayout, compiler: EngineCompiler) -> Path:
    """Where the ONNX file lies that an engine is compiled from: brought to the precision, or as the mission gave it."""
    if not compiler.reads_precision(spec):
        return spec.onnx_path
    return layout.onnx / f"{spec.model_name}.{compiler.runtime_of(spec).name}.{spec.precision}.onnx"


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
    source = prepared_path(spec, layout, compiler)

    def components() -> Mapping[str, str]:
        prepared = {} if source == spec.onnx_path else {"prepared onnx": _digest_or_absence(source, digests)}
        return {**compiler.components(spec, model_digests(spec, layout, digests)), **prepared}

    def state() -> object:
        """Every input by content, and each file by when it was written: there and back is a change too."""
        files = dict.fromkeys((spec.onnx_path, source, *_external_data(spec, layout)))
        return dict(components()), [signature(path) for path in files]

    def build() -> Iterable[Path]:
        host, runtime = compiler.host, compiler.runtime_of(spec)
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
        compiler.compile(replace(spec, onnx_path=source), target, state())
        journal.counts["engines_built"] += 1
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
    """So worded that a file that is still to be made hides no other change, and is no certain one itself."""
    try:
        return digests.sha256(path)
    except FileNotFoundError:
        return f"{path.name} is not there"


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
            "runtime": f"{compiler.runtime_of(spec).name} {compiler.runtime_of(spec).version}",
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
