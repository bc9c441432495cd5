"""README's second example: a mission from a template along a QGroundControl plan, with tiles imported from a folder."""

from __future__ import annotations

import json
import sys

import pytest

from preflight.area.area import area_from_geojson, cover
from preflight.area.web_mercator import tile_bounds
from preflight.mission.loading import load_mission

HOME_ALT = 118.5


@pytest.fixture(scope="module")
def flight(landscape_tiles):
    """A plan over the middle of the landscape, in the format of QGroundControl 4. Home and corners are (lat, lon)."""
    deep = [tile_bounds(tile.zoom, tile.x, tile.y) for tile in landscape_tiles if tile.zoom == 18]
    south, north = min(box.lat_min for box in deep), max(box.lat_max for box in deep)
    west, east = min(box.lon_min for box in deep), max(box.lon_max for box in deep)

    def at(down, right):
        return north - down * (north - south), west + right * (east - west)

    def item(number, command, place, frame=3, **more):
        height = {"AMSLAltAboveTerrain": None, "Altitude": 60, "AltitudeMode": 1} if place else {}
        params = [0, 0, 0, None, *(place or (0, 0)), 60 if place else 0]
        return {
            **height,
            "autoContinue": True,
            "command": command,
            "doJumpId": number,
            "frame": frame,
            "params": params,
            "type": "SimpleItem",
            **more,
        }

    home, corners = at(0.3, 0.3), [at(0.4, 0.4), at(0.4, 0.6), at(0.5, 0.6), at(0.5, 0.4)]
    transects = [item(2 + number, 16, place) for number, place in enumerate(corners)]
    camera = item(6, 206, None, frame=2, params=[25, 0, 1, 0, 0, 0, 0])
    survey = {
        "TransectStyleComplexItem": {
            "CameraShots": 12,
            "FollowTerrain": False,
            "Items": [transects[0], camera, *transects[1:]],
            "VisualTransectPoints": [list(place) for place in corners],
            "version": 1,
        },
        "angle": 0,
        "complexItemType": "survey",
        "polygon": [list(place) for place in corners],
        "type": "ComplexItem",
        "version": 5,
    }
    document = {
        "fileType": "Plan",
        "geoFence": {"circles": [], "polygons": [], "version": 2},
        "groundStation": "QGroundControl",
        "mission": {
            "cruiseSpeed": 15,
            "firmwareType": 12,
            "globalPlanAltitudeMode": 1,
            "hoverSpeed": 5,
            "items": [item(1, 22, home), survey, item(7, 20, None, frame=2)],
            "plannedHomePosition": [*home, HOME_ALT],
            "vehicleType": 2,
            "version": 2,
        },
        "rallyPoints": {"points": [], "version": 2},
        "version": 1,
    }
    return document, home


@pytest.fixture
def place(room, place_in, python_outside, flight):
    """A place after `doit new route` and an edit of one line. Nothing is imported."""
    place = place_in(room / "route", {}, [17])
    place.mission.unlink()
    done = python_outside([sys.executable, "-m", "doit", "new", "route"], cwd=place.folder)
    assert done.status == 0, done.said
    assert "mission.yaml is written" in done.out
    text = place.mission.read_text()
    assert "corridor_m: 500 " in text
    place.mission.write_text(text.replace("corridor_m: 500 ", "corridor_m: 60 "))
    (place.folder / "flight.plan").write_text(json.dumps(flight[0], indent=4))
    yield place
    assert place.servers() == []


@pytest.fixture
def offer(landscape_tiles, tmp_path):
    """offer(keep): a folder of ZOOM/X/Y.jpg with the tiles for which `keep` returns true."""

    def write(keep):
        for tile in landscape_tiles:
            if keep((tile.zoom, tile.x, tile.y)):
                file = tmp_path / "pictures" / str(tile.zoom) / str(tile.x) / f"{tile.y}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(tile.content)
        return tmp_path / "pictures"

    return write


def test_a_route_mission_from_template_to_verified_cache(place, offer, flight, tmp_path):
    job = load_mission(place.mission, {}).job
    wanted = cover(job.area, job.zoom_levels)
    assert {zoom for zoom, _, _ in wanted} == {17, 18}
    lacking = list(wanted)[3::7]
    lacking_file = tmp_path / "lacking.geojson"

    # Before any import every tile is missing. The question creates no tile store.
    done = place.doit("plan", f"--missing={lacking_file}")
    assert done.status == 0, done.said
    assert f"{len(wanted)} missing, 0 stale and 0 corrupt of {len(wanted)} tiles are in {lacking_file}" in done.out
    assert not (place.folder / "tiles").exists()

    # Some tiles are not in the folder. The build fails with advice, and the GeoJSON names each missing tile.
    done = place.doit("import", str(offer(lambda tile: tile not in lacking)), "--source=survey")
    assert done.status == 0, done.said
    done = place.provision()
    assert done.status == 1
    assert f"{len(lacking)} of {len(wanted)} tiles are missing" in done.sentences
    assert "doit plan --missing=FILE" in done.sentences
    done = place.doit("plan", f"--missing={lacking_file}", "log=json")
    assert done.status == 0, done.said
    (event,) = done.event("c10.plan.missing_written")
    assert (event["missing"], event["stale"], event["expected"]) == (len(lacking), 0, len(wanted))
    features = json.loads(lacking_file.read_text())["features"]
    told = [tuple(feature["properties"][key] for key in ("zoom", "x", "y")) for feature in features]
    assert told == lacking
    for tile, feature in zip(told, features, strict=True):
        assert list(cover(area_from_geojson(json.dumps(feature)), [tile[0]])) == [tile]

    # The missing tiles are imported. The rest is the same as for any mission.
    done = place.doit("import", str(offer(lambda tile: tile in lacking)), "--source=survey")
    assert done.status == 0, done.said
    done = place.provision()
    assert done.status == 0, done.said
    identity = place.manifest["predicate"]["identity"]
    home = flight[1]
    origin = identity["takeoff_origin"]
    assert [float(origin[key]) for key in ("lat", "lon", "alt")] == [*home, HOME_ALT]
    assert place.takeoff().status == 0
    assert place.doit("verify", "mode=operator").status == 0
    # The template's windows, four along the side of a tile, wherever the corridor contains all tiles below a window.
    tiles = set(wanted)
    under = [(i > 0, j > 0) for i in range(4) for j in range(4)]
    windows = sum(
        all((zoom, x + dx, y + dy) in tiles for dx in {0, int(right)} for dy in {0, int(down)})
        for zoom, x, y in tiles
        for right, down in under
    )
    assert place.report["descriptors_generated"] == windows
    done = place.doit("plan", f"--missing={lacking_file}")
    assert "0 missing, 0 stale and 0 corrupt" in done.out
    assert json.loads(lacking_file.read_text())["features"] == []


def test_new_and_missing_never_overwrite_another_file(python_outside, tmp_path):
    def doit(*arguments):
        return python_outside([sys.executable, "-m", "doit", *arguments], cwd=tmp_path)

    for wrong in (["new"], ["new", "rout"], ["new", "route", "workstation"]):
        done = doit(*wrong)
        assert (done.status, "Traceback" in done.said) == (1, False)
        assert "route" in done.err
        assert "workstation" in done.err
    assert list(tmp_path.iterdir()) == []
    assert doit("new", "workstation", "mission=north.yaml").status == 0
    assert doit("new", "route", "mission=north.yaml").status == 1
    assert [path.name for path in tmp_path.iterdir()] == ["north.yaml"]
    assert "workstation" in (tmp_path / "north.yaml").read_text()


def test_the_missing_tiles_are_not_written_over_another_kind_of_file(built):
    before = built.mission.read_bytes()
    done = built.doit("plan", f"--missing={built.mission}")
    assert done.status == 1
    assert "ends in .geojson or .json" in done.err
    assert built.mission.read_bytes() == before
