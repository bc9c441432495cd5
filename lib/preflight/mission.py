"""The mission file: what is to be built, read whole or refused whole.

YAML is read with YAML 1.2's idea of numbers and booleans (`no` is a string, `012` is refused as a number), duplicate keys are
refused, and every problem is collected with its path in the file before anything is said.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from preflight.area import Area, area_from_bbox, area_from_geojson
from preflight.corridor import corridor
from preflight.errors import MissionError
from preflight.mission_reader import Problems, convert, read_yaml
from preflight.mission_schema import AreaSection, BackboneSection, MissionFile, ProvisioningConfig
from preflight.records import BackboneSpec, BoundingBox, IndexParameters, Origin, Preprocessing, SectorClass
from preflight.routes import Route, parse_route

if TYPE_CHECKING:
    from collections.abc import Sequence

BUILTIN = "builtin:"


@dataclass(frozen=True, slots=True)
class Job:
    """What one build is asked, wherever it was asked: from a mission file or through the Python API.

    Every path is absolute. area_file: the file the area was read from, or None.
    """

    cache_root: Path
    area: Area
    area_file: Path | None
    allow_missing: float
    zoom_levels: tuple[int, ...]
    sector_class: SectorClass
    source_order: tuple[str, ...]
    calibration: Path
    takeoff_origin: Origin | None
    flight_id: UUID | None
    trust: Path
    signing_key: Path
    backbones: tuple[BackboneSpec, ...]
    config: ProvisioningConfig

    @property
    def descriptor(self) -> BackboneSpec:
        """The one backbone whose output goes into the index."""
        return next(spec for spec in self.backbones if spec.role == "descriptor")

    @property
    def index_parameters(self) -> IndexParameters:
        """The index section as the port takes it."""
        section = self.config.index
        return IndexParameters(section.m, section.ef_construction, section.ef_search, section.metric, section.storage)

    @property
    def max_tile_age(self) -> timedelta:
        """For the sector class."""
        ages = self.config.provisioner.max_tile_age_days
        return timedelta(days=ages.active_conflict if self.sector_class == "active_conflict" else ages.stable_rear)


@dataclass(frozen=True, slots=True)
class Mission:
    """A mission file that was accepted: every file it names is there.

    source: the file. database: `embedded` or a URL. demo: import the demo landscape into an empty store.
    """

    source: Path
    tile_root: Path
    database: str
    demo: bool
    job: Job


def load_mission(path: Path, environment: Mapping[str, str]) -> Mission:
    """Read and check a mission file.

    Args:
        path: the file. Paths inside it are relative to its folder.
        environment: what `${NAME}` in a string stands for.

    Raises:
        MissionError: with every problem found, each with its path in the file.
    """
    problems = Problems()
    source = path.absolute()
    value = read_yaml(source, environment, problems)
    problems.check(str(path))
    file = convert(value, MissionFile, problems)
    problems.check(str(path))
    if file is None:
        raise MissionError(str(path), ("the file holds no mission",))
    mission = _resolve(file, source, problems)
    problems.check(str(path))
    if mission is None:
        raise MissionError(str(path), ("the area is missing",))
    return mission


def _resolve(file: MissionFile, source: Path, problems: Problems) -> Mission | None:
    def place(text: str) -> Path:
        # Not resolve(): a symbolic link in the path is the operator's choice.
        return Path(os.path.normpath(source.parent / text))

    config = file.components.c10_provisioning
    area, area_file, route = _area(file.area, place, problems)
    origin = _origin(file, route, problems)
    _check_whole(file, place, problems)
    backbones = tuple(
        _backbone(section, f"components.c10_provisioning.backbones[{number}]", place, problems)
        for number, section in enumerate(config.backbones)
    )
    if area is None or not all(backbones):
        return None
    job = Job(
        cache_root=place(file.cache_root),
        area=area,
        area_file=area_file,
        allow_missing=file.area.allow_missing,
        zoom_levels=tuple(sorted(file.zoom_levels)),
        sector_class=file.sector_class,
        source_order=file.tile_store.source_order,
        calibration=place(file.calibration),
        takeoff_origin=origin,
        flight_id=file.flight_id,
        trust=place(file.trust),
        signing_key=place(config.manifest.signing_key),
        backbones=tuple(spec for spec in backbones if spec is not None),
        config=config,
    )
    store = file.tile_store
    return Mission(source, place(store.root), store.database, demo=store.if_empty == "demo", job=job)


def _check_whole(file: MissionFile, place: Callable[[str], Path], problems: Problems) -> None:
    """What no single field shows."""
    if len(set(file.zoom_levels)) != len(file.zoom_levels):
        problems.add("zoom_levels", "a zoom is named twice")
    _needs_file("calibration", place(file.calibration), problems)
    cache, trust = place(file.cache_root), place(file.trust)
    if trust == cache or cache in trust.parents:
        problems.add("trust", f"lies inside cache_root ({cache}); who can write the cache must not choose its keys")
    root = place(file.tile_store.root)
    if root == cache or cache in root.parents or root in cache.parents:
        problems.add("tile_store.root", f"overlaps cache_root ({cache}); keep the two folders apart")
    database = file.tile_store.database
    if database != "embedded" and not database.startswith(("postgresql://", "postgres://")):
        problems.add("tile_store.database", "is neither `embedded` nor a postgresql:// URL")
    config = file.components.c10_provisioning
    at = "components.c10_provisioning"
    roles = [section.role for section in config.backbones]
    if roles.count("descriptor") != 1:
        problems.add(f"{at}.backbones", f"{roles.count('descriptor')} have role `descriptor`; exactly one must")
    names = [section.model_name for section in config.backbones]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.add(f"{at}.backbones", f"model_name {name} is given twice")
    if config.descriptors.overlap != 0:
        problems.add(f"{at}.descriptors.overlap", "only 0 (one descriptor a tile) can be built by this version")
    if config.runtime in {"tensorrt", "pytorch_fp16"}:
        problems.add(f"{at}.runtime", f"{config.runtime} is not in this version; use openvino or onnxruntime")
    if config.manifest.signing_mode == "operator" and not config.manifest.allowed_operator_fingerprints:
        problems.add(f"{at}.manifest.allowed_operator_fingerprints", "is empty: in operator mode no key could sign")


def _area(
    section: AreaSection, place: Callable[[str], Path], problems: Problems
) -> tuple[Area | None, Path | None, Route | None]:
    """The area, the file it was read from, and the route it lies around."""
    given = [name for name in ("bbox", "polygon", "route") if getattr(section, name) is not None]
    if len(given) != 1:
        problems.add("area", "give exactly one of bbox, polygon and route")
        return None, None, None
    if (section.route is None) != (section.corridor_m is None):
        problems.add("area.corridor_m", "goes with area.route: metres covered on each side of the route")
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


def _origin(file: MissionFile, route: Route | None, problems: Problems) -> Origin | None:
    """Where the aircraft takes off: as the mission says, else where its route starts, else not known.

    The route's altitude is taken as its format defines it, and not converted: metres above the ellipsoid in GeoJSON, above
    mean sea level in a `.plan`, `.waypoints` or KML file. One above the home position or the ground is no altitude of the
    origin: it is refused, as is none.
    """
    given = file.takeoff_origin
    if given is not None:
        return Origin(given.lat, given.lon, given.alt)
    if route is None:
        return None
    start = route.start
    if start.alt is None or start.datum in {"home", "ground"}:
        why = "has no altitude" if start.alt is None else f"has an altitude above {start.datum} alone"
        problems.add("takeoff_origin", f"give it here: where the route starts ({start.lat}, {start.lon}) {why}")
        return None
    return Origin(start.lat, start.lon, start.alt)


def _backbone(
    section: BackboneSection, at: str, place: Callable[[str], Path], problems: Problems
) -> BackboneSpec | None:
    inputs = _inputs(section, at, problems)
    if section.onnx_path.startswith(BUILTIN):
        if section.onnx_path != f"{BUILTIN}weight_free_vpr":
            problems.add(
                f"{at}.onnx_path", f"{section.onnx_path} is unknown; the only built-in is {BUILTIN}weight_free_vpr"
            )
        path = Path(section.onnx_path)
    else:
        path = place(section.onnx_path)
        _needs_file(f"{at}.onnx_path", path, problems)
    if 0.0 in section.preprocessing.std:
        problems.add(f"{at}.preprocessing.std", "a channel is divided by 0")
    if section.role == "descriptor" and inputs is not None and not _is_image(inputs):
        problems.add(f"{at}.expected_input_shape", "a descriptor backbone takes one image: [1, 3, height, width]")
    if inputs is None:
        return None
    preprocessing = Preprocessing(section.preprocessing.mean, section.preprocessing.std)
    return BackboneSpec(section.model_name, section.role, path, inputs, section.precision, preprocessing)


def _inputs(section: BackboneSection, at: str, problems: Problems) -> dict[str, tuple[int, ...]] | None:
    single = section.input_name is not None and section.expected_input_shape is not None
    partial = (section.input_name is None) != (section.expected_input_shape is None)
    if partial or single == (section.inputs is not None):
        problems.add(at, "give either input_name with expected_input_shape, or inputs")
        return None
    if section.inputs is not None:
        return dict(section.inputs)
    return {section.input_name or "": section.expected_input_shape or ()}


def _is_image(inputs: Mapping[str, Sequence[int]]) -> bool:
    shapes = list(inputs.values())
    return len(shapes) == 1 and len(shapes[0]) == 4 and shapes[0][1] == 3


def _needs_file(at: str, path: Path, problems: Problems) -> None:
    try:
        found = path.is_file()
    except OSError as error:
        problems.add(at, f"{path} cannot be read ({error.strerror})")
        return
    if not found:
        problems.add(at, f"{path} is not a file")
