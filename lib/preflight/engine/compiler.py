"""The engine compiler: chooses the runtime for each backbone, says what decides an engine, and compiles several at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType

from preflight.engine.file_names import EngineName
from preflight.engine.runtime_choice import RuntimeChoice
from preflight.ports import Compilation, CompileRequest, ConcurrentRuntime, Engine, OnnxModels
from preflight.records import BackboneSpec, HostCapabilities, ModelSummary
from preflight.store.atomic import atomic_path
from preflight.store.sidecar import Sha256Sidecar
from preflight.trace.digests import hash_file
from preflight.trace.record import canonical_json


class EngineCompiler:
    """Compiles the backbones of a corpus for one host, with one runtime or with those that backbones name.

    others: name -> runtime, for the runtimes that backbones name for themselves.
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
        # As many compilations at a time as cores and memory allow.
        self._slots = min(host.cpus, host.memory_mb // workspace_mb)
        self._begun: dict[Path, _Begun] = {}

    def runtime_of(self, spec: BackboneSpec) -> RuntimeChoice:
        """Returns the runtime that compiles and runs this backbone."""
        return self._others.get(spec.runtime or "", self._runtime)

    def runtimes(self) -> tuple[RuntimeChoice, ...]:
        """Returns every runtime in use."""
        return (self._runtime, *self._others.values())

    def aside(self, spec: BackboneSpec) -> bool:
        """Returns whether this backbone can be compiled while another one is."""
        return self.runtime_of(spec).aside and self._slots > 1

    def name(self, spec: BackboneSpec) -> EngineName:
        """Returns the engine's file name, which says what it is and where it runs (D-C10-7). Raises EngineBuildError."""
        runtime = self.runtime_of(spec)
        return EngineName.on_host(
            spec.model_name, self.host, runtime.row, runtime.version, spec.precision, gpu=runtime.gpu
        )

    def components(self, spec: BackboneSpec, model: Mapping[str, str]) -> dict[str, str]:
        """Returns everything that decides the engine. model: the digests of the ONNX file and of its external data."""
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
            # An engine for a CPU does not depend on the GPU or its driver.
            **({} if self.name(spec).sm is None else {"gpu": _gpu_text(host)}),
        }

    def reads_precision(self, spec: BackboneSpec) -> bool:
        """Returns whether the runtime reads the precision from the ONNX file, which must be written into it before."""
        return spec.precision in self.runtime_of(spec).row.prepared

    def request(self, spec: BackboneSpec) -> CompileRequest:
        """Returns the spec in the form of the runtime port."""
        return CompileRequest(spec.onnx_path, spec.inputs, spec.precision, self._workspace_mb, self.batch_size)

    def inspect(self, spec: BackboneSpec) -> ModelSummary:
        """Checks the ONNX file against the spec. Raises BackboneError."""
        return self._models.inspect(spec)

    def start(self, spec: BackboneSpec, target: Path, inputs: object) -> None:
        """Starts `compile` in the background, if the runtime supports it and a slot is free.

        inputs: what the engine is compiled from, by value. `compile` uses the started work only if it gets equal inputs.
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
        """Writes the engine and its sidecar, from work that was started or from now on. Raises EngineBuildError."""
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
        Sha256Sidecar(target).write(digest)

    @contextmanager
    def _readable(self, spec: BackboneSpec) -> Iterator[BackboneSpec]:
        """Yields the spec. If the runtime reads one file only, its weights are joined into the ONNX file."""
        if not self.runtime_of(spec).row.one_file or not self._models.inspect(spec).external_data:
            yield spec
            return
        with TemporaryDirectory(prefix="preflight-onnx-") as folder:
            joined = Path(folder) / spec.onnx_path.name
            self._models.join(spec.onnx_path, joined)
            yield replace(spec, onnx_path=joined)

    def stop(self) -> None:
        """Stops work that was started and not used. Calling it twice is harmless."""
        while self._begun:
            _, begun = self._begun.popitem()
            begun.stop()

    def load(self, spec: BackboneSpec, engine: Path) -> Engine:
        """Imports the exported engine again. Raises EngineBuildError."""
        return self.runtime_of(spec).make().load(engine, self.request(spec))

    def reference(self, spec: BackboneSpec) -> Engine:
        """Returns ONNX Runtime fp32 on the model itself. Raises EngineBuildError."""
        return self._models.reference(spec.onnx_path)


class _GivenUp(Exception):  # noqa: N818 - leaves the place of an engine that is given up
    pass


@dataclass(frozen=True)
class _Begun:
    """An engine that is being compiled in the background. place: moves it to its path, or removes it."""

    compilation: Compilation
    temporary: Path
    slot: int
    inputs: object
    place: ExitStack

    def stop(self) -> None:
        """Stops it and removes its files."""
        with suppress(_GivenUp), self.place:
            self.compilation.stop()
            raise _GivenUp


def _gpu_text(host: HostCapabilities) -> str:
    """Returns what decides an engine for this host's GPU."""
    fields = {"sm": host.sm, "jetpack": host.jetpack, "driver": host.driver}
    return " ".join([host.gpu or "unnamed", *(f"{name} {value or 'none'}" for name, value in fields.items())])
