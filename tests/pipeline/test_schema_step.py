"""Moves a cache root from one manifest schema to the next and back, with two releases of preflight as real processes.

The releases differ only in the schema version, which is part of the verifier with which they publish.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from preflight.signing import load_signing_key
from takeoff import envelope

SCHEMAS = ("1.1", "99.1")
STEPS = [SCHEMAS, SCHEMAS[::-1]]


def issued_at(place):
    return place.manifest["predicate"]["issued_at"]


def number(place):
    return int(place.generation.name[:6])


def of_another_flight(mission):
    mission["flight_id"] = None


@pytest.fixture
def two_generations(built, releases):
    """two_generations(schema): the built mission, whose two generations a release with this schema published."""

    def make(schema):
        place = replace(built, python=releases[schema])
        assert place.provision().status == 0
        place.edit(of_another_flight)
        assert place.provision().status == 0
        return place

    return make


def statuses(place):
    (told,) = place.doit("status", "log=json").events
    return [(item["mark"], item["other_schema"], item["fault"] is None) for item in told["generations"][-2:]]


@pytest.mark.parametrize(("old", "new"), STEPS, ids=["up", "down"])
def test_commands_that_only_read_report_the_schema_and_change_nothing(two_generations, releases, tmp_path, old, new):
    place = two_generations(old)
    was = place.generation
    place = replace(place, python=releases[new])
    why = f"is of schema {old}, and this release of preflight writes schema {new}"
    assert statuses(place) == [("previous", old, False), ("current", old, False)]
    shown = place.doit("status").sentences
    assert f"manifest schema {old}" in shown
    assert f"next doit provision publishes the mission in schema {new}; until then current does not change" in shown
    (plan,) = place.doit("plan", "log=json").events
    assert {stage["name"]: stage["reasons"] for stage in plan["stages"] if stage["status"] != "up to date"} == {
        "manifest": [f"manifest: the manifest signed last {why}"],
        "publish": [f"publish: the manifest of the current generation {why}"],
    }
    asked = place.doit("why", "manifest")
    assert (asked.status, f"the manifest signed last {why}" in asked.sentences) == (0, True)
    # The verifier is strict. A cache that is given by its path is not marked as damaged.
    refused = place.doit("verify", f"cache={place.current}")
    assert (refused.status, place.takeoff().status) == (26, 26)
    assert f"has schema version {old}; this verifier reads {new}" in refused.sentences
    for command, says in {
        ("rollback",): "set the mission back to its state at that time and run doit provision",
        ("reproduce",): f"Run doit provision, which publishes the mission in schema {new}, then doit reproduce again",
        (
            "bundle",
            str(tmp_path / "card"),
        ): f"Run doit provision, which publishes the mission in schema {new}, and bundle",
    }.items():
        done = place.doit(*command)
        assert (done.status, why in done.sentences, says in done.sentences) == (1, True, True), done.said
        assert "the release of preflight that made it" in done.sentences
    assert place.doit("gc").status == 0
    assert place.generation == was
    assert replace(place, python=releases[old]).takeoff().status == 0


@pytest.mark.parametrize(
    ("old", "new", "repair"), [(*STEPS[0], ()), (*STEPS[1], ("repair=1",))], ids=["up", "down-repair"]
)
def test_provision_publishes_again_and_says_why(two_generations, releases, old, new, repair):
    place = two_generations(old)
    was, numbered, issued = place.generation, number(place), issued_at(place)
    place = replace(place, python=releases[new])
    done = place.provision_json(*repair)
    assert done.status == 0, done.said
    (said,) = done.event("c10.manifest.schema_changed")
    assert (said["level"], said["old"], said["new"]) == ("WARN", old, new)
    assert f"An aircraft accepts it only with a takeoff that reads {new}" in said["message"]
    # No other step runs.
    assert done.ran == ["manifest", "publish"]
    assert place.manifest["predicate"]["schema_version"] == new
    assert (number(place), (place.cache / "previous").resolve()) == (numbered + 1, was)
    assert issued_at(place) > issued
    assert (place.takeoff().status, place.doit("verify").status) == (0, 0)
    assert replace(place, python=releases[old]).takeoff().status == 26
    assert statuses(place) == [("previous", old, False), ("current", None, True)]
    assert place.provision_json(*repair).ran == []
    # A rollback to the other schema is refused, with advice that helps.
    back = place.doit("rollback")
    assert back.status == 1
    assert "set the mission back" in back.sentences
    assert "repair=1" not in back.sentences
    access = place.tiles()
    try:
        rows = access.metadata().manifests(str(place.cache))
    finally:
        access.close()
    assert [row.generation for row in rows if row.status == "active"] == [numbered + 1]


def rewritten(generation, key, schema, issued):
    """Rewrite a generation as if a release with another schema had published it at another time."""
    path = generation / "manifest.json"
    value = json.loads(path.read_bytes())
    value["predicate"].update(schema_version=schema, issued_at=issued)
    content = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    sealed = envelope.Envelope(content, key.fingerprint, key.private.sign(envelope.pae(content)))
    sidecar = hashlib.sha256(content).hexdigest().encode()
    sums = (
        (generation / "SHA256SUMS")
        .read_bytes()
        .replace(hashlib.sha256(path.read_bytes()).hexdigest().encode(), sidecar)
    )
    for name, data in {
        "manifest.json": content,
        "manifest.json.sha256": sidecar,
        "manifest.dsse.json": envelope.encode(sealed),
        "SHA256SUMS": sums,
    }.items():
        (generation / name).chmod(0o644)
        (generation / name).write_bytes(data)


def test_back_to_this_schema_from_one_issued_ahead_of_the_clock(two_generations, releases):
    """This happens after a trial of the next release with a wrong clock.

    issued_at must not fall below the floor of an aircraft.
    """
    place = two_generations("1.1")
    ahead = int(datetime.now(timezone.utc).timestamp()) + 5_000
    key = load_signing_key(place.folder / "keys" / "dev.pem", None, None)
    rewritten(place.generation, key, "99.1", ahead)
    assert replace(place, python=releases["99.1"]).takeoff().status == 0
    flight = json.loads(((place.cache / "previous") / "manifest.json").read_bytes())["predicate"]["identity"][
        "flight_id"
    ]
    back = place.doit("rollback")
    assert back.status == 0, back.said
    assert place.manifest["predicate"]["identity"]["flight_id"] == flight is not None
    assert issued_at(place) == ahead + 1
    assert place.takeoff().status == 0
    assert place.provision().status == 0
    assert place.manifest["predicate"]["identity"]["flight_id"] is None
    assert (issued_at(place), place.takeoff().status) == (ahead + 2, 0)
