"""The provenance of the tiles, from `doit import` to the signed cache."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone

import pytest

SOURCE = "small-landscape"
SIGNED = ["provenance", "manifest", "publish"]
TERMS = "© OpenStreetMap contributors"


@pytest.fixture
def some_of_it(landscape_tiles, tmp_path):
    """A folder with a few of the tiles that the store already has."""
    for tile in landscape_tiles[:3]:
        file = tmp_path / "some" / str(tile.zoom) / str(tile.x) / f"{tile.y}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tile.content)
    return tmp_path / "some"


def provenance_of(place):
    return json.loads((place.current / "provenance.json").read_bytes())


def test_terms_are_in_the_cache_and_are_signed_again_when_they_change(whole, landscape_tiles, some_of_it):
    # Another program wrote these tiles. So there is no record of their source.
    coverage = json.loads((whole.work / "tiles" / "coverage.json").read_bytes())
    assert coverage.pop("sources") == {SOURCE: len(landscape_tiles)}
    first = provenance_of(whole)
    assert first == {
        "coverage": coverage,
        "sources": [{"name": SOURCE, "tiles": len(landscape_tiles), "origins": []}],
    }
    assert coverage["aggregate"] == whole.manifest["predicate"]["identity"]["corpus"]["tiles_coverage_sha256"]

    def imported(*options):
        done = whole.doit("import", str(some_of_it), f"--source={SOURCE}", "--captured-at=2026-05-01", *options)
        assert done.status == 0, done.said
        assert "0 added, 3 unchanged" in done.out

    def signed_again():
        done = whole.provision_json()
        assert done.status == 0, done.said
        assert done.ran == SIGNED
        content = (whole.current / "provenance.json").read_bytes()
        subjects = {one["name"]: one["digest"]["sha256"] for one in whole.manifest["subject"]}
        assert subjects["provenance.json"] == hashlib.sha256(content).hexdigest()
        assert content.isascii()
        assert whole.takeoff().status == 0
        assert whole.provision_json().ran == []
        found = json.loads(content)
        assert found["coverage"] == coverage
        ((name, tiles, [origin]),) = [(one["name"], one["tiles"], one["origins"]) for one in found["sources"]]
        assert (name, tiles) == (SOURCE, len(landscape_tiles))
        return origin

    hash_before = whole.manifest["predicate"]["manifest_hash"]
    imported(f"--terms={TERMS}")
    told = signed_again()
    assert (told["origin"], told["terms"]) == (str(some_of_it), TERMS)
    assert told["captured_at"] == "2026-05-01T00:00:00Z"
    age = datetime.now(timezone.utc) - datetime.fromisoformat(told["imported_at"].replace("Z", "+00:00"))
    assert 0 <= age.total_seconds() < 3600

    imported("--terms=CC0")
    assert signed_again() == {**told, "terms": "CC0"}
    # The identity of the cache has not changed.
    assert whole.manifest["predicate"]["manifest_hash"] == hash_before

    # An import without new information changes nothing.
    imported()
    assert whole.provision_json().ran == []
    why = whole.doit("why", "manifest")
    assert why.status == 0
    assert "CC0" in why.sentences
