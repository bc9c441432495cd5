from __future__ import annotations

import copy
import json
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from preflight.errors import MissionError
from preflight.mission.loading import load_mission
from preflight.records import BoundingBox, IndexParameters
from takeoff.position import LatLonAlt

ROOT = Path(__file__).parents[4]
AT = "components.c10_provisioning"
BACKBONE = {
    "model_name": "weight_free_vpr",
    "role": "descriptor",
    "onnx_path": "builtin:weight_free_vpr",
    "input_name": "image",
    "expected_input_shape": [1, 3, 224, 224],
}
MISSION = {
    "version": 1,
    "cache_root": "cache",
    "tile_store": {"root": "tiles"},
    "area": {"bbox": {"lat_min": 0.346, "lon_min": 32.588, "lat_max": 0.352, "lon_max": 32.6}},
    "zoom_levels": [20, 19],
    "sector_class": "active_conflict",
    "calibration": "camera.json",
    "trust": "trust",
    "takeoff_origin": {"lat": 0.348, "lon": 32.59, "alt": 1190},
    "flight_id": "0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10",
    "components": {
        "c10_provisioning": {
            "backbones": [BACKBONE],
            "manifest": {"signing_mode": "dev", "signing_key": "keys/dev.pem"},
        }
    },
}


@pytest.fixture
def value():
    return copy.deepcopy(MISSION)


@pytest.fixture
def load(tmp_path):
    (tmp_path / "camera.json").write_text("{}")

    def run(value, environment=None):
        path = tmp_path / "mission.yaml"
        path.write_text(json.dumps(value))
        return load_mission(path, environment or {})

    return run


@pytest.fixture
def problems(load):
    """problems(value): the problems of a mission. Fails if the mission is accepted."""

    def run(value, environment=None):
        with pytest.raises(MissionError) as refusal:
            load(value, environment)
        return refusal.value.problems

    return run


def config(value):
    return value["components"]["c10_provisioning"]


def test_a_mission_gets_paths_relative_to_its_file_and_default_values(load, value, tmp_path):
    mission = load(value)
    job = mission.job
    assert mission.source == tmp_path / "mission.yaml"
    assert (mission.tile_root, mission.database, mission.demo) == (tmp_path / "tiles", "embedded", False)
    assert job.cache_root == tmp_path / "cache"
    assert job.calibration == tmp_path / "camera.json"
    assert (job.trust, job.signing_key) == (tmp_path / "trust", tmp_path / "keys" / "dev.pem")
    assert job.area.box == BoundingBox(0.346, 32.588, 0.352, 32.6)
    assert (job.area_file, job.allow_missing) == (None, 0.0)
    assert job.zoom_levels == (19, 20)
    assert job.takeoff_origin == LatLonAlt(0.348, 32.59, 1190.0)
    assert job.flight_id == UUID("0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10")
    assert job.descriptor.inputs == {"image": (1, 3, 224, 224)}
    assert job.descriptor.precision == "fp32"
    assert job.index_parameters == IndexParameters()
    assert job.max_tile_age == timedelta(days=30)
    assert job.config.descriptors.batch_size == 64
    assert job.config.provisioner.keep_generations == 3


def test_a_backbone_may_have_its_own_parity_threshold(load, problems, value):
    assert load(value).job.descriptor.parity_cosine is None
    config(value)["backbones"][0]["parity"] = {"cosine": 0.995}
    assert load(value).job.descriptor.parity_cosine == 0.995
    for cosine in (0.94, 1.1, None):
        config(value)["backbones"][0]["parity"] = {"cosine": cosine}
        assert "parity.cosine" in "".join(problems(value))


def test_a_device_is_for_onnxruntime_alone(load, problems, value):
    assert load(value).job.config.device is None
    config(value)["device"] = "cuda"
    said = "is for the runtime onnxruntime alone, not openvino, which runs on the CPU; leave it out"
    assert problems(value) == (f"{AT}.device: {said}",)
    config(value)["runtime"] = "onnxruntime"
    assert load(value).job.config.device == "cuda"
    config(value)["device"] = "gpu"
    assert "device" in "".join(problems(value))


def test_the_runtime_pytorch_fp16_goes_with_that_precision_alone(load, problems, value):
    config(value)["runtime"] = "pytorch_fp16"
    said = "the runtime pytorch_fp16 builds fp16 engines alone, not fp32; say fp16, or choose the runtime "
    assert problems(value) == (f"{AT}.backbones[0].precision: {said}openvino, onnxruntime or tensorrt",)
    config(value)["backbones"][0]["precision"] = "fp16"
    assert load(value).job.config.runtime == "pytorch_fp16"


def test_a_precision_its_runtime_does_not_build_is_refused(load, problems, value):
    config(value)["runtime"] = "onnxruntime"
    config(value)["backbones"][0]["precision"] = "int8"
    assert load(value).job.descriptor.precision == "int8"
    config(value)["device"] = "cuda"
    said = (
        "the runtime onnxruntime with device cuda builds fp32 engines alone, not int8; say fp32, or choose the runtime "
    )
    assert problems(value) == (f"{AT}.backbones[0].precision: {said}openvino or tensorrt",)
    del config(value)["device"]
    config(value)["backbones"][0]["precision"] = "fp16"
    said = (
        "the runtime onnxruntime builds fp32 and int8 engines alone, not fp16; say fp32 or int8, or choose the runtime "
    )
    assert problems(value) == (f"{AT}.backbones[0].precision: {said}openvino, tensorrt or pytorch_fp16",)


def test_the_device_is_for_the_missions_runtime_and_no_other(load, value):
    """A backbone that names openvino runs on the CPU, where int8 is int8."""
    config(value)["runtime"], config(value)["device"] = "onnxruntime", "cuda"
    config(value)["backbones"][0] |= {"runtime": "openvino", "precision": "int8"}
    assert load(value).job.descriptor.precision == "int8"


def test_a_runtime_that_is_not_known_is_refused_with_the_names_of_those_that_are(problems, value):
    said = "'caffe' is not a runtime of this version; say openvino, onnxruntime, tensorrt or pytorch_fp16"
    config(value)["backbones"][0]["runtime"] = "caffe"
    assert problems(value) == (f"{AT}.backbones[0].runtime: {said}",)
    del config(value)["backbones"][0]["runtime"]
    config(value)["runtime"] = "caffe"
    config(value)["device"] = "cuda"
    assert problems(value) == (f"{AT}.runtime: {said}",)
    config(value)["runtime"] = ""
    assert "runtime" in "".join(problems(value))


def test_int8_of_a_model_that_takes_no_image_is_refused(load, problems, value, tmp_path):
    (tmp_path / "matcher.onnx").write_bytes(b"")
    matcher = {"model_name": "m", "onnx_path": "matcher.onnx", "inputs": {"a": [1, 8, 2], "b": [1, 8, 2]}}
    config(value)["backbones"].append(matcher | {"precision": "int8"})
    said = "int8 is calibrated on tiles, and this model takes no image: say fp32, or fp16 where the runtime has it"
    assert problems(value) == (f"{AT}.backbones[1].precision: {said}",)


def test_single_layers_may_have_other_precisions(load, problems, value):
    assert load(value).job.descriptor.precision_overrides == ()
    config(value)["runtime"] = "tensorrt"
    backbone = config(value)["backbones"][0]
    backbone |= {"precision": "int8", "precision_overrides": {"/head/*": "fp32", "*": "int8", "**": "fp16"}}
    assert load(value).job.descriptor.precision_overrides == (("/head/*", "fp32"), ("*", "int8"), ("**", "fp16"))
    config(value)["runtime"] = "openvino"
    assert "precision_overrides: the runtime openvino runs what is not int8 in fp32" in "".join(problems(value))
    backbone["precision_overrides"] = {"/head/*": "fp8"}
    assert "precision_overrides" in "".join(problems(value))
    backbone["precision_overrides"] = {"": "fp32"}
    assert "precision_overrides" in "".join(problems(value))


def test_the_sector_class_determines_the_maximum_age_of_a_tile(load, value):
    value["sector_class"] = "stable_rear"
    assert load(value).job.max_tile_age == timedelta(days=365)


def test_origin_and_flight_may_be_missing_or_null(load, value):
    value["takeoff_origin"] = None
    del value["flight_id"]
    job = load(value).job
    assert (job.takeoff_origin, job.flight_id) == (None, None)


def test_paths_may_leave_the_folder_and_are_normalised(load, value, tmp_path):
    value["cache_root"] = "../elsewhere/./cache"
    value["trust"] = "/srv/trust"
    job = load(value).job
    assert job.cache_root == tmp_path.parent / "elsewhere" / "cache"
    assert job.trust == Path("/srv/trust")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(MissionError, match="cannot be read") as refusal:
        load_mission(tmp_path / "none.yaml", {})
    assert refusal.value.source == str(tmp_path / "none.yaml")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(MissionError, match="cannot be read"):
        load_mission(tmp_path, {})


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "mission.yaml"
    path.write_text("")
    with pytest.raises(MissionError, match="must be a mapping, but is empty"):
        load_mission(path, {})


def test_all_problems_are_reported_at_once_with_their_paths(problems, value):
    value["misson"] = 1
    value["area"]["bbox"]["lat_min"] = "north"
    value["zoom_levels"][1] = 23
    del value["trust"]
    config(value)["index"] = {"m": 1}
    config(value)["backbones"].append({"model_name": "Ultra VPR"})
    found = problems(value)
    assert [problem.split(":")[0] for problem in found] == [
        "misson",
        "area.bbox.lat_min",
        "zoom_levels[1]",
        "trust",
        f"{AT}.backbones[1].model_name",
        f"{AT}.backbones[1].onnx_path",
        f"{AT}.index.m",
    ]
    assert "unknown key; known here: area, cache_root" in found[0]
    assert "is missing" in found[3]


def test_all_problems_of_the_whole_job_are_reported_at_once(problems, value, tmp_path):
    value["zoom_levels"] = [19, 19]
    value["calibration"] = "camera.yaml"
    value["trust"] = "cache/trust"
    value["tile_store"] = {"root": "cache/tiles", "database": "mysql://host"}
    config(value)["runtime"] = "pytorch_fp16"
    config(value)["descriptors"] = {"overlap": 0.6}
    config(value)["manifest"]["signing_mode"] = "operator"
    config(value)["backbones"].append({**BACKBONE, "onnx_path": "none.onnx"})
    found = "\n".join(problems(value))
    for text in (
        "zoom_levels: a zoom is named twice",
        f"calibration: {tmp_path}/camera.yaml is not a file",
        "trust: lies inside cache_root",
        "tile_store.root: overlaps cache_root",
        "tile_store.database: is neither",
        f"{AT}.backbones: 2 backbones have the role `descriptor`: give it to exactly one",
        f"{AT}.backbones: model_name weight_free_vpr is given twice",
        f"{AT}.descriptors.overlap: 0.6 is none of 0, 0.5, 0.75",
        f"{AT}.backbones[0].precision: the runtime pytorch_fp16 builds fp16 engines alone, not fp32",
        f"{AT}.manifest.allowed_operator_fingerprints: is empty",
        f"{AT}.backbones[1].onnx_path: {tmp_path}/none.onnx is not a file",
    ):
        assert text in found


def test_the_message_names_the_file_and_has_one_line_for_each_problem(load, value, tmp_path):
    del value["trust"]
    value["extra"] = 1
    with pytest.raises(MissionError) as refusal:
        load(value)
    lines = str(refusal.value).splitlines()
    assert lines[0] == f"{tmp_path / 'mission.yaml'} is refused:"
    assert [line.partition(":")[0] for line in lines[1:]] == ["  - extra", "  - trust"]


@pytest.mark.parametrize("trust", ["cache", "cache/trust", "cache/a/b", "x/../cache/trust"])
def test_trust_inside_the_cache_root_is_refused(problems, value, trust):
    value["trust"] = trust
    assert any(problem.startswith("trust: lies inside cache_root") for problem in problems(value))


@pytest.mark.parametrize("root", ["cache", "cache/tiles", "."])
def test_a_tile_store_that_overlaps_the_cache_root_is_refused(problems, value, root):
    value["tile_store"]["root"] = root
    assert any(problem.startswith("tile_store.root: overlaps") for problem in problems(value))


def test_a_sibling_whose_name_starts_like_the_cache_root_is_no_overlap(load, value, tmp_path):
    value["tile_store"]["root"] = "cache-tiles"
    value["trust"] = "cache-trust"
    assert load(value).tile_root == tmp_path / "cache-tiles"


@pytest.mark.parametrize("roles", [["auxiliary"], ["descriptor", "descriptor"]])
def test_exactly_one_backbone_must_have_the_role_descriptor(problems, value, roles):
    config(value)["backbones"] = [
        {**BACKBONE, "model_name": f"model_{number}", "role": role} for number, role in enumerate(roles)
    ]
    count = roles.count("descriptor")
    assert problems(value) == (f"{AT}.backbones: {count} backbones have the role `descriptor`: give it to exactly one",)


def test_no_backbones_at_all_are_refused(problems, value):
    config(value)["backbones"] = []
    assert problems(value)[0].startswith(f"{AT}.backbones: expected `array` of length >= 1")


def test_a_backbone_must_give_its_inputs_in_exactly_one_form(problems, value):
    first = config(value)["backbones"][0]
    for change in (
        {"inputs": {"image": [1, 3, 224, 224]}},
        {"input_name": None},
        {"expected_input_shape": None},
        {"input_name": None, "expected_input_shape": None},
    ):
        config(value)["backbones"] = [{**first, **change}]
        assert problems(value) == (f"{AT}.backbones[0]: give either input_name with expected_input_shape, or inputs",)


def test_an_auxiliary_backbone_may_have_several_inputs(load, value, tmp_path):
    (tmp_path / "lightglue.onnx").write_bytes(b"")
    config(value)["backbones"].append(
        {"model_name": "light_glue", "onnx_path": "lightglue.onnx", "inputs": {"a": [1, 2], "b": [1, 64, 2]}}
    )
    spec = load(value).job.backbones[1]
    assert (spec.role, spec.inputs) == ("auxiliary", {"a": (1, 2), "b": (1, 64, 2)})
    assert spec.onnx_path == tmp_path / "lightglue.onnx"


@pytest.mark.parametrize("shape", [[1, 1, 224, 224], [3, 224, 224], [1, 3, 224]])
def test_a_descriptor_backbone_must_have_one_image_input(problems, value, shape):
    config(value)["backbones"][0]["expected_input_shape"] = shape
    assert problems(value)[0].startswith(f"{AT}.backbones[0].expected_input_shape: a descriptor backbone takes one")


def test_a_wrong_shape_in_inputs_is_reported_with_the_name_of_the_input(problems, value):
    config(value)["backbones"][0] = {**BACKBONE, "inputs": {"image": [1, 3, "x", 224]}}
    assert problems(value)[0].startswith(f"{AT}.backbones[0].inputs.image[2]: ")


def test_an_unknown_builtin_is_refused(problems, value):
    config(value)["backbones"][0]["onnx_path"] = "builtin:dinov2"
    assert problems(value) == (
        f"{AT}.backbones[0].onnx_path: builtin:dinov2 is unknown: the only built-in is builtin:weight_free_vpr",
    )


def test_a_zero_in_std_is_refused(problems, value):
    config(value)["backbones"][0]["preprocessing"] = {"std": [1, 0, 1]}
    assert problems(value) == (f"{AT}.backbones[0].preprocessing.std: a channel is divided by 0",)


def test_operator_mode_needs_a_fingerprint(load, value):
    config(value)["manifest"] = {
        "signing_mode": "operator",
        "signing_key": "key.pem",
        "allowed_operator_fingerprints": ["a" * 64],
    }
    assert load(value).job.config.manifest.allowed_operator_fingerprints == ("a" * 64,)
    config(value)["manifest"]["allowed_operator_fingerprints"] = ["A" * 64]


def test_an_area_is_a_box_or_a_polygon_or_a_route(problems, value):
    box = value["area"]["bbox"]
    for area in ({}, {"bbox": box, "polygon": "a.geojson"}, {"bbox": box, "route": "a.plan", "corridor_m": 500}):
        value["area"] = area
        assert problems(value) == ("area: give exactly one of bbox, polygon and route",)


def test_a_box_with_swapped_bounds_is_refused_at_its_path(problems, value):
    value["area"]["bbox"].update(lat_min=1.0, lat_max=0.0)
    found = problems(value)
    assert all(problem.startswith("area.bbox: ") for problem in found)
    assert found


RING = [[32.588, 0.346], [32.6, 0.346], [32.6, 0.352], [32.588, 0.346]]


def test_a_polygon_is_read_from_its_file(load, value, tmp_path):
    (tmp_path / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [RING]}))
    value["area"] = {"polygon": "area.geojson", "allow_missing": 0.25}
    job = load(value).job
    assert job.area_file == tmp_path / "area.geojson"
    assert (len(job.area.polygons), job.allow_missing) == (1, 0.25)


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"\xff\xfe", b'{"type": "Point", "coordinates": [1, 2]}', b"[" * 100_000]
)
def test_a_polygon_file_that_is_missing_or_broken_is_refused_at_its_path(problems, value, tmp_path, content):
    if content is not None:
        (tmp_path / "area.geojson").write_bytes(content)
    value["area"] = {"polygon": "area.geojson"}
    found = problems(value)
    assert found
    assert all(problem.startswith("area.polygon: ") for problem in found)


def test_a_polygon_problem_is_reported_with_all_the_others(problems, value):
    value["area"] = {"polygon": "none.geojson"}
    value["calibration"] = "none.json"
    assert [problem.split(":")[0] for problem in problems(value)] == ["area.polygon", "calibration"]


LEG = [[32.588, 0.346, 1200.5], [32.6, 0.352, 1300]]


def line_kml(mode):
    places = " ".join(",".join(map(str, place)) for place in LEG)
    height = f"<altitudeMode>{mode}</altitudeMode>"
    line = f"<LineString>{height}<coordinates>{places}</coordinates></LineString>"
    return f'<kml xmlns="http://www.opengis.net/kml/2.2"><Placemark>{line}</Placemark></kml>'


@pytest.fixture
def routed(value, tmp_path):
    """A mission along a GeoJSON line, without its own takeoff origin."""
    (tmp_path / "flight.geojson").write_text(json.dumps({"type": "LineString", "coordinates": LEG}))
    value["area"] = {"route": "flight.geojson", "corridor_m": 500}
    del value["takeoff_origin"]
    return value


def test_a_route_is_read_from_its_file_and_gives_the_takeoff_origin(load, routed, tmp_path):
    (tmp_path / "flight.kml").write_text(line_kml("absolute"))
    routed["area"]["route"] = "flight.kml"
    job = load(routed).job
    assert job.area_file == tmp_path / "flight.kml"
    assert job.takeoff_origin == LatLonAlt(0.346, 32.588, 1200.5)
    (box,) = job.area.boxes()
    assert box.lat_min < 0.3415
    assert box.lat_max > 0.3565


def test_the_origin_of_the_mission_has_priority_over_that_of_the_route(load, routed):
    routed["takeoff_origin"] = {"lat": 0.3, "lon": 32.5, "alt": 5}
    assert load(routed).job.takeoff_origin == LatLonAlt(0.3, 32.5, 5.0)


@pytest.mark.parametrize("form", ["plan", "flat", "ellipsoid", "ground", "clamped"])
def test_a_route_without_a_start_altitude_needs_the_origin_of_the_mission(load, problems, routed, tmp_path, form):
    if form == "plan":
        items = [
            {"type": "SimpleItem", "command": 16, "frame": 3, "params": [0, 0, 0, 0, *p]}
            for p in ([1, 32, 50], [1, 33, 50])
        ]
        (tmp_path / "flight.plan").write_text(json.dumps({"fileType": "Plan", "mission": {"items": items}}))
        routed["area"]["route"] = "flight.plan"
        why = "the start of the route (1.0, 32.0) has only an altitude above home"
    elif form in {"flat", "ellipsoid"}:
        line = LEG if form == "ellipsoid" else [place[:2] for place in LEG]
        (tmp_path / "flight.geojson").write_text(json.dumps({"type": "LineString", "coordinates": line}))
        high = "has a height above the ellipsoid, which cannot be converted to mean sea level without a geoid model"
        why = f"the start of the route (0.346, 32.588) {high if form == 'ellipsoid' else 'has no altitude'}"
    else:
        (tmp_path / "flight.kml").write_text(line_kml("relativeToGround" if form == "ground" else "clampToGround"))
        routed["area"]["route"] = "flight.kml"
        told = "has only an altitude above the ground" if form == "ground" else "has no altitude"
        why = f"the start of the route (0.346, 32.588) {told}"
    assert problems(routed) == (f"takeoff_origin: give it here, in metres above mean sea level: {why}",)
    lat = 0.9 if form == "plan" else 0.3
    routed["takeoff_origin"] = {"lat": lat, "lon": 32.5, "alt": 5}
    assert load(routed).job.takeoff_origin == LatLonAlt(lat, 32.5, 5.0)


def test_a_route_and_a_corridor_go_together(problems, routed):
    told = ("area.corridor_m: and area.route need each other: give the metres to cover on each side of the route",)
    width = routed["area"].pop("corridor_m")
    assert problems(routed) == told
    routed["area"] = {**MISSION["area"], "corridor_m": width}
    assert problems(routed) == told


@pytest.mark.parametrize("width", [0, -5, 0.5, 50_001, "500"])
def test_an_invalid_corridor_width_is_refused_at_its_path(problems, routed, width):
    routed["area"]["corridor_m"] = width
    assert [problem.split(":")[0] for problem in problems(routed)] == ["area.corridor_m"]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"\xff\xfe", b'{"type": "Point", "coordinates": [1, 2]}'])
def test_a_route_file_that_is_missing_or_broken_is_refused_at_its_path(problems, routed, tmp_path, content):
    (tmp_path / "flight.geojson").unlink()
    if content is not None:
        (tmp_path / "flight.geojson").write_bytes(content)
    assert all(problem.startswith("area.route: ") for problem in problems(routed))


def test_all_problems_of_a_route_are_reported_with_all_the_others(problems, routed, tmp_path):
    bad = {"type": "LineString", "coordinates": [[32, 86], [200, 0], [32]]}
    (tmp_path / "flight.geojson").write_text(json.dumps(bad))
    routed["calibration"] = "none.json"
    found = [problem.split(":")[:2] for problem in problems(routed)]
    assert found == [["area.route", f" LineString[{number}]"] for number in range(3)] + [
        ["calibration", f" {tmp_path / 'none.json'} is not a file"]
    ]


def test_a_corridor_that_leaves_the_map_is_refused_at_its_path(problems, routed, tmp_path):
    (tmp_path / "flight.geojson").write_text(json.dumps({"type": "LineString", "coordinates": [[3, 85.049], [3, 85]]}))
    (problem,) = problems(routed)
    assert problem.startswith("area.route: the corridor reaches beyond 85.0511")


@pytest.mark.parametrize("name", ["cache_root", "calibration", "trust"])
def test_an_impossible_path_is_reported_as_a_problem(problems, value, name):
    value[name] = "a\0b"
    assert any(problem.startswith(f"{name}: ") for problem in problems(value))


def test_a_path_that_is_too_long_is_reported_as_a_problem(problems, value):
    value["calibration"] = "x" * 5000
    assert problems(value)[0].startswith("calibration: ")


def test_an_impossible_polygon_path_is_reported_as_a_problem(problems, value):
    value["area"] = {"polygon": "a\0b"}
    assert problems(value)[0].startswith("area.polygon: ")


def test_an_infinite_number_is_refused(tmp_path, value):
    (tmp_path / "camera.json").write_text("{}")
    path = tmp_path / "mission.yaml"
    path.write_text(json.dumps(value).replace('"alt": 1190', '"alt": 1.0e999'))
    with pytest.raises(MissionError) as refusal:
        load_mission(path, {})
    assert refusal.value.problems[0].startswith("takeoff_origin.alt: ")


def test_environment_variables_are_expanded(load, value, tmp_path):
    value["cache_root"] = "${ROOT}/${NAME}"
    value["tile_store"]["database"] = "postgresql://${USER_1}@host/tiles"
    mission = load(value, {"ROOT": "/srv", "NAME": "cache", "USER_1": "c6"})
    assert mission.job.cache_root == Path("/srv/cache")
    assert mission.database == "postgresql://c6@host/tiles"


def test_a_missing_environment_variable_is_reported_with_every_path(problems, value):
    value["cache_root"] = "${NOWHERE}/cache"
    config(value)["backbones"][0]["onnx_path"] = "${MODELS}/a.onnx"
    assert problems(value) == (
        "cache_root: the environment has no NOWHERE",
        f"{AT}.backbones[0].onnx_path: the environment has no MODELS",
    )


def test_an_expanded_value_is_not_expanded_again(load, value, tmp_path):
    value["cache_root"] = "${A}"
    assert load(value, {"A": "${B}", "B": "x"}).job.cache_root == tmp_path / "${B}"


@pytest.mark.parametrize("path", sorted((ROOT / "cache_templates").glob("*.yaml")), ids=lambda path: path.name)
def test_every_template_is_a_mission(path, tmp_path):
    """Loads a copy where an operator would put it. Its comments say which variables and files it needs."""
    for file in path.parent.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    found = ()
    try:
        load_mission(tmp_path / path.name, {})
    except MissionError as error:
        found = error.problems
    # A template names models and files of the operator. Their absence may be the only problem.
    assert all("is not a file" in problem for problem in found)
    assert path.name != "demo.yaml" or not found
