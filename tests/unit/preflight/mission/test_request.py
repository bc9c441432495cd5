"""A `BuildRequest` of a caller: conversions, and refusals by the field's name."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import pytest

from preflight.errors import MissionError
from preflight.mission.config import BackboneConfig, C10ManifestConfig, C10ProvisioningConfig, Config, read_blocks
from preflight.mission.request import job_of_request
from preflight.records import BoundingBox, BuildRequest, SectorClassification
from preflight.wiring.factories import specs_of
from takeoff.position import LatLonAlt

BOX = BoundingBox(45.0, -30.0, 45.1, -29.9)
FLIGHT = UUID("0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10")


class Sector(Enum):
    """A plain enum of a caller's."""

    REAR = "stable_rear"
    SEA = "open_sea"


@pytest.fixture
def request_here(tmp_path):
    (tmp_path / "camera.json").write_text("{}")
    return BuildRequest(
        BOX,
        (17, 18),
        "stable_rear",
        tmp_path / "camera.json",
        tmp_path / "cache",
        LatLonAlt(45.05, -29.95, 100.0),
        FLIGHT,
    )


@pytest.fixture
def job_of(tmp_path):
    """job_of(request): its job."""
    block = C10ProvisioningConfig(
        [BackboneConfig("weight_free_vpr", "builtin:weight_free_vpr", (1, 3, 224, 224), "image")],
        C10ManifestConfig("dev", tmp_path / "keys" / "dev.pem", tmp_path / "trust"),
    )
    blocks = read_blocks(Config({"c10_provisioning": block}))
    return lambda request, tile_root=None: job_of_request(request, blocks, specs_of(blocks), tile_root)


def test_a_request_becomes_the_job_of_a_mission_file(job_of, request_here, tmp_path):
    job = job_of(request_here)
    assert job.cache_root == tmp_path / "cache"
    assert job.calibration == tmp_path / "camera.json"
    assert (job.zoom_levels, job.sector_class, job.flight_id) == ((17, 18), "stable_rear", FLIGHT)
    assert job.takeoff_origin == LatLonAlt(45.05, -29.95, 100.0)
    assert list(job.area.boxes()) == [BOX]
    assert (job.trust, job.signing_key) == (tmp_path / "trust", tmp_path / "keys" / "dev.pem")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bbox", (45.0, -30.0, 45.1, -29.9)),
        ("bbox", [45, -30.0, 45.1, -29.9]),
        ("bbox", SimpleNamespace(lat_min=45.0, lon_min=-30.0, lat_max=45.1, lon_max=-29.9)),
        ("zoom_levels", [18, 17]),
        ("zoom_levels", {17, 18}),
        ("zoom_levels", range(17, 19)),
        ("zoom_levels", iter((17, 18))),
        ("sector_class", SectorClassification.STABLE_REAR),
        ("sector_class", Sector.REAR),
        ("takeoff_origin", (45.05, -29.95, 100)),
        ("takeoff_origin", SimpleNamespace(lat=45.05, lon=-29.95, alt=100)),
        ("flight_id", str(FLIGHT)),
        ("flight_id", FLIGHT.hex.upper()),
    ],
)
def test_another_form_of_a_value_gives_the_same_job(job_of, request_here, field, value):
    assert job_of(replace(request_here, **{field: value})) == job_of(request_here)


def test_numbers_of_numpy_are_numbers(job_of, request_here):
    box = tuple(np.array([45.0, -30.0, 45.1, -29.9]))
    assert job_of(replace(request_here, bbox=box)) == job_of(request_here)


def test_one_zoom_may_be_given_as_a_number(job_of, request_here):
    assert job_of(replace(request_here, zoom_levels=17)).zoom_levels == (17,)


@pytest.mark.parametrize("form", [str, Path])
def test_text_becomes_a_path_from_the_working_directory(job_of, request_here, tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    changed = replace(request_here, calibration_path=form("camera.json"), cache_root=form("x/../cache"))
    assert job_of(changed) == job_of(request_here)


def test_any_object_with_the_same_attributes_is_a_request(job_of, request_here):
    names = list(BuildRequest.__dataclass_fields__)
    plain = SimpleNamespace(**{name: getattr(request_here, name) for name in names})
    assert job_of(plain) == job_of(request_here)


def test_origin_and_flight_may_be_absent(job_of, request_here):
    job = job_of(replace(request_here, takeoff_origin=None, flight_id=None))
    assert (job.takeoff_origin, job.flight_id) == (None, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bbox", None),
        ("bbox", "45,-30,46,-29"),
        ("bbox", (45.0, -30.0, 45.1)),
        ("bbox", (45.0, -30.0, 45.1, "x")),
        ("bbox", (45.0, -30.0, 45.1, True)),
        ("bbox", (46.0, -30.0, 45.1, -29.9)),
        ("bbox", (45.0, -30.0, float("nan"), -29.9)),
        ("zoom_levels", ()),
        ("zoom_levels", ("17",)),
        ("zoom_levels", (17.0,)),
        ("zoom_levels", (True,)),
        ("zoom_levels", "17"),
        ("zoom_levels", None),
        ("zoom_levels", (99,)),
        ("zoom_levels", (17, 17)),
        ("sector_class", "open_sea"),
        ("sector_class", Sector.SEA),
        ("sector_class", None),
        ("sector_class", ["stable_rear"]),
        ("calibration_path", None),
        ("calibration_path", ""),
        ("calibration_path", 5),
        ("calibration_path", b"camera.json"),
        ("calibration_path", "no-such-camera.json"),
        ("cache_root", None),
        ("cache_root", ""),
        ("takeoff_origin", (45.05, -29.95)),
        ("takeoff_origin", (45.05, -29.95, None)),
        ("takeoff_origin", "45.05,-29.95,100"),
        ("takeoff_origin", (145.0, -29.95, 100.0)),
        ("takeoff_origin", (45.05, -29.95, float("nan"))),
        ("flight_id", "flight 5"),
        ("flight_id", 5),
        ("flight_id", b"\x00" * 16),
    ],
)
def test_a_bad_value_is_refused_by_the_field_s_name(job_of, request_here, field, value):
    with pytest.raises(MissionError) as caught:
        job_of(replace(request_here, **{field: value}))
    assert caught.value.problems
    assert all(said.startswith(field) for said in caught.value.problems)


def test_a_missing_attribute_is_refused_by_the_field_s_name(job_of, request_here):
    for field in ("bbox", "zoom_levels", "sector_class", "calibration_path", "cache_root"):
        names = [name for name in BuildRequest.__dataclass_fields__ if name != field]
        plain = SimpleNamespace(**{name: getattr(request_here, name) for name in names})
        with pytest.raises(MissionError, match=field):
            job_of(plain)


def test_all_bad_values_are_named_at_once(job_of, request_here):
    with pytest.raises(MissionError) as caught:
        job_of(replace(request_here, bbox=None, sector_class="sea", flight_id="x", cache_root=5))
    assert [said.split(":")[0] for said in caught.value.problems] == ["cache_root", "bbox", "sector_class", "flight_id"]


def test_the_cache_root_must_lie_apart_from_the_tile_store(job_of, request_here, tmp_path):
    with pytest.raises(MissionError, match="cache_root"):
        job_of(request_here, tmp_path / "cache" / "tiles")
