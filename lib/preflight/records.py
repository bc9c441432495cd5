"""The values that pass between the parts: plain, frozen, without behaviour beyond their own text form.

Coordinates are WGS84 degrees, latitude before longitude; heights and distances are metres; times are UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal
from uuid import UUID

# Raised by hand when a tile would reach a model with other numbers than before.
PREPROCESSING_VERSION = 1

SectorClass = Literal["active_conflict", "stable_rear"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]
Outcome = Literal["success", "failure", "idempotent_no_op"]

STEPS = {0.0: 1, 0.5: 2, 0.75: 4}
"""Overlap of the database's units -> how many of them begin along a tile's side."""

MOST_AHEAD = timedelta(days=1)
"""How far ahead of the clock a date of capture may be, since one without a zone is read as UTC. It then counts as now."""


@dataclass(frozen=True, slots=True)
class BoundingBox:
    """An area between two parallels and two meridians, degrees; lat_min < lat_max, lon_min < lon_max."""

    lat_min: float
    lon_min: float
    lat_max: float
    lon_max: float


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the aircraft takes off: degrees, and metres above mean sea level, as flight plans and autopilots have it.

    No height is ever converted: there is no geoid model here.
    """

    lat: float
    lon: float
    alt: float


@dataclass(frozen=True, slots=True)
class TileRow:
    """One row of the tile store.

    lat and lon are the tile centre as the store's double precision holds it; they are never recomputed from x and y.
    path is relative to the tile store's root. texture is how much the picture shows, as `TileImage` of the import defines
    it; None where nobody measured it.
    """

    zoom: int
    x: int
    y: int
    lat: float
    lon: float
    source: str
    sha256: str
    path: str
    captured_at: datetime
    texture: float | None = None


@dataclass(frozen=True, slots=True)
class TileHashRecord:
    """What the aggregate over the tile set is made of (SPEC.md)."""

    zoom: int
    lat: float
    lon: float
    source: str
    sha256_hex: str


@dataclass(frozen=True, slots=True)
class TileBboxRecord:
    """What batching needs to know of a tile (SPEC.md)."""

    zoom: int
    lat: float
    lon: float
    source: str


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """Where tiles of a source come from; one for each folder or file imported under its name.

    origin: the path as it was on the importing machine. captured_at is None where neither the source nor the operator
    said. imported_at: when an import from there last changed a tile.
    """

    name: str
    origin: str
    terms: str | None
    captured_at: datetime | None
    imported_at: datetime


@dataclass(frozen=True, slots=True)
class StoreRevision:
    """A state of the tile store: two equal revisions hold equal rows. Every change advances it in its own transaction."""

    store_id: str
    revision: int


@dataclass(frozen=True, slots=True)
class HostCapabilities:
    """What decides which engines this machine can build and run. The GPU's fields are None where there is none.

    cpus, memory_mb: what there is for building several engines at a time; they decide no engine.
    """

    arch: str  # platform.machine(): x86_64, aarch64
    isa: str  # widest vector extension the CPU runtimes use: avx512, avx2, sse4, neon; letters, digits, dots
    sm: str | None = None  # compute capability without the dot: "87"
    jetpack: str | None = None  # "6.2"
    gpu: str | None = None  # "NVIDIA RTX A2000"; a Jetson's NVML may not say
    driver: str | None = None  # "580.95.05"
    cpus: int = 1
    memory_mb: int = 0


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """(pixel - mean) / std for each of R, G, B, on pixels in 0..255."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """One model of the corpus, as the mission names it.

    inputs: input name -> shape, batch first; for an image NCHW. A batch dimension of 1 in the mission means
    "one image"; the graph may be dynamic in it. parity_cosine: the gate's threshold for this model; None for its precision's.
    precision_overrides: (pattern of node names, precision) for single layers, the first that fits. runtime: None for the
    mission's.
    """

    model_name: str
    role: Literal["descriptor", "auxiliary"]
    onnx_path: Path
    inputs: dict[str, tuple[int, ...]]
    precision: Precision
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    parity_cosine: float | None = None
    precision_overrides: tuple[tuple[str, Precision], ...] = ()
    runtime: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What an ONNX file says of itself.

    outputs: name -> shape, None for a dynamic dimension; external_data: its weights; types: input name -> ONNX element type.
    """

    outputs: dict[str, tuple[int | None, ...]]
    external_data: tuple[Path, ...]
    opset: int
    types: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineCacheEntry:
    """One engine as `compile_engines_for_corpus` reports it."""

    model_name: str
    path: Path
    sha256: str
    reused: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class IndexParameters:
    """HNSW parameters as FAISS names them (M, efConstruction, efSearch)."""

    m: int = 32
    ef_construction: int = 200
    ef_search: int = 64
    metric: Literal["inner_product"] = "inner_product"
    storage: Literal["float32"] = "float32"


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What is asked of the provisioner (SPEC.md)."""

    bbox: BoundingBox
    zoom_levels: tuple[int, ...]
    sector_class: SectorClass
    calibration_path: Path
    cache_root: Path
    takeoff_origin: Origin | None = None
    flight_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did (SPEC.md)."""

    engines_built: int
    engines_reused: int
    descriptors_generated: int
    manifest_hash: str | None
    outcome: Outcome
    failure_reason: str | None = None
