"""Reads a mission file, and accepts it whole or refuses it whole.

Numbers and booleans follow YAML 1.2: `no` is a string, and `012` is refused as a number. Duplicate keys are refused. Every
problem is collected with its path in the file before anything is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from preflight.area.area import Area, area_from_bbox, area_from_geojson
from preflight.area.corridor import corridor
from preflight.area.routes import Route, parse_route
from preflight.engine.runtimes import RUNTIMES, RuntimeTable
from preflight.errors import MissionError
from preflight.mission.fields import convert
from preflight.mission.job import BUILTIN, Job, check_job
from preflight.mission.reader import Problems, placed, read_yaml
from preflight.mission.schema import AreaSection, BackboneSection, MissionFile
from preflight.records import BackboneSpec, BoundingBox, Preprocessing
from takeoff.position import LatLonAlt

__all__ = ["Mission", "backbone_spec", "load_mission"]


@dataclass(frozen=True, slots=True)
class Mission:
    """An accepted mission file. Every file that it names exists.

    source: the file. database: `embedded` or a URL. demo: import the demo landscape into an empty store.
    """

    source: Path
    tile_root: Path
    database: str
    demo: bool
    job: Job


def load_mission(path: Path, environment: Mapping[str, str], runtimes: RuntimeTable = RUNTIMES) -> Mission:
    """Reads and checks a mission file.

    Args:
        path: the file. Paths inside it are relative to its folder.
        environment: values for `${NAME}` in a string.
        runtimes: the runtimes that the mission can name.

    Raises:
        MissionError: lists every problem with its path in the file.
    """
    problems = Problems()
    source = path.absolute()
    value = read_yaml(source, environment, problems)
    problems.check(str(path))
    file = convert(value, MissionFile, problems)
    problems.check(str(path))
    if file is None:
        raise MissionError(str(path), ("the file holds no mission",))
    mission = _resolve(file, source, problems, runtimes)
    problems.check(str(path))
    return mission


def _resolve(file: MissionFile, source: Path, problems: Problems, runtimes: RuntimeTable) -> Mission:
    """Returns the mission. The result is meaningless if `problems` holds a fault."""

    def place(text: str) -> Path:
        return placed(source, text)

    config = file.components.c10_provisioning
    store = file.tile_store
    area, area_file, route = _area(file.area, place, problems)
    job = Job(
        cache_root=place(file.cache_root),
        area=area or Area(None),
        area_file=area_file,
        allow_missing=file.area.allow_missing,
        zoom_levels=tuple(sorted(file.zoom_levels)),
        sector_class=file.sector_class,
        source_order=store.source_order,
        calibration=place(file.calibration),
        takeoff_origin=_origin(file, route, problems),
        flight_id=file.flight_id,
        trust=place(file.trust),
        signing_key=place(config.manifest.signing_key),
        backbones=tuple(backbone_spec(section, place) for section in config.backbones),
        config=config,
    )
    for at, problem in check_job(job, place(store.root), runtimes):
        problems.add(at, problem)
    if store.database != "embedded" and not store.database.startswith(("postgresql://", "postgres://")):
        problems.add("tile_store.database", "is neither `embedded` nor a postgresql:// URL")
    return Mission(source, place(store.root), store.database, demo=store.if_empty == "demo", job=job)


def _area(
    section: AreaSection, place: Callable[[str], Path], problems: Problems
) -> tuple[Area | None, Path | None, Route | None]:
    """Returns the area, the file it was read from, and the route inside it."""
    given = [name for name in ("bbox", "polygon", "route") if getattr(section, name) is not None]
    if len(given) != 1:
        problems.add("area", "give exactly one of bbox, polygon and route")
        return None, None, None
    if (section.route is None) != (section.corridor_m is None):
        problems.add(
            "area.corridor_m", "and area.route need each other: give the metres to cover on each side of the route"
        )
        return None, None, None
    at = f"area.{given[0]}"
    name = section.route if section.polygon is None else section.polygon
    file = None if name is None else place(name)
    route = None
    try:
        content = b"" if file is None else file.read_bytes()
        if section.bbox is not None:
            box = section.bbox
            area = area_from_bbox(BoundingBox(box.lat_min, box.lon_min, box.lat_max, box.lon_max), at)
        elif section.corridor_m is not None:
            route = parse_route(content, name or "", at)
            area = corridor(route, section.corridor_m, at)
        else:
            area = area_from_geojson(content, at)
    except FileNotFoundError:
        problems.add(at, f"{file} is not a file")
    except OSError as error:
        problems.add(at, f"{file} cannot be read ({error.strerror})")
    except MissionError as error:
        for problem in error.problems:
            problems.add(at, problem)
    else:
        return area, file, route
    return None, None, None


def _origin(file: MissionFile, route: Route | None, problems: Problems) -> LatLonAlt | None:
    """Returns the take-off position: from the mission, else the start of its route, else None.

    Altitudes are metres above mean sea level, as in `.plan`, `.waypoints` and KML files. Nothing is converted. A missing height,
    or one above the ellipsoid (GeoJSON), the home position or the ground, is a problem.
    """
    given = file.takeoff_origin
    if given is not None:
        return LatLonAlt(given.lat, given.lon, given.alt)
    if route is None:
        return None
    start = route.start
    why = start.altitude_problem()
    if why is not None or start.alt is None:
        told = f"give it here, in metres above mean sea level: the start of the route ({start.lat}, {start.lon}) {why}"
        problems.add("takeoff_origin", told)
        return None
    return LatLonAlt(start.lat, start.lon, start.alt)


def backbone_spec(section: BackboneSection, place: Callable[[str], Path]) -> BackboneSpec:
    """Returns one backbone. place: text of a path -> absolute path."""
    builtin = section.onnx_path.startswith(BUILTIN)
    return BackboneSpec(
        section.model_name,
        section.role,
        Path(section.onnx_path) if builtin else place(section.onnx_path),
        _inputs(section),
        section.precision,
        Preprocessing(section.preprocessing.mean, section.preprocessing.std),
        None if section.parity is None else section.parity.cosine,
        tuple(section.precision_overrides.items()),
        section.runtime,
    )


def _inputs(section: BackboneSection) -> dict[str, tuple[int, ...]]:
    """Returns input name -> shape; empty, which `check_job` refuses, unless they are given in exactly one way."""
    name, shape = section.input_name, section.expected_input_shape
    if section.inputs is not None:
        return dict(section.inputs) if name is None and shape is None else {}
    return {} if name is None or shape is None else {name: shape}
