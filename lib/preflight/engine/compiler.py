"""The engine compiler: which runtime compiles which backbone, what decides an engine, and compiling it, also beside another."""

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
from preflight.store.atomic import atomic_path, atomic_write
from preflight.trace.digests import hash_file
from preflight.trace.record import canonical_json
from takeoff.layout import sidecar_bytes
from takeoff.names import sidecar_name


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
            spec.model_name, self.host, runtime.row, runtime.version, spec.precision, gpu=runtime.gpu
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
        return spec.precision in self.runtime_of(spec).row.prepared

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
        if not self.runtime_of(spec).row.one_file or not self._models.inspect(spec).external_data:
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
