"""Calibrates a model and writes its precision into the ONNX file, for runtimes that read the precision there.

ONNX Runtime measures a table of tensor ranges once, in fp32, on a sample of the area's tiles. The sample stays when tiles
change. The table serves every precision and runtime. Table and model give an ONNX file in the wanted precision.
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
# For models that take no tiles. The seed differs from the gate's.
SYNTHETIC_SEED = 2
SYNTHETIC_SAMPLES = 32


def table_path(spec: BackboneSpec, layout: CacheLayout) -> Path:
    """Returns the path of a backbone's calibration table."""
    return layout.calibration / f"{spec.model_name}.json"


@dataclass(frozen=True)
class Preparation:
    """Writes one backbone's precision into its ONNX file, if its runtime reads the precision there.

    tools: called when needed, because it loads ONNX.
    versions: version of the tool that measures, and versions of all tools that write.
    recalibrate: ignore an existing table.
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
        """Returns the steps that calibrate and write; none if the runtime is told the precision."""
        return (self._calibrate(), self._write()) if self.compiler.reads_precision(self.spec) else ()

    def _calibrate(self) -> Step:
        spec, target = self.spec, table_path(self.spec, self.layout)

        def build() -> Iterable[Path]:
            if not self._kept(target):
                # One temporary file for both, so that the sweep finds what a killed run leaves.
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
        """Returns whether the existing table can be used. Raises CalibrationCacheError for a foreign table that does not fit."""
        if self.recalibrate or not target.is_file():
            return False
        content = target.read_bytes()
        table, key = CalibrationTable.decode(content, str(target)), self._key()
        record = read_record(record_path(target))
        ours = record is not None and record.outputs.get(target.name) == hashlib.sha256(content).hexdigest()
        if table.key != key and ours:
            return False  # this program measured it for other inputs
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
        """Measures the ranges. probe: path for the copy of the model that outputs its tensors."""
        ranges, samples = _ranges(self.spec, self.compiler, self.tools(), self._batches(), probe)
        return CalibrationTable(self._key(), samples, ranges)

    def _batches(self) -> Iterator[Batch]:
        """Yields the sample as inputs of the backbone."""
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
    """Writes an ONNX file in the spec's precision into `folder`, to find out whether it compiles. Not for flight.

    It is calibrated on random numbers. Returns the spec with the new file, or unchanged if the runtime is told the precision.

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
    """Returns (lowest, highest) value of each tensor, and the number of samples. Raises EngineBuildError."""
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
            f"{spec.onnx_path} gives NaN on the calibration sample, first in tensor {broken[0]}. Check its preprocessing in "
            "the mission, or export it again."
        )
    return found, samples


def _made_up(spec: BackboneSpec, types: Mapping[str, str]) -> Iterator[Batch]:
    made = synthetic_inputs(spec.inputs, SYNTHETIC_SAMPLES, SYNTHETIC_SEED, types)
    for at in _starts(spec, SYNTHETIC_SAMPLES):
        yield {name: array[at : at + _step(spec)] for name, array in made.items()}


def _step(spec: BackboneSpec) -> int:
    """Samples in a batch: the graph's fixed batch size, or a multiple of it."""
    fixed = next(iter(spec.inputs.values()))[0]
    return fixed * max(1, CALIBRATION_BATCH // fixed)


def _starts(spec: BackboneSpec, total: int) -> range:
    fixed = next(iter(spec.inputs.values()))[0]
    return range(0, total - total % fixed, _step(spec))
