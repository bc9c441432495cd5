"""Plain immutable values that the packages of `preflight` pass to each other.

Coordinates are WGS84 degrees, latitude before longitude. Heights and distances are metres. Times are UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Literal
from uuid import UUID

from takeoff.position import LatLonAlt

__version__ = "0.1.0"
"""The version of this package, as in pyproject.toml."""

# A developer increments it when a change gives a model other input values for the same tile.
PREPROCESSING_VERSION = 1

SectorClass = Literal["active_conflict", "stable_rear"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]


class TextEnum(str, Enum):
    """An enumeration whose members equal their text, print as their text and serialise as their text."""

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, format_spec: str) -> str:
        return str.__format__(self, format_spec)


class SectorClassification(TextEnum):
    """How fast imagery of a sector becomes outdated."""

    ACTIVE_CONFLICT = "active_conflict"
    STABLE_REAR = "stable_rear"


class PrecisionMode(TextEnum):
    """The number format in which an engine computes."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"


class BuildOutcome(TextEnum):
    """How a build ended."""

    SUCCESS = "success"
    FAILURE = "failure"
    IDEMPOTENT_NO_OP = "idempotent_no_op"


STEPS = {0.0: 1, 0.5: 2, 0.75: 4}
"""Overlap of neighbouring retrieval units -> number of units that begin along one side of a tile."""

MOST_AHEAD = timedelta(days=1)
"""How far a capture date may lie ahead of the clock. It then counts as now.

A date without a time zone is read as UTC and may therefore lie ahead.
"""


@dataclass(frozen=True, slots=True)
class BoundingBox:
    """An area between two parallels and two meridians, in degrees. lat_min < lat_max and lon_min < lon_max."""

    lat_min: float
    lon_min: float
    lat_max: float
    lon_max: float


@dataclass(frozen=True, slots=True)
class TileId:
    """A tile's identity, as C6 has it. lat and lon are the tile's centre in WGS84 degrees."""

    zoom_level: int
    lat: float
    lon: float


@dataclass(frozen=True, slots=True)
class TileRow:
    """One row of the tile store.

    Attributes:
        zoom, x, y: the tile in the XYZ scheme.
        lat, lon: the tile centre in degrees, exactly as the store holds it in double precision. It is never recomputed
            from x and y.
        source: the name under which the tile was imported.
        sha256: hash of the file's content, 64 hex digits.
        path: the file, relative to the root of the tile store.
        captured_at: when the picture was taken.
        texture: how much structure the picture shows, as `tile_import.storing.TileImage` defines it. None if it was
            never measured.
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

    @property
    def tile_id(self) -> TileId:
        """The tile's identity, as C6 has it."""
        return TileId(self.zoom, self.lat, self.lon)

    @property
    def content_sha256_hex(self) -> str:
        """The hash, under C6's name."""
        return self.sha256


@dataclass(frozen=True, slots=True)
class TileHashRecord:
    """One tile's part of the aggregate hash over a tile set (SPEC.md)."""

    zoom: int
    lat: float
    lon: float
    source: str
    sha256_hex: str


@dataclass(frozen=True, slots=True)
class TileBboxRecord:
    """The fields of a tile that batching needs (SPEC.md)."""

    zoom: int
    lat: float
    lon: float
    source: str


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """The provenance of a source: one record for each folder or file imported under the source's name.

    Attributes:
        name: the name of the source.
        origin: the imported path on the machine that imported it.
        terms: licence or attribution.
        captured_at: when the pictures were taken. None if neither the source nor the operator gave a date.
        imported_at: when an import from this origin last changed a tile.
    """

    name: str
    origin: str
    terms: str | None
    captured_at: datetime | None
    imported_at: datetime


@dataclass(frozen=True, slots=True)
class StoreRevision:
    """A state of the tile store. Equal revisions hold equal rows.

    Every change of a row advances the revision in the same transaction.
    """

    store_id: str
    revision: int


@dataclass(frozen=True, slots=True)
class HostCapabilities:
    """The properties of this machine that decide which engines it can build and run.

    The GPU fields are None on a machine without a GPU. cpus and memory_mb limit how many engines are built in parallel;
    they have no influence on an engine.
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
    """Normalisation of pixels in 0..255: (pixel - mean) / std for each channel, in the order R, G, B."""

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class BackboneSpec:
    """One model of the corpus, as the mission declares it.

    Attributes:
        model_name: the name in the mission.
        role: the descriptor backbone, or an auxiliary model.
        onnx_path: the ONNX file.
        inputs: input name -> shape, batch dimension first, NCHW for an image. A batch dimension of 1 means "one image";
            the graph may have a dynamic batch dimension.
        precision: the precision of the engine.
        preprocessing: normalisation of the image input.
        parity_cosine: this model's threshold of the parity gate; None for the threshold of its precision.
        precision_overrides: (pattern of node names, precision) for single layers. The first matching pattern counts.
        runtime: the runtime of this model; None for the runtime of the mission.
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
    """What an ONNX file declares about itself.

    Attributes:
        outputs: output name -> shape; None is a dynamic dimension.
        external_data: the files that hold its weights.
        opset: the version of the ONNX operator set.
        types: input name -> ONNX element type.
    """

    outputs: dict[str, tuple[int | None, ...]]
    external_data: tuple[Path, ...]
    opset: int
    types: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EngineCacheEntry:
    """One engine in the result of `compile_engines_for_corpus`."""

    model_name: str
    path: Path
    sha256: str
    reused: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class IndexParameters:
    """Parameters of an HNSW index: M, efConstruction and efSearch of FAISS."""

    m: int = 32
    ef_construction: int = 200
    ef_search: int = 64
    metric: Literal["inner_product"] = "inner_product"
    storage: Literal["float32"] = "float32"


@dataclass(frozen=True, slots=True)
class HnswParams:
    """Parameters of an HNSW index, as C6 takes them."""

    m: int
    ef_construction: int
    ef_search: int
    metric: str


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """A request to the provisioner (SPEC.md)."""

    bbox: BoundingBox
    zoom_levels: tuple[int, ...]
    sector_class: SectorClass | SectorClassification
    calibration_path: Path
    cache_root: Path
    takeoff_origin: LatLonAlt | None = None
    flight_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class BuildReport:
    """The result of a build (SPEC.md)."""

    engines_built: int
    engines_reused: int
    descriptors_generated: int
    manifest_hash: str | None
    outcome: BuildOutcome
    failure_reason: str | None = None
