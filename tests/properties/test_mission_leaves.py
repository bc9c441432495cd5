"""A mission is refused if one value has another type; the error names the value's path.

No input raises another exception.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preflight.errors import MissionError
from preflight.mission.loading import load_mission

MISSION = {
    "version": 1,
    "cache_root": "cache",
    "tile_store": {"root": "tiles", "database": "embedded", "source_order": ["a", "b"], "if_empty": "demo"},
    "area": {"bbox": {"lat_min": 0.346, "lon_min": 32.588, "lat_max": 0.352, "lon_max": 32.6}, "allow_missing": 0.5},
    "zoom_levels": [19, 20],
    "sector_class": "stable_rear",
    "calibration": "camera.json",
    "trust": "trust",
    "takeoff_origin": {"lat": 0.348, "lon": 32.59, "alt": 1190.5},
    "flight_id": "0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10",
    "components": {
        "c10_provisioning": {
            "runtime": "openvino",
            "workspace_mb": 2048,
            "backbones": [
                {
                    "model_name": "weight_free_vpr",
                    "role": "descriptor",
                    "onnx_path": "builtin:weight_free_vpr",
                    "input_name": "image",
                    "expected_input_shape": [1, 3, 224, 224],
                    "precision": "fp32",
                    "preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [1.5, 1.5, 1.5]},
                },
                {"model_name": "aliked", "role": "auxiliary", "onnx_path": "m.onnx", "inputs": {"image": [1, 3, 8, 8]}},
            ],
            "descriptors": {"batch_size": 64, "max_oom_retries": 1, "overlap": 0.0, "executor": "local"},
            "index": {"m": 32, "ef_construction": 200, "ef_search": 64, "metric": "inner_product"},
            "selftest": {"queries": 200, "margin_over_thumbnail": -1.0},
            "manifest": {
                "signing_mode": "operator",
                "signing_key": "keys/op.pem",
                "allowed_operator_fingerprints": ["a" * 64],
                "schema_version": "1.1",
                "valid_for_days": 30,
            },
            "provisioner": {"keep_generations": 3, "max_tile_age_days": {"active_conflict": 30, "stable_rear": 365}},
        }
    },
}


def leaves(value, at=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*at, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from leaves(item, (*at, number))
    else:
        yield at


def inner_nodes(value, at=()):
    if isinstance(value, (dict, list)):
        if at:
            yield at
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from inner_nodes(item, (*at, key))


def spelled(path):
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def at_path(value, path):
    for part in path:
        value = value[part]
    return value


def with_value(path, new):
    value = copy.deepcopy(MISSION)
    at_path(value, path[:-1])[path[-1]] = new
    return value


OTHERS = st.one_of(
    st.booleans(),
    # More than 18 digits are text: a fingerprint may consist of digits alone.
    st.integers(-(10**18) + 1, 10**18 - 1),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.5),
    st.text(st.characters(min_codepoint=97, max_codepoint=122), min_size=1, max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.sampled_from(["x", "y"]), st.integers(), max_size=2),
)


def numeric(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def of_another_type(old, new):
    if isinstance(old, float) and numeric(new):
        return False  # an integer is a valid way to write such a number
    return type(old) is not type(new)


@pytest.fixture(scope="module")
def load():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "camera.json").write_text("{}")
        (folder / "m.onnx").write_bytes(b"")

        def run(value):
            path = folder / "mission.yaml"
            path.write_text(json.dumps(value))
            return load_mission(path, {})

        yield run


def test_the_mission_itself_is_accepted(load):
    assert load(MISSION).job.descriptor.model_name == "weight_free_vpr"


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_a_leaf_of_another_type_is_refused_at_its_path(load, data):
    path = data.draw(st.sampled_from(list(leaves(MISSION))), label="leaf")
    new = data.draw(OTHERS.filter(lambda value: of_another_type(at_path(MISSION, path), value)), label="value")
    with pytest.raises(MissionError) as refusal:
        load(with_value(path, new))
    assert any(problem.startswith(spelled(path)) for problem in refusal.value.problems), refusal.value.problems


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_a_mapping_or_list_replaced_by_a_scalar_is_refused_at_its_path(load, data):
    path = data.draw(st.sampled_from(list(inner_nodes(MISSION))), label="node")
    new = data.draw(st.one_of(st.booleans(), st.integers(0, 99), st.text("abc", min_size=1)), label="value")
    with pytest.raises(MissionError) as refusal:
        load(with_value(path, new))
    assert any(problem.startswith(spelled(path)) for problem in refusal.value.problems), refusal.value.problems


@settings(max_examples=30, deadline=None)
@given(
    path=st.sampled_from([path for path in leaves(MISSION) if isinstance(path[-1], str)]),
    name=st.text("xyz", min_size=3),
)
def test_an_unknown_key_beside_any_leaf_is_refused_at_its_path(load, path, name):
    value = copy.deepcopy(MISSION)
    at_path(value, path[:-1])[name] = 1
    if path[-2:-1] == ("inputs",):
        return  # in `inputs`, each key is an input's name
    with pytest.raises(MissionError) as refusal:
        load(value)
    assert any(problem.startswith(f"{spelled((*path[:-1], name))}: unknown key") for problem in refusal.value.problems)


@settings(max_examples=150, deadline=None)
@given(content=st.one_of(st.binary(max_size=60), st.text("[]{}:,-&*!|>'\"%@`#? \n0a~", max_size=40).map(str.encode)))
def test_no_text_ever_raises_anything_else(content):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "mission.yaml"
        path.write_bytes(content)
        with pytest.raises(MissionError):
            load_mission(path, {})
