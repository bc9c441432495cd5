"""The parity gate: compares the exported engine with the ONNX reference."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from preflight.engine.compiler import EngineCompiler
from preflight.engine.model_input import image_size, preprocessing_text
from preflight.engine.parity import THRESHOLDS, check_parity, synthetic_inputs
from preflight.ports import ImageCodec
from preflight.records import BackboneSpec
from preflight.stages.engines import model_digests, model_path
from preflight.store.atomic import atomic_write
from preflight.store.cache_layout import CacheLayout
from preflight.trace.digests import DigestCache
from preflight.trace.record import canonical_json
from preflight.trace.rule import Step

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PARITY_VERSION = 1
PARITY_SEED = 1
PARITY_BATCH = 32


def parity_path(spec: BackboneSpec, layout: CacheLayout) -> Path:
    """Returns the path of the gate's report on a backbone."""
    return layout.work / "parity" / f"{spec.model_name}.json"


def parity_step(
    spec: BackboneSpec,
    layout: CacheLayout,
    compiler: EngineCompiler,
    digests: DigestCache,
    images: Callable[[], ImageCodec],
    reference_version: str,
) -> Step:
    """Returns the gate's step. It imports the exported engine and compares it with ONNX Runtime fp32 on real tiles."""
    engine = layout.engines / str(compiler.name(spec))
    target = parity_path(spec, layout)

    def components() -> Mapping[str, str]:
        return {
            **model_digests(spec, layout, digests),
            "engine": digests.sha256(engine),
            # Equal bytes can give other numbers under another version.
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
    """The mission's threshold for this model, else the default of its precision."""
    return THRESHOLDS[spec.precision] if spec.parity_cosine is None else spec.parity_cosine


def _feed(spec: BackboneSpec, layout: CacheLayout, images: ImageCodec) -> Mapping[str, NDArray[np.generic]]:
    """Returns the sample as input of the backbone; random numbers with a fixed seed if it takes no image."""
    import numpy as np  # noqa: PLC0415 - heavy

    tiles = np.load(layout.parity_sample, allow_pickle=False)
    size = image_size(spec)
    if size is None:
        types = json.loads(model_path(spec, layout).read_bytes())["types"]
        return synthetic_inputs(spec.inputs, len(tiles), PARITY_SEED, types)
    resized = np.stack([images.resize(tile, size) for tile in tiles])
    return {next(iter(spec.inputs)): images.to_batch(resized, spec.preprocessing)}
