"""A verification reads only the places of a mission. It gets the same places as a build, and is as strict."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from preflight.errors import MissionError
from preflight.mission.cache_place import KEYS, CachePlace, read_place, trust_problem
from preflight.mission.loading import load_mission
from preflight.mission.schema import MissionFile

TEMPLATES = Path(__file__).parents[4] / "cache_templates"
PLACES = {"version": 1, "cache_root": "cache", "trust": "trust"}


@pytest.fixture
def read(tmp_path):
    """read(value): write a mission file and read its places. A dictionary is written as YAML, text as it is."""

    def act(value, **environment):
        path = tmp_path / "mission.yaml"
        path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
        return read_place(path, environment)

    return act


def test_the_keys_are_those_of_a_mission():
    assert set(KEYS) == {field.encode_name for field in msgspec.structs.fields(MissionFile)}


def test_the_places_are_the_same_as_those_of_the_whole_mission():
    path = TEMPLATES / "demo.yaml"
    job = load_mission(path, {}).job
    assert read_place(path, {}) == CachePlace(job.cache_root, job.trust)


def test_other_values_of_the_mission_are_not_checked(read, tmp_path):
    place = read({**PLACES, "calibration": "not/there.json", "area": None, "components": {"c10_provisioning": {}}})
    assert place == CachePlace(tmp_path / "cache", tmp_path / "trust")


def test_trust_may_be_a_link_to_keys_elsewhere(read, tmp_path):
    (tmp_path / "stick").mkdir()
    (tmp_path / "link").symlink_to("stick")
    assert read({**PLACES, "trust": "link"}).trust == tmp_path / "link"


def test_variables_in_other_values_need_not_be_set(read):
    assert read({**PLACES, "tile_store": {"database": "postgresql://op:${PASSWORD}@host/tiles"}})


def test_a_place_may_be_absolute_or_come_from_the_environment(read, tmp_path):
    place = read({**PLACES, "cache_root": "/media/card/../cache", "trust": "${KEYS}/trust"}, KEYS="keys")
    assert place == CachePlace(Path("/media/cache"), tmp_path / "keys" / "trust")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cache_root": None}, "cache_root: is missing"),
        ({"trust": None}, "trust: is missing"),
        ({"trust": ""}, "trust: a path is needed"),
        ({"cache_root": ["cache"]}, "cache_root: a path is needed"),
        ({"cache_root": 7, "trust": 8}, "(?s)cache_root: a path.*trust: a path"),
        ({"trust": "cache"}, "trust: lies inside cache_root"),
        ({"trust": "cache/work/../trust"}, "trust: lies inside cache_root"),
        ({"version": 2}, "version: is 2; this program knows version 1"),
        ({"version": True}, "version: is True"),
        ({"version": "1"}, "version: is '1'"),
        ({"version": 1.0}, "version: is 1.0"),
        ({"trust": "//{here}/cache/trust"}, "trust: lies inside cache_root"),
        ({"trust": "link"}, "trust: lies inside cache_root"),
        ({"trust": "/proc/self/root{here}/cache/trust"}, "trust: lies inside cache_root"),
        ({"version": None}, "version: is None"),
        ({"trsut": "trust"}, "trsut: unknown key; known here: area, cache_root"),
        ({"cache_root": "${NOWHERE}/cache"}, "the environment has no NOWHERE"),
    ],
)
def test_ambiguous_or_invalid_places_are_refused(read, tmp_path, change, said):
    (tmp_path / "cache" / "trust").mkdir(parents=True)
    (tmp_path / "link").symlink_to("cache/trust")
    change = {
        key: value.format(here=tmp_path) if key == "trust" and isinstance(value, str) else value
        for key, value in change.items()
    }
    with pytest.raises(MissionError, match=said):
        read({key: value for key, value in {**PLACES, **change}.items() if value is not None})


@pytest.mark.parametrize("text", ["", "[]", "7", "{{{", "trust: a\ntrust: b", "version: !!int 1", "a: &b c\nd: *b"])
def test_a_text_that_is_no_mission_is_refused(read, text):
    with pytest.raises(MissionError):
        read(text)


def test_a_trust_directory_that_links_to_itself_is_left_to_the_verifier(read, tmp_path):
    (tmp_path / "trust").symlink_to("trust")
    assert read(PLACES).trust == tmp_path / "trust"


def test_a_binary_file_gives_a_message_of_one_line(tmp_path):
    path = tmp_path / "m.yaml"
    path.write_bytes(b"\0\1garbage")
    with pytest.raises(MissionError) as caught:
        read_place(path, {})
    (said,) = caught.value.problems
    assert said.startswith("the file is not YAML (unacceptable character #x0000")
    assert said.endswith("name a mission file, or write one with doit new")
    assert "\n" not in said


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(MissionError, match="cannot be read"):
        read_place(tmp_path / "none.yaml", {})


PARTS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4).map(lambda parts: Path("/", *parts))


@given(PARTS, PARTS)
def test_no_trust_directory_inside_the_cache_root_is_accepted(place, root):
    inside = place.parts[: len(root.parts)] == root.parts
    assert (trust_problem(place, root) is not None) == inside
