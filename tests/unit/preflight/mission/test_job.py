"""The rules for a whole job, which doit and the Python API apply. Each violation is reported with its place."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from preflight.area.area import Area, area_from_bbox
from preflight.errors import MissionError
from preflight.mission import job as job_module
from preflight.mission.config import Blocks
from preflight.mission.job import Job, check_job
from preflight.mission.schema import BackboneSection, ManifestSection, ProvisioningConfig
from preflight.records import BackboneSpec, BoundingBox, BuildRequest, Preprocessing
from preflight.run.tile_access import TileAccess
from preflight.wiring.parts import C7EngineBackboneEmbedder, DescriptorBatcher, ManifestBuilder
from preflight.wiring.provisioner import CacheProvisionerImpl
from preflight.wiring.surroundings import Surroundings
from takeoff.position import LatLonAlt

BOX = BoundingBox(0.346, 32.588, 0.352, 32.6)
SPEC = BackboneSpec("vpr", "descriptor", Path("builtin:weight_free_vpr"), {"image": (1, 3, 8, 8)}, "fp32")
CONFIG = ProvisioningConfig(
    backbones=(BackboneSection(model_name="vpr", onnx_path="builtin:weight_free_vpr"),),
    manifest=ManifestSection(signing_mode="dev", signing_key="keys/dev.pem"),
)
BACKBONE = BackboneSection(
    model_name="vpr",
    onnx_path="builtin:weight_free_vpr",
    role="descriptor",
    input_name="image",
    expected_input_shape=(1, 3, 8, 8),
)
AT = "components.c10_provisioning"


@pytest.fixture
def job(tmp_path):
    (tmp_path / "camera.json").write_text('{"fx": 1, "fx": 2}')
    return Job(
        cache_root=tmp_path / "cache",
        area=area_from_bbox(BOX),
        area_file=None,
        allow_missing=0.0,
        zoom_levels=(19, 20),
        sector_class="stable_rear",
        source_order=(),
        calibration=tmp_path / "camera.json",
        takeoff_origin=LatLonAlt(0.348, 32.59, 1190.0),
        flight_id=None,
        trust=tmp_path / "trust",
        signing_key=tmp_path / "keys" / "dev.pem",
        backbones=(SPEC,),
        config=CONFIG,
    )


@pytest.fixture
def places(job):
    """places(**fields): the places at which a changed job is refused."""

    def run(tile_root=None, **changes):
        return [place for place, _ in check_job(replace(job, **changes), tile_root or job.cache_root.parent / "tiles")]

    return run


def test_a_valid_job_is_accepted_even_with_a_duplicate_key_in_the_camera_calibration(places):
    assert places() == []
    assert places(takeoff_origin=None) == []


@pytest.mark.parametrize("zooms", [(), (19, 19), (-1,), (23,), (19.5,)])
def test_zooms(places, zooms):
    assert places(zoom_levels=zooms) == ["zoom_levels"]


@pytest.mark.parametrize("zooms", [(0,), (22,)])
def test_the_lowest_and_the_highest_zoom_are_accepted(places, zooms):
    assert places(zoom_levels=zooms) == []


def test_values_that_python_types_do_not_exclude_are_refused(places):
    assert places(sector_class="quiet") == ["sector_class"]
    assert places(allow_missing=1.5) == places(allow_missing=math.nan) == ["area.allow_missing"]


def test_keys_and_tiles_must_be_outside_the_cache_root(job, places):
    cache = job.cache_root
    for inside in (cache, cache / "a" / "b"):
        assert places(trust=inside) == ["trust"]
        assert places(signing_key=inside) == [f"{AT}.manifest.signing_key"]
        assert places(tile_root=inside) == ["tile_store.root"]
    assert places(tile_root=cache.parent) == ["tile_store.root"]
    beside = cache.with_name("cache-2")
    assert places(trust=beside, signing_key=beside / "key", tile_root=beside) == []


def test_a_manifest_schema_that_this_release_does_not_write(job, tmp_path):
    """If the mission names its schema, this is the first message that an operator sees after a change of the schema."""
    section = ManifestSection(signing_mode="dev", signing_key="keys/dev.pem", schema_version="1.0")
    changed = replace(job, config=msgspec.structs.replace(CONFIG, manifest=section))
    ((at, problem),) = check_job(changed, tmp_path / "tiles")
    assert at == f"{AT}.manifest.schema_version"
    assert problem.startswith("this release of preflight writes schema 1.1: write 1.1, leave it out, or build with ")


@pytest.mark.parametrize("content", [None, b"", b"{", b"fx: 1", b'{"a": "\xff"}', b"\xef\xbb\xbf{}", b"[" * 100_000])
def test_a_camera_calibration_that_is_no_json(places, tmp_path, content):
    path = tmp_path / "other.json"
    if content is not None:
        path.write_bytes(content)
    assert places(calibration=path) == ["calibration"]


def test_a_camera_calibration_beyond_the_size_limit(places, job, tmp_path, monkeypatch):
    assert job_module.MAX_CALIBRATION_BYTES == 16 * 2**20
    monkeypatch.setattr(job_module, "MAX_CALIBRATION_BYTES", 100)
    path = tmp_path / "other.json"
    path.write_bytes(b"{}" + b" " * 98)
    assert places(calibration=path) == []
    path.write_bytes(b"{}" + b" " * 99)
    assert places(calibration=path) == ["calibration"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("lat", (91.0, -91.0, math.nan, math.inf)),
        ("lon", (181.0, -181.0, math.nan, -math.inf)),
        ("alt", (-501.0, 100_001.0, math.nan, math.inf)),
    ],
)
def test_an_origin_out_of_range_is_reported_once_at_its_place(job, places, name, values):
    for value in values:
        assert places(takeoff_origin=job.takeoff_origin._replace(**{name: value})) == [f"takeoff_origin.{name}"]


def test_swapped_or_mistyped_origins_are_refused_with_their_distance(job):
    swapped = replace(job, takeoff_origin=LatLonAlt(32.59, 0.348, 1190.0))
    ((place, text),) = check_job(swapped, Path("/tiles"))
    assert place == "takeoff_origin"
    assert "is 4,924 km from the area" in text


@pytest.mark.parametrize(("lat", "refused"), [(0.352 + 0.44, False), (0.352 + 0.46, True)])
def test_fifty_kilometres_from_the_area_is_the_limit(places, lat, refused):
    """One degree of latitude is 111.2 km on the mean sphere."""
    assert bool(places(takeoff_origin=LatLonAlt(lat, 32.59, 0.0))) is refused


def test_the_nearest_part_counts_even_across_the_antimeridian(places):
    east = area_from_bbox(BoundingBox(10.0, 179.9, 10.1, 180.0))
    assert places(area=east, takeoff_origin=LatLonAlt(10.0, -179.9, 0.0)) == []
    assert places(area=east, takeoff_origin=LatLonAlt(10.0, -179.0, 0.0)) == ["takeoff_origin"]


def test_a_refused_area_is_reported_once(places):
    assert places(area=Area(None)) == []


def test_backbones(places, tmp_path):
    at = f"{AT}.backbones"
    assert places(backbones=()) == [at]
    assert places(backbones=(SPEC, replace(SPEC, model_name="b"))) == [at]
    assert places(backbones=(SPEC, replace(SPEC, role="auxiliary"))) == [at]
    for name in ("Ultra VPR", "a" * 101, ""):
        assert places(backbones=(replace(SPEC, model_name=name),)) == [f"{at}[0].model_name"]
    for path in (tmp_path / "none.onnx", tmp_path, Path("builtin:other")):
        assert places(backbones=(replace(SPEC, onnx_path=path),)) == [f"{at}[0].onnx_path"]
    for inputs in ({"a": (1, 1, 8, 8)}, {"a": (1, 3, 8, 8), "b": (1,)}):
        assert places(backbones=(replace(SPEC, inputs=inputs),)) == [f"{at}[0].expected_input_shape"]
    assert places(backbones=(replace(SPEC, inputs={}),)) == [f"{at}[0]"]
    dark = Preprocessing(std=(1.0, 0.0, 1.0))
    assert places(backbones=(replace(SPEC, preprocessing=dark),)) == [f"{at}[0].preprocessing.std"]


@pytest.fixture
def refused(tmp_path):
    """refused(tile_root, **fields): the problems of a request, found before the lock is taken or a store is opened."""
    (tmp_path / "camera.json").write_text("{}")
    request = BuildRequest(BOX, (19,), "stable_rear", tmp_path / "camera.json", tmp_path / "cache")

    surroundings = Surroundings.real()

    def never(*_):
        raise AssertionError("the store was opened")

    def run(tile_root=None, trust=None, **fields):
        config = msgspec.structs.replace(CONFIG, runtime="onnxruntime", backbones=fields.pop("backbones", (BACKBONE,)))
        blocks = Blocks(config, trust or tmp_path / "trust", tmp_path / "keys" / "dev.pem", (), 0.0)
        tiles = TileAccess(tile_root or tmp_path / "tiles", never, never)
        batcher = DescriptorBatcher(
            C7EngineBackboneEmbedder(), tiles, tiles, None, surroundings.clock, config.descriptors
        )
        builder = ManifestBuilder(blocks, tiles, surroundings.clock)
        provisioner = CacheProvisionerImpl(blocks, None, batcher, builder, tiles, surroundings)
        with pytest.raises(MissionError) as refusal:
            provisioner.build_cache_artifacts(dataclasses.replace(request, **fields))
        assert refusal.value.source == "BuildRequest"
        assert not (tmp_path / "cache").exists()
        return refusal.value.problems

    return run


def test_the_python_api_applies_the_same_rules_to_a_request(refused, tmp_path):
    found = refused(
        bbox=BoundingBox(1.0, 0.0, 0.0, 1.0),
        zoom_levels=(25, 19, 19),
        sector_class="quiet",
        calibration_path=tmp_path / "none.json",
        takeoff_origin=LatLonAlt(math.nan, 0.0, 0.0),
        trust=tmp_path / "x" / ".." / "cache" / "trust",
        tile_root=tmp_path / "cache" / "tiles",
        backbones=(),
    )
    assert [problem.split(": ")[0] for problem in found] == [
        "bbox",
        "sector_class",
        "zoom_levels",
        "zoom_levels",
        "trust",
        "tile_store.root",
        "calibration_path",
        "takeoff_origin.lat",
        f"{AT}.backbones",
    ]


def test_the_python_api_refuses_a_far_origin(refused):
    (problem,) = refused(takeoff_origin=LatLonAlt(32.59, 0.348, 0.0))
    assert "km from the area" in problem
