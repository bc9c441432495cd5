"""corpus.json: how to use the engines and the index in flight.

The manifest stage writes it because it is signed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from preflight.engine.compiler import EngineCompiler
from preflight.mission.job import Job
from preflight.records import BackboneSpec
from preflight.stages.artifacts import INDEX_NAME, INVENTORY_NAME, WINDOWS_NAME
from preflight.stages.units import steps_of
from preflight.store.atomic import atomic_write
from preflight.store.cache_layout import CacheLayout
from preflight.trace.record import canonical_json
from preflight.trace.rule import Step

CORPUS_VERSION = 1


def corpus_step(
    job: Job, layout: CacheLayout, compiler: EngineCompiler, cards: Callable[[BackboneSpec], Mapping[str, object]]
) -> Step:
    """Returns the step that writes corpus.json. cards: the card of a backbone as JSON fields."""

    def content() -> bytes:
        section = job.config.index
        backbones = [
            {
                "model_name": spec.model_name,
                "role": spec.role,
                "engine": f"engines/{compiler.name(spec)}",
                "inputs": {name: list(shape) for name, shape in spec.inputs.items()},
                "precision": spec.precision,
                "preprocessing": {"mean": list(spec.preprocessing.mean), "std": list(spec.preprocessing.std)},
                **cards(spec),
            }
            for spec in job.backbones
        ]
        index = {"file": INDEX_NAME, "metric": section.metric, "m": section.m, "ef_search": section.ef_search}
        # The file that gives the position of each id of the index.
        units = {
            "file": INVENTORY_NAME if steps_of(job) == 1 else WINDOWS_NAME,
            "overlap": job.config.descriptors.overlap,
        }
        return canonical_json({"backbones": backbones, "index": index, "units": units}) + b"\n"

    def build() -> Iterable[Path]:
        atomic_write(layout.corpus, content())
        return ()

    return Step("corpus", CORPUS_VERSION, (), lambda: {"content": content().decode()}, (layout.corpus,), build)
