"""A `BuildRequest` of the Python API, read into the same checked `Job` as a mission file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path
from uuid import UUID

from preflight.area.area import Area, area_from_bbox
from preflight.errors import MissionError
from preflight.mission.config import Blocks
from preflight.mission.job import Job, check_job
from preflight.records import BackboneSpec, BoundingBox, BuildRequest, SectorClass, SectorClassification
from takeoff.position import LatLonAlt

__all__ = ["job_of_request"]


# What a rule calls a field, as a mission file does -> what a request calls it.
_NAMES = {"calibration": "calibration_path", "area": "bbox"}


def job_of_request(
    request: BuildRequest, blocks: Blocks, backbones: Sequence[BackboneSpec], tile_root: Path | None
) -> Job:
    """Reads a request. Text becomes a path, a tuple becomes a box or a position, a plain enum becomes its value.

    Args:
        request: a `BuildRequest`, or any object with the same attributes.
        blocks: the checked configuration.
        backbones: the corpus.
        tile_root: the folder of the tile store, which must lie apart from the cache root; None if there is no folder.

    Raises:
        MissionError: a field is wrong, or a rule of mission files is broken. Names every fault by its field.
    """
    problems: list[str] = []

    def given(field: str) -> object:
        return getattr(request, field, None)

    zooms = _zooms(given("zoom_levels"), problems)
    job = Job(
        cache_root=_path(given("cache_root"), "cache_root", problems),
        area=_area(given("bbox"), problems),
        area_file=None,
        allow_missing=blocks.allow_missing,
        zoom_levels=zooms,
        sector_class=_sector(given("sector_class"), problems),
        source_order=blocks.source_order,
        calibration=_path(given("calibration_path"), "calibration_path", problems),
        takeoff_origin=_origin(given("takeoff_origin"), problems),
        flight_id=_flight(given("flight_id"), problems),
        trust=blocks.trust,
        signing_key=blocks.signing_key,
        backbones=tuple(backbones),
        config=blocks.provisioning,
    )
    if Path() not in (job.cache_root, job.calibration):
        # A field that could not be read was named above. The job has a stand-in for it.
        named = {problem.partition(":")[0] for problem in problems}
        found = ((_NAMES.get(at, at), problem) for at, problem in check_job(job, tile_root))
        problems += [f"{field}: {problem}" for field, problem in found if field not in named]
    if problems:
        raise MissionError("BuildRequest", tuple(problems))
    return job


def _zooms(value: object, problems: list[str]) -> tuple[int, ...]:
    items = tuple(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes)) else (value,)
    if any(isinstance(zoom, bool) or not isinstance(zoom, int) for zoom in items):
        problems.append(f"zoom_levels: {value!r} are not whole numbers")
        return ()
    return tuple(sorted(int(zoom) for zoom in items))


def _path(value: object, field: str, problems: list[str]) -> Path:
    if isinstance(value, (str, os.PathLike)) and os.fspath(value):
        return Path(os.path.normpath(Path(os.fspath(value)).absolute()))
    problems.append(f"{field}: {value!r} is not a path")
    return Path()


def _area(value: object, problems: list[str]) -> Area:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) == 4:
        edges: list[object] = list(value)
    else:
        edges = [getattr(value, name, None) for name in ("lat_min", "lon_min", "lat_max", "lon_max")]
    if not all(_is_number(edge) for edge in edges):
        problems.append(f"bbox: {value!r} is not a box (lat_min, lon_min, lat_max, lon_max) in degrees")
        return Area(None)
    try:
        return area_from_bbox(BoundingBox(*(float(edge) for edge in edges)))  # type: ignore[arg-type] # numbers, see above
    except MissionError as error:
        problems.extend(f"bbox: {problem}" for problem in error.problems)
        return Area(None)


def _origin(value: object, problems: list[str]) -> LatLonAlt | None:
    if value is None:
        return None
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)) and len(value) == 3:
        parts: list[object] = list(value)
    else:
        parts = [getattr(value, name, None) for name in ("lat", "lon", "alt")]
    if not all(_is_number(part) for part in parts):
        problems.append(f"takeoff_origin: {value!r} is not (lat, lon, alt) in degrees and metres")
        return None
    return LatLonAlt(*(float(part) for part in parts))  # type: ignore[arg-type] # numbers, see above


def _sector(value: object, problems: list[str]) -> SectorClass:
    text = value.value if isinstance(value, Enum) else value
    try:
        found: SectorClass = SectorClassification(text).value
    except ValueError:
        known = " or ".join(one.value for one in SectorClassification)
        problems.append(f"sector_class: {text!r} is not {known}")
        return "stable_rear"
    return found


def _flight(value: object, problems: list[str]) -> UUID | None:
    if value is None or isinstance(value, UUID):
        return value
    try:
        return UUID(str(value))
    except ValueError:
        problems.append(f"flight_id: {value!r} is not a UUID")
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
