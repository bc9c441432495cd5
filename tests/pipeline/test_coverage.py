"""A build reports all problems of a tile set at once, before it starts the long work."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest

from preflight import wiring
from preflight.errors import CoverageError
from preflight.mission.loading import load_mission
from preflight.tile_import.importing import import_tiles
from preflight.tile_import.source import OfferedTile


def bring(place, tiles, source, change=lambda content: content, *, update=False):
    access = place.tiles()
    try:
        import_tiles(
            (OfferedTile(tile.zoom, tile.x, tile.y, change(tile.content), ".jpg") for tile in tiles),
            source=source,
            captured_at=datetime.now(timezone.utc),
            metadata=access.metadata(),
            pixels=access.pixels(),
            check_image=wiring.check_image,
            clock=wiring.wall_clock,
            replace=update,
        )
    finally:
        access.close()


def spoil(place, numbers):
    """Damage tiles, numbered in the order of their files: remove the first one, change the last byte of the others."""
    files = sorted((place.folder / "tiles" / "objects").rglob("*.jpg"))
    for number in numbers:
        content = files[number].read_bytes()
        files[number].chmod(0o644)
        files[number].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    files[numbers[0]].unlink()
    return len(files)


def test_corrupt_tiles_are_all_named_before_anything_is_embedded(fresh, landscape_tiles, tmp_path):
    spoil(fresh, [3, 30, 60])
    done = fresh.provision_json()
    assert done.status == 1
    (failed,) = done.event("c10.build.failed")
    assert failed["error"] == "CoverageError"
    assert (
        "3 of 80 tiles are corrupt (the file is missing or differs from the import), such as"
        in failed["failure_reason"]
    )
    assert done.ran == ["tiles"]
    assert not (fresh.work / "tiles" / "tiles.inventory").exists()

    lacking = tmp_path / "lacking.geojson"
    told = fresh.doit("plan", f"--missing={lacking}")
    assert "0 missing, 0 stale and 3 corrupt of 80 tiles" in told.sentences
    reasons = [feature["properties"]["reason"] for feature in json.loads(lacking.read_text())["features"]]
    assert reasons == ["corrupt"] * 3

    # The command that the message recommends.
    bring(fresh, landscape_tiles, "small-landscape", update=True)
    assert fresh.provision().status == 0


def test_a_sealed_tile_is_not_read_again(whole):
    """Its descriptor exists. `doit verify deep=1` checks whether the file is still intact; a build does not."""
    spoil(whole, [3, 30])
    whole.edit(lambda mission: mission["area"].update(allow_missing=0.5))
    done = whole.provision_json()
    assert done.status == 0, done.said
    assert "tiles" in done.ran


def elsewhere(place, change, tiles):
    """Change rows as another program would. change: the text after SET."""
    access = place.tiles()
    try:
        for tile in tiles:
            at = f"zoom = {tile.zoom} AND x = {tile.x} AND y = {tile.y}"
            changed = access.metadata()._connection.execute(
                f"UPDATE preflight.tiles SET {change} WHERE {at}"  # noqa: S608 - contains only constants of this file
            )
            assert changed.rowcount == 1
    finally:
        access.close()


def test_an_update_repairs_rows_that_name_no_file(whole, landscape_tiles):
    """The message recommends this command. The tiles have the same bytes as before, so nothing is computed again."""
    elsewhere(whole, "path = 'gone/' || x || '.jpg'", landscape_tiles[5:7])
    done = whole.provision_json()
    assert done.status == 1
    (failed,) = done.event("c10.build.failed")
    assert (
        "2 of 80 tiles are corrupt (the file is missing or differs from the import), such as"
        in failed["failure_reason"]
    )
    assert "--update" in failed["failure_reason"]

    bring(whole, landscape_tiles, "small-landscape", update=True)
    done = whole.provision_json()
    assert done.status == 0, done.said
    assert done.ran == ["tiles"]
    assert whole.report["descriptors_generated"] == 0
    assert whole.provision_json().ran == []


def test_a_tile_with_a_moved_file_is_sealed_with_its_new_path_and_not_computed_again(whole, landscape_tiles):
    tile = landscape_tiles[5]
    digest = hashlib.sha256(tile.content).hexdigest()
    (whole.folder / "tiles" / "objects" / digest[:2] / f"{digest}.jpg").rename(whole.folder / "tiles" / "moved.jpg")
    elsewhere(whole, "path = 'moved.jpg'", [tile])
    done = whole.provision_json()
    assert done.status == 0, done.said
    assert "tiles" in done.ran
    assert whole.report["descriptors_generated"] == 0
    assert b"moved.jpg" in (whole.current / "tiles.inventory").read_bytes()


def test_a_row_that_names_no_file_is_found_when_all_tiles_are_sealed_again(whole, landscape_tiles):
    elsewhere(whole, "path = 'gone.jpg'", [landscape_tiles[5]])
    whole.edit(lambda mission: mission["area"].update(allow_missing=0.5))
    done = whole.provision_json()
    assert done.status == 1
    (failed,) = done.event("c10.build.failed")
    assert "1 of 80 tiles are corrupt" in failed["failure_reason"]


def test_tiles_dated_in_the_future_are_refused_until_an_update_corrects_the_date(whole, landscape_tiles, tmp_path):
    tile = landscape_tiles[5]
    elsewhere(whole, "captured_at = now() + interval '26 hours'", landscape_tiles[5:7])
    elsewhere(whole, "captured_at = now() + interval '22 hours'", landscape_tiles[7:9])
    done = whole.provision_json()
    assert done.status == 1
    (failed,) = done.event("c10.build.failed")
    assert failed["error"] == "CoverageError"
    named = f"2 of 80 tiles are dated in the future, such as {tile.zoom}/{tile.x}/{tile.y}"
    for part in ("area lat", named, "clock", "--update", "--captured-at"):
        assert part in failed["failure_reason"]
    assert "days ago" not in failed["failure_reason"]
    told = whole.doit("plan", f"--missing={tmp_path / 'lacking.geojson'}")
    assert "0 missing, 2 stale and 0 corrupt of 80 tiles" in told.sentences

    bring(whole, landscape_tiles, "small-landscape", update=True)
    done = whole.provision_json()
    assert done.status == 0, done.said
    assert whole.report["descriptors_generated"] == 0


def test_tiles_sealed_while_the_clock_was_ahead_are_refused_when_it_is_corrected(whole, landscape_tiles):
    elsewhere(whole, "captured_at = now() + interval '299 days'", landscape_tiles)
    mission = load_mission(whole.mission, {})

    def seal(clock):
        session = wiring.assemble(mission, replace(wiring.Surroundings.real(), clock=clock), wiring.Options()).session()
        try:
            session.begin()
            assert not session.judge("tiles")
            session.run("tiles")
        finally:
            session.close()

    seal(lambda: wiring.wall_clock() + timedelta(days=300))
    with pytest.raises(CoverageError, match="80 of 80 tiles are dated in the future"):
        seal(wiring.wall_clock)
    # Sealing only the changed tiles would not check the others.
    elsewhere(whole, "captured_at = now()", landscape_tiles[3:4])
    with pytest.raises(CoverageError, match="79 of 80 tiles are dated in the future"):
        seal(wiring.wall_clock)


def test_a_changed_tile_is_read_before_it_is_sealed(whole, landscape_tiles):
    tile = landscape_tiles[9]
    before = set((whole.folder / "tiles" / "objects").rglob("*.jpg"))
    bring(whole, [tile], "a-better-survey", lambda content: landscape_tiles[12].content + b"\0")
    (file,) = set((whole.folder / "tiles" / "objects").rglob("*.jpg")) - before
    file.chmod(0o644)
    file.write_bytes(b"not this")
    done = whole.provision_json()
    assert done.status == 1
    (failed,) = done.event("c10.build.failed")
    assert (
        f"1 of 80 tiles are corrupt (the file is missing or differs from the import), such as {tile.zoom}/{tile.x}/{tile.y}"
        in (failed["failure_reason"])
    )


def test_a_changed_tile_is_read_even_if_another_tile_had_its_bytes(whole, landscape_tiles):
    """The bytes were checked when the other tile was sealed. But the file may have been damaged since."""
    one, other = landscape_tiles[9], landscape_tiles[12]
    bring(whole, [one], "small-landscape", lambda _: other.content, update=True)
    digest = hashlib.sha256(other.content).hexdigest()
    file = whole.folder / "tiles" / "objects" / digest[:2] / f"{digest}.jpg"
    file.chmod(0o644)
    file.write_bytes(other.content[:-1] + bytes([other.content[-1] ^ 1]))
    done = whole.provision_json()
    assert done.status == 1
    (failed,) = done.event("c10.build.failed")
    named = f"1 of 80 tiles are corrupt (the file is missing or differs from the import), such as {one.zoom}/{one.x}/{one.y}"
    assert named in failed["failure_reason"]


def test_sources_that_overlap_are_counted_on_both_sides(whole, landscape_tiles):
    """This includes a build that seals only the changed tiles."""
    bring(whole, landscape_tiles[:5], "older", lambda content: content + b"\0")
    done = whole.provision()
    assert done.status == 0, done.said
    # Sources that the mission does not list are sorted by name.
    assert "80 of 80, 5 also held by older" not in done.sentences
    assert "80 of 80, 5 also held by small-landscape" in done.sentences
    provenance = json.loads((whole.current / "provenance.json").read_bytes())
    assert provenance["coverage"]["passed_over"] == {"small-landscape": 5}
    assert {source["name"]: source["tiles"] for source in provenance["sources"]} == {"older": 5, "small-landscape": 75}

    whole.edit(lambda mission: mission["tile_store"].update(source_order=["small-landscape", "older"]))
    assert whole.provision().status == 0
    provenance = json.loads((whole.current / "provenance.json").read_bytes())
    assert provenance["coverage"]["passed_over"] == {"older": 5}
    assert [source["name"] for source in provenance["sources"]] == ["small-landscape"]


def test_tiles_with_little_texture_are_counted_and_cause_a_warning(whole, landscape_tiles):
    from io import BytesIO

    from PIL import Image

    def water(_):
        out = BytesIO()
        Image.new("RGB", (256, 256), (30, 60, 90)).save(out, "JPEG")
        return out.getvalue()

    bring(whole, landscape_tiles[20:22], "a-lake", water)
    done = whole.provision_json()
    assert done.status == 0, done.said
    (warned,) = done.event("c10.tiles.low_texture")
    assert warned["tiles"] == 2
    assert "2 of 80 tiles have little texture" in warned["message"]
    coverage = json.loads((whole.current / "provenance.json").read_bytes())["coverage"]
    assert (coverage["poor_texture"], coverage["unmeasured_texture"]) == (2, 0)
