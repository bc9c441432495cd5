"""The artifacts of a cache: the files that its manifest signs, by name."""

from __future__ import annotations

from pathlib import Path

from preflight.engine.compiler import EngineCompiler
from preflight.mission.job import Job
from preflight.stages.units import steps_of
from preflight.store.cache_layout import CacheLayout

INDEX_NAME = "descriptors.faiss"
INVENTORY_NAME = "tiles.inventory"
WINDOWS_NAME = "windows.inventory"
CALIBRATION_NAME = "calibration.json"
SELFTEST_NAME = "selftest.json"
CORPUS_NAME = "corpus.json"
PROVENANCE_NAME = "provenance.json"


def artifact_paths(job: Job, layout: CacheLayout, compiler: EngineCompiler) -> dict[str, Path]:
    """Returns artifact name -> path of its bytes before they are published."""
    engines = [str(compiler.name(spec)) for spec in job.backbones]
    return {
        **{f"engines/{name}": layout.engines / name for name in engines},
        INDEX_NAME: layout.index,
        INVENTORY_NAME: layout.inventory,
        **({} if steps_of(job) == 1 else {WINDOWS_NAME: layout.windows}),
        CALIBRATION_NAME: job.calibration,
        SELFTEST_NAME: layout.selftest,
        CORPUS_NAME: layout.corpus,
        PROVENANCE_NAME: layout.provenance,
    }
