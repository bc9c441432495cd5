"""The fields of a mission file: names, types, bounds, defaults. `job` checks what needs several fields."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

import msgspec

from preflight.engine.runtimes import DEFAULT_RUNTIME
from preflight.records import Precision, SectorClass
from takeoff.manifest import SCHEMA_VERSION

MAX_ZOOM = 22
# From below the shore of the Dead Sea to above any aircraft.
MIN_ALTITUDE_M, MAX_ALTITUDE_M = -500, 100_000

Latitude = Annotated[float, msgspec.Meta(ge=-90, le=90)]
Longitude = Annotated[float, msgspec.Meta(ge=-180, le=180)]
Altitude = Annotated[float, msgspec.Meta(ge=MIN_ALTITUDE_M, le=MAX_ALTITUDE_M)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
Zoom = Annotated[int, msgspec.Meta(ge=0, le=MAX_ZOOM)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
Channels = tuple[float, float, float]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping of the mission file."""


class BoxSection(_Part, frozen=True):
    """area.bbox, in WGS84 degrees."""

    lat_min: Latitude
    lon_min: Longitude
    lat_max: Latitude
    lon_max: Longitude


class AreaSection(_Part, frozen=True):
    """area: exactly one of bbox, polygon and route. corridor_m: metres on each side of the route, only with a route."""

    bbox: BoxSection | None = None
    polygon: Name | None = None
    route: Name | None = None
    corridor_m: Annotated[float, msgspec.Meta(ge=1, le=50_000)] | None = None
    allow_missing: Share = 0.0


class TileStoreSection(_Part, frozen=True):
    """tile_store: where C6 keeps its tiles. if_empty: what `doit provision` imports into an empty store."""

    root: Name
    database: Name = "embedded"
    source_order: tuple[str, ...] = ()
    if_empty: Literal["demo"] | None = None


class OriginSection(_Part, frozen=True):
    """takeoff_origin: degrees, and metres above mean sea level."""

    lat: Latitude
    lon: Longitude
    alt: Altitude


class PreprocessingSection(_Part, frozen=True):
    """preprocessing: (pixel - mean) / std on 0..255 RGB."""

    mean: Channels = (0.0, 0.0, 0.0)
    std: Channels = (1.0, 1.0, 1.0)


class ParitySection(_Part, frozen=True):
    """parity.cosine: the gate's threshold for one model. Below 0.95 an engine does not compute what its model computes."""

    cosine: Annotated[float, msgspec.Meta(ge=0.95, le=1)]


class BackboneSection(_Part, frozen=True):
    """One entry of backbones."""

    model_name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9]+(_[a-z0-9]+)*$")]
    onnx_path: Name
    role: Literal["descriptor", "auxiliary"] = "auxiliary"
    input_name: Name | None = None
    expected_input_shape: tuple[Positive, ...] | None = None
    inputs: dict[str, tuple[Positive, ...]] | None = None
    precision: Precision = "fp32"
    # Shell pattern for node names -> precision. The first pattern that matches a node decides.
    precision_overrides: dict[Name, Literal["fp32", "fp16", "int8"]] = {}
    preprocessing: PreprocessingSection = PreprocessingSection()
    parity: ParitySection | None = None
    # If it differs from the runtime of the whole corpus.
    runtime: Name | None = None


class DescriptorsSection(_Part, frozen=True):
    """descriptors."""

    batch_size: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64
    max_oom_retries: Annotated[int, msgspec.Meta(ge=0, le=12)] = 1
    overlap: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    executor: Literal["local"] = "local"


class IndexSection(_Part, frozen=True):
    """index: FAISS HNSW."""

    m: Annotated[int, msgspec.Meta(ge=2, le=128)] = 32
    ef_construction: Annotated[int, msgspec.Meta(ge=1, le=10000)] = 200
    ef_search: Annotated[int, msgspec.Meta(ge=1, le=10000)] = 64
    metric: Literal["inner_product"] = "inner_product"
    storage: Literal["float32"] = "float32"


class SelftestSection(_Part, frozen=True):
    """selftest. margin_over_thumbnail: lowest allowed recall@1 minus that of the baseline, heading known; -1 only reports it."""

    queries: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 200
    margin_over_thumbnail: Annotated[float, msgspec.Meta(ge=-1, le=1)] = -1.0


class ManifestSection(_Part, frozen=True):
    """manifest: who signs, where, and for how long. signing_key: the private key; for offline signing the public key."""

    signing_mode: Literal["dev", "operator"]
    signing_key: Name
    signing: Literal["here", "offline"] = "here"
    allowed_operator_fingerprints: tuple[Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")], ...] = ()
    schema_version: str = SCHEMA_VERSION
    valid_for_days: Annotated[int, msgspec.Meta(ge=1, le=3660)] = 30


class AgesSection(_Part, frozen=True):
    """provisioner.max_tile_age_days, by sector class."""

    active_conflict: Positive = 30
    stable_rear: Positive = 365


class ProvisionerSection(_Part, frozen=True):
    """provisioner."""

    keep_generations: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 3
    max_tile_age_days: AgesSection = AgesSection()


class ProvisioningConfig(_Part, frozen=True):
    """components.c10_provisioning (SPEC.md's configuration).

    runtime: a name of `preflight.engine.runtimes`; `check_job` refuses others. device: for a runtime that takes one; default cpu.
    """

    backbones: Annotated[tuple[BackboneSection, ...], msgspec.Meta(min_length=1)]
    manifest: ManifestSection
    runtime: Name = DEFAULT_RUNTIME
    device: Literal["cpu", "cuda"] | None = None
    workspace_mb: Positive = 2048
    descriptors: DescriptorsSection = DescriptorsSection()
    index: IndexSection = IndexSection()
    selftest: SelftestSection = SelftestSection()
    provisioner: ProvisionerSection = ProvisionerSection()


class ComponentsSection(_Part, frozen=True):
    """components."""

    c10_provisioning: ProvisioningConfig


class MissionFile(_Part, frozen=True):
    """The whole file, as written."""

    version: Literal[1]
    cache_root: Name
    tile_store: TileStoreSection
    area: AreaSection
    zoom_levels: Annotated[tuple[Zoom, ...], msgspec.Meta(min_length=1)]
    sector_class: SectorClass
    calibration: Name
    trust: Name
    components: ComponentsSection
    takeoff_origin: OriginSection | None = None
    flight_id: UUID | None = None
