"""What one build is asked to do, and the checks that need several fields. Mission files and the Python API share both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import get_args
from uuid import UUID

from preflight.area.area import Area
from preflight.area.web_mercator import haversine_m
from preflight.engine.file_names import model_name_problem
from preflight.engine.precisions import override_problem
from preflight.engine.runtimes import RUNTIMES, Place, Runtime, RuntimeTable, either
from preflight.mission.cache_place import trust_problem
from preflight.mission.schema import MAX_ALTITUDE_M, MAX_ZOOM, MIN_ALTITUDE_M, ProvisioningConfig
from preflight.records import STEPS, BackboneSpec, BoundingBox, IndexParameters, SectorClass
from takeoff.manifest import SCHEMA_VERSION
from takeoff.position import LatLonAlt

__all__ = ["BUILTIN", "Job", "check_job"]

BUILTIN = "builtin:"
MAX_CALIBRATION_BYTES = 16 << 20
# An aircraft takes off near its area. A greater distance means swapped coordinates or a typing mistake.
MAX_ORIGIN_DISTANCE_M = 50_000.0

_CONFIG = "components.c10_provisioning"
_WHERE: Mapping[Place, str] = {
    "cpu": "on the CPU",
    "gpu": "on the GPU",
    "gpu if any": "on the GPU where there is one",
}
_BUILT_HERE = f"{BUILTIN}weight_free_vpr"

Problem = tuple[str, str]
"""(place as a mission file names it, what is wrong there)."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one build is asked to do.

    Every path is absolute. area_file: the file that the area was read from, or None.
    """

    cache_root: Path
    area: Area
    area_file: Path | None
    allow_missing: float
    zoom_levels: tuple[int, ...]
    sector_class: SectorClass
    source_order: tuple[str, ...]
    calibration: Path
    takeoff_origin: LatLonAlt | None
    flight_id: UUID | None
    trust: Path
    signing_key: Path
    backbones: tuple[BackboneSpec, ...]
    config: ProvisioningConfig

    @property
    def descriptor(self) -> BackboneSpec:
        """The backbone whose output goes into the index."""
        return next(spec for spec in self.backbones if spec.role == "descriptor")

    @property
    def index_parameters(self) -> IndexParameters:
        """The index section in the form of the port."""
        section = self.config.index
        return IndexParameters(section.m, section.ef_construction, section.ef_search, section.metric, section.storage)

    @property
    def max_tile_age(self) -> timedelta:
        """The greatest age of a tile for the sector class."""
        ages = self.config.provisioner.max_tile_age_days
        return timedelta(days=ages.active_conflict if self.sector_class == "active_conflict" else ages.stable_rear)


def check_job(job: Job, tile_root: Path | None, runtimes: RuntimeTable = RUNTIMES) -> list[Problem]:
    """Returns every fault that would stop a build only after hours, or sign a cache that a flight cannot use.

    Reads the calibration file. Writes nothing and raises nothing.

    Args:
        job: an empty area counts as refused already.
        tile_root: the folder of the tile store; None if it has none.
        runtimes: the runtimes that the job can name.
    """
    return [
        *_values(job),
        *_folders(job, tile_root),
        *_calibration(job.calibration),
        *_origin(job),
        *_backbones(job.backbones),
        *_precisions(job, runtimes),
        *_runtime(job.config, runtimes),
        *_config(job.config),
    ]


def _values(job: Job) -> Iterator[Problem]:
    if not job.zoom_levels:
        yield "zoom_levels", "name at least one zoom"
    for zoom in job.zoom_levels:
        if not isinstance(zoom, int) or not 0 <= zoom <= MAX_ZOOM:
            yield "zoom_levels", f"{zoom} is not a zoom level: give whole numbers from 0 to {MAX_ZOOM}"
    if len(set(job.zoom_levels)) != len(job.zoom_levels):
        yield "zoom_levels", "a zoom is named twice"
    classes = get_args(SectorClass)
    if job.sector_class not in classes:
        yield "sector_class", f"{job.sector_class!r} is neither {' nor '.join(classes)}"
    if not 0.0 <= job.allow_missing <= 1.0:
        yield "area.allow_missing", f"{job.allow_missing} is not a share: give a number from 0 to 1"


def _folders(job: Job, tile_root: Path | None) -> Iterator[Problem]:
    cache = job.cache_root
    for at, place in (("trust", job.trust), (f"{_CONFIG}.manifest.signing_key", job.signing_key)):
        problem = trust_problem(place, cache)
        if problem is not None:
            yield at, problem
    if tile_root is not None and (_within(tile_root, cache) or _within(cache, tile_root)):
        yield "tile_store.root", f"overlaps cache_root ({cache}); keep the two folders apart"


def _within(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _calibration(path: Path) -> Iterator[Problem]:
    problem = _file_problem(path)
    if problem is not None:
        yield "calibration", problem
        return
    try:
        with path.open("rb") as file:
            content = file.read(MAX_CALIBRATION_BYTES + 1)
    except OSError as error:
        yield "calibration", f"{path} cannot be read ({error.strerror})"
        return
    if len(content) > MAX_CALIBRATION_BYTES:
        yield "calibration", f"{path} is larger than 16 MiB, too large for a camera calibration: name the right file"
        return
    try:
        json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        yield "calibration", f"{path} is not JSON text in UTF-8 ({error}): export it again"


def _origin(job: Job) -> Iterator[Problem]:
    origin = job.takeoff_origin
    if origin is None:
        return
    bounds = {"lat": (-90.0, 90.0), "lon": (-180.0, 180.0), "alt": (MIN_ALTITUDE_M, MAX_ALTITUDE_M)}
    # NaN fails this comparison too.
    outside = [name for name, (least, most) in bounds.items() if not least <= getattr(origin, name) <= most]
    for name in outside:
        yield f"takeoff_origin.{name}", "{} is not within {:g} to {:g}".format(getattr(origin, name), *bounds[name])
    boxes = job.area.boxes()
    if outside or not boxes:
        return
    away = min(_distance_m(box, origin) for box in boxes)
    if away > MAX_ORIGIN_DISTANCE_M:
        limit = (
            f"more than {MAX_ORIGIN_DISTANCE_M / 1000:.0f} km: are latitude and longitude swapped, or a digit mistyped?"
        )
        yield "takeoff_origin", f"({origin.lat}, {origin.lon}) is {away / 1000:,.0f} km from the area, {limit}"


def _distance_m(box: BoundingBox, origin: LatLonAlt) -> float:
    """Returns metres to the nearest point of the box, along parallel and meridian; 0 inside. Handles the antimeridian."""
    lat = min(max(origin.lat, box.lat_min), box.lat_max)
    lons = (min(max(origin.lon + turn, box.lon_min), box.lon_max) for turn in (-360.0, 0.0, 360.0))
    return min(haversine_m(origin.lat, origin.lon, lat, lon) for lon in lons)


def _backbones(backbones: Sequence[BackboneSpec]) -> Iterator[Problem]:
    at = f"{_CONFIG}.backbones"
    roles = [spec.role for spec in backbones]
    if roles.count("descriptor") != 1:
        yield at, f"{roles.count('descriptor')} backbones have the role `descriptor`: give it to exactly one"
    names = [spec.model_name for spec in backbones]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield at, f"model_name {name} is given twice"
    for number, spec in enumerate(backbones):
        yield from _backbone(spec, f"{at}[{number}]")


def _backbone(spec: BackboneSpec, at: str) -> Iterator[Problem]:
    name_problem = model_name_problem(spec.model_name)
    if name_problem is not None:
        yield f"{at}.model_name", name_problem
    path = str(spec.onnx_path)
    file_problem = None if path.startswith(BUILTIN) else _file_problem(spec.onnx_path)
    if path.startswith(BUILTIN) and path != _BUILT_HERE:
        file_problem = f"{path} is unknown: the only built-in is {_BUILT_HERE}"
    if file_problem is not None:
        yield f"{at}.onnx_path", file_problem
    if 0.0 in spec.preprocessing.std:
        yield f"{at}.preprocessing.std", "a channel is divided by 0"
    if not spec.inputs:
        yield at, "give either input_name with expected_input_shape, or inputs"
    elif spec.role == "descriptor" and not _is_image(spec.inputs):
        yield f"{at}.expected_input_shape", "a descriptor backbone takes one image: [1, 3, height, width]"


def _precisions(job: Job, runtimes: RuntimeTable) -> Iterator[Problem]:
    for number, spec in enumerate(job.backbones):
        at = f"{_CONFIG}.backbones[{number}]"
        name = spec.runtime or job.config.runtime
        runtime = runtimes.get(name)
        if runtime is None:
            if spec.runtime is not None:
                yield f"{at}.runtime", _unknown(name, runtimes)
            continue
        # The mission's device applies to the mission's runtime only.
        device = job.config.device if name == job.config.runtime else None
        if spec.precision not in runtime.precisions_on(device):
            yield f"{at}.precision", _not_built(runtime, device, spec.precision, runtimes)
        elif spec.precision == "int8" and not _is_image(spec.inputs):
            why = (
                "int8 is calibrated on tiles, and this model takes no image: say fp32, or fp16 where the runtime has it"
            )
            yield f"{at}.precision", why
        if (problem := override_problem(runtime, spec, runtimes)) is not None:
            yield f"{at}.precision_overrides", problem


def _not_built(runtime: Runtime, device: str | None, precision: str, runtimes: RuntimeTable) -> str:
    built = runtime.precisions_on(device)
    which = runtime.name if device is None else f"{runtime.name} with device {device}"
    others = [row.name for row in runtimes if row is not runtime and precision in row.precisions]
    instead = f", or choose the runtime {either(others)}" if others else ""
    return (
        f"the runtime {which} builds {' and '.join(built)} engines alone, not {precision}; say {either(built)}{instead}"
    )


def _unknown(name: str, runtimes: RuntimeTable) -> str:
    return f"{name!r} is not a runtime of this version; say {either(runtimes.names)}"


def _runtime(config: ProvisioningConfig, runtimes: RuntimeTable) -> Iterator[Problem]:
    runtime = runtimes.get(config.runtime)
    if runtime is None:
        yield f"{_CONFIG}.runtime", _unknown(config.runtime, runtimes)
    elif config.device is not None and runtime.cuda is None:
        takers = [row.name for row in runtimes if row.cuda is not None]
        alone = f"is for the runtime {' and '.join(takers)} alone" if takers else "is for no runtime of this version"
        yield f"{_CONFIG}.device", f"{alone}, not {runtime.name}, which runs {_WHERE[runtime.place]}; leave it out"


def _is_image(inputs: Mapping[str, Sequence[int]]) -> bool:
    shapes = list(inputs.values())
    return len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][1] == 3


def _config(config: ProvisioningConfig) -> Iterator[Problem]:
    overlap = config.descriptors.overlap
    if overlap not in STEPS:
        choices = ", ".join(f"{choice:g}" for choice in STEPS)
        yield f"{_CONFIG}.descriptors.overlap", f"{overlap} is none of {choices}"
    manifest = config.manifest
    if manifest.signing_mode == "operator" and not manifest.allowed_operator_fingerprints:
        yield (
            f"{_CONFIG}.manifest.allowed_operator_fingerprints",
            "is empty: operator mode needs the fingerprint of at least one key that may sign",
        )
    if manifest.schema_version != SCHEMA_VERSION:
        ways = f"write {SCHEMA_VERSION}, leave it out, or build with a release that writes {manifest.schema_version!r}"
        yield f"{_CONFIG}.manifest.schema_version", f"this release of preflight writes schema {SCHEMA_VERSION}: {ways}"


def _file_problem(path: Path) -> str | None:
    try:
        return None if path.is_file() else f"{path} is not a file"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"
