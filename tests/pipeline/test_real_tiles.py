"""The whole build with real aerial tiles."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from io import BytesIO

import pytest
from PIL import Image

ZOOMS = [19, 20, 21]
COUNT = 147


def yesterday():
    """Return a date of capture that never becomes too old for the mission."""
    return str((datetime.now(timezone.utc) - timedelta(days=1)).date())


@pytest.fixture(scope="module")
def over_real_tiles(oam, room, place_in):
    """A mission over the polygon of the real tiles, imported by `doit import` and built."""
    place = place_in(room / "oam", {"polygon": str(oam / "oam-area.geojson")}, ZOOMS)
    imported = place.doit("import", str(oam / "oam"), "--source=oam", f"--captured-at={yesterday()}")
    assert imported.status == 0, imported.said
    assert f"{COUNT} added" in imported.out
    done = place.provision_json()
    assert done.status == 0, done.said
    return place


@pytest.fixture
def real(over_real_tiles, copy_of):
    return copy_of(over_real_tiles)


def test_all_real_tiles_are_embedded_and_verified(over_real_tiles):
    place = over_real_tiles
    assert place.report["descriptors_generated"] == COUNT
    corpus = place.manifest["predicate"]["identity"]["corpus"]
    assert (corpus["tile_count"], corpus["missing"]) == (COUNT, 0)
    assert corpus["zoom_levels"] == ZOOMS
    assert place.doit("verify").status == 0
    assert place.doit("verify", "mode=operator").status == 0


def test_one_replaced_real_tile_costs_one_inference(real, oam, tmp_path):
    path = sorted((oam / "oam" / "20").rglob("*.png"))[0]
    folder = tmp_path / "20" / path.parent.name
    folder.mkdir(parents=True)
    with Image.open(path) as image:
        changed = image.copy()
    red, *rest = changed.getpixel((100, 100))
    changed.putpixel((100, 100), (red ^ 0x40, *rest))
    buffer = BytesIO()
    changed.save(buffer, "PNG")
    (folder / path.name).write_bytes(buffer.getvalue())
    # Operators often write options after the folder.
    imported = real.doit("import", str(tmp_path), "--source", "oam", "--captured-at", yesterday(), "--update")
    assert imported.status == 0, imported.said
    assert "1 replaced" in imported.out
    done = real.provision_json()
    assert done.status == 0, done.said
    report = real.report
    assert (report["engines_built"], report["engines_reused"], report["descriptors_generated"]) == (0, 1, 1)
    assert not [step for step in done.ran if step.startswith(("engine", "parity", "onnx", "model"))]
    assert real.doit("verify").status == 0


def test_a_wider_box_with_all_that_is_missing_allowed(real):
    box = {"lat_min": 0.3460, "lon_min": 32.5880, "lat_max": 0.3520, "lon_max": 32.6000}
    real.edit(lambda mission: mission.update(area={"bbox": box, "allow_missing": 1.0}))
    done = real.provision_json()
    assert done.status == 0, done.said
    corpus = real.manifest["predicate"]["identity"]["corpus"]
    assert corpus["allow_missing"] == "1.0"
    assert 0 < corpus["tile_count"] <= COUNT
    assert corpus["missing"] > corpus["tile_count"]
    # Each tile of the box already has a descriptor from the polygon.
    assert real.report["descriptors_generated"] == 0
    assert real.doit("verify").status == 0
    assert real.doit("verify", "mode=operator").status == 0
