"""Calibration and precision: the steps between an ONNX file and a runtime that reads its precision there.

A table of ranges is measured once on a sample of the area's tiles, by ONNX Runtime in fp32, and kept: the sample stays when
tiles change, and the table serves every precision and runtime. From it and the model comes an ONNX file in the precision asked.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from preflight.engine.calibration_table import METHOD, CalibrationKey, CalibrationTable, merged
from preflight.engine.compiler import EngineCompiler
from preflight.engine.model_input import image_size, preprocessing_text
from preflight.engine.parity import synthetic_inputs
from preflight.errors import EngineBuildError
from preflight.ports import ImageCodec, PrecisionTools
from preflight.records import BackboneSpec
from preflight.stages.engines import model_digests, model_path, prepared_path
from preflight.store.atomic import atomic_path
from preflight.store.cache_layout import CacheLayout
from preflight.trace.digests import DigestCache
from preflight.trace.record import canonical_json, read_record, record_path
from preflight.trace.rule import Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Batch = Mapping[str, NDArray[np.generic]]

__all__ = ["Preparation", "prepare_without_tiles", "table_path"]

CALIBRATE_VERSION = 1
PREPARE_VERSION = 1
CALIBRATION_BATCH = 8
# Numbers for models that take no tiles; other ones than the gate's.
SYNTHETIC_SEED = 2
SYNTHETIC_SAMPLES = 32


def table_path(spec: BackboneSpec, layout: CacheLayout) -> Path:
    """Where a backbone's calibration table lies."""
    return layout.calibration / f"{spec.model_name}.json"


@dataclass(frozen=True)
class Preparation:
    """Brings one backbone's ONNX file to its precision, where the runtime reads it there.

    tools: made when needed, since it loads ONNX. versions: of what measures, and of all that writes. recalibrate: a table that is
    there counts for nothing.
    """

    spec: BackboneSpec
    layout: CacheLayout
    compiler: EngineCompiler
    digests: DigestCache
    images: Callable[[], ImageCodec]
    tools: Callable[[], PrecisionTools]
    versions: tuple[str, str]
    recalibrate: bool

    def steps(self) -> tuple[Step, ...]:
        """Calibrate, then write; none where the runtime is told its precision."""
        return (self._calibrate(), self._write()) if self.compiler.reads_precision(self.spec) else ()

    def _calibrate(self) -> Step:
        spec, target = self.spec, table_path(self.spec, self.layout)

        def build() -> Iterable[Path]:
            if not self._kept(target):
                # One temporary for both, so that what a kill leaves is swept as any other.
                with atomic_path(target) as temporary:
                    table = self._measured(temporary)
                    temporary.write_bytes(table.encode())
            return ()

        def components() -> Mapping[str, str]:
            key = self._key()
            model = model_digests(spec, self.layout, self.digests)
            return {**model, "sample": key.sample, "inputs": key.inputs, "method": key.method, "tool": key.tool}

        reads = (spec.onnx_path, *self._sample())
        return Step(f"calibration:{spec.model_name}", CALIBRATE_VERSION, reads, components, (target,), build)

    def _write(self) -> Step:
        spec, compiler = self.spec, self.compiler
        table, target = table_path(spec, self.layout), prepared_path(spec, self.layout, compiler)
        signed = compiler.runtime_of(spec).row.signed_int8

        def components() -> Mapping[str, str]:
            return {
                **model_digests(spec, self.layout, self.digests),
                "calibration": self.digests.sha256(table),
                "precision": spec.precision,
                "precision_overrides": canonical_json(spec.precision_overrides).decode(),
                "int8": "signed, symmetric" if signed else "unsigned, with a zero point",
                "tools": self.versions[1],
            }

        def build() -> Iterable[Path]:
            found = CalibrationTable.decode(table.read_bytes(), str(table))
            found.check_made_for(self._key(), str(table))
            with atomic_path(target) as temporary:
                self.tools().prepare(spec, found.ranges, temporary, symmetric=signed)
            return ()

        reads = (spec.onnx_path, table)
        return Step(f"precision:{spec.model_name}", PREPARE_VERSION, reads, components, (target,), build)

    def _kept(self, target: Path) -> bool:
        """Whether the table that is there serves. Raises CalibrationCacheError for one that is not ours to replace."""
        if self.recalibrate or not target.is_file():
            return False
        content = target.read_bytes()
        table, key = CalibrationTable.decode(content, str(target)), self._key()
        record = read_record(record_path(target))
        ours = record is not None and record.outputs.get(target.name) == hashlib.sha256(content).hexdigest()
        if table.key != key and ours:
            return False  # measured here, for what was asked then
        table.check_made_for(key, str(target))
        return True

    def _key(self) -> CalibrationKey:
        spec = self.spec
        model = model_digests(spec, self.layout, self.digests)
        inputs = {name: list(shape) for name, shape in spec.inputs.items()}
        sample = next((self.digests.sha256(path) for path in self._sample()), None)
        return CalibrationKey(
            model=hashlib.sha256(canonical_json(model)).hexdigest(),
            sample=sample or f"{SYNTHETIC_SAMPLES} drawn from seed {SYNTHETIC_SEED}",
            inputs=f"{canonical_json(inputs).decode()} {preprocessing_text(spec)}",
            method=METHOD,
            tool=self.versions[0],
        )

    def _sample(self) -> tuple[Path, ...]:
        return (self.layout.calibration_sample,) if image_size(self.spec) is not None else ()

    def _measured(self, probe: Path) -> CalibrationTable:
        """probe: a file to write the model into that tells of its tensors."""
        ranges, samples = _ranges(self.spec, self.compiler, self.tools(), self._batches(), probe)
        return CalibrationTable(self._key(), samples, ranges)

    def _batches(self) -> Iterator[Batch]:
        """The sample as the backbone takes it."""
        import numpy as np  # noqa: PLC0415 - heavy

        spec, size = self.spec, image_size(self.spec)
        if size is None:
            yield from _made_up(spec, json.loads(model_path(spec, self.layout).read_bytes())["types"])
            return
        images = self.images()
        tiles = np.load(self.layout.calibration_sample, allow_pickle=False, mmap_mode="r")
        for at in _starts(spec, len(tiles)):
            resized = np.stack([images.resize(np.asarray(tile), size) for tile in tiles[at : at + _step(spec)]])
            yield {next(iter(spec.inputs)): images.to_batch(resized, spec.preprocessing)}


def prepare_without_tiles(
    spec: BackboneSpec, compiler: EngineCompiler, tools: Callable[[], PrecisionTools], folder: Path
) -> BackboneSpec:
    """The spec with an ONNX file in its precision, written into `folder`: to see whether it compiles, not to fly with.

    It is calibrated on numbers that are made up. The spec as it is, where the runtime is told its precision.

    Raises:
        BackboneError, EngineBuildError: as `PrecisionTools` does.
    """
    if not compiler.reads_precision(spec):
        return spec
    probe, target = folder / "probe.onnx", folder / f"{spec.model_name}.onnx"
    made = _made_up(spec, compiler.inspect(spec).types)
    ranges, _ = _ranges(spec, compiler, tools(), made, probe)
    tools().prepare(spec, ranges, target, symmetric=compiler.runtime_of(spec).row.signed_int8)
    return replace(spec, onnx_path=target)


def _ranges(
    spec: BackboneSpec, compiler: EngineCompiler, tools: PrecisionTools, batches: Iterable[Batch], probe: Path
) -> tuple[dict[str, tuple[float, float]], int]:
    """How far the tensors of a model reach, and on how many samples. Raises EngineBuildError."""
    tools.probe(spec, probe)
    found: dict[str, tuple[float, float]] = {}
    samples = 0
    with compiler.reference(replace(spec, onnx_path=probe)) as engine:
        for batch in batches:
            found = merged(found, tools.ranges(engine.run(batch)))
            samples += len(next(iter(batch.values())))
    broken = sorted(name for name, reach in found.items() if any(math.isnan(bound) for bound in reach))
    if broken:
        raise EngineBuildError(
            f"{spec.onnx_path} gives values that are no numbers on the calibration sample, first in {broken[0]}. Check its "
            "preprocessing in the mission, or export it again."
        )
    return found, samples


def _made_up(spec: BackboneSpec, types: Mapping[str, str]) -> Iterator[Batch]:
    made = synthetic_inputs(spec.inputs, SYNTHETIC_SAMPLES, SYNTHETIC_SEED, types)
    for at in _starts(spec, SYNTHETIC_SAMPLES):
        yield {name: array[at : at + _step(spec)] for name, array in made.items()}


def _step(spec: BackboneSpec) -> int:
    """Samples a batch: as many as a graph of fixed batch size takes, or a multiple of it."""
    fixed = next(iter(spec.inputs.values()))[0]
    return fixed * max(1, CALIBRATION_BATCH // fixed)


def _starts(spec: BackboneSpec, total: int) -> range:
    fixed = next(iter(spec.inputs.values()))[0]
    return range(0, total - total % fixed, _step(spec))
