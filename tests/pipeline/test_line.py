"""The whole build from an empty cache root to a verified cache, and then incremental builds."""

from __future__ import annotations

import shutil

import pytest

from preflight.adapters.demo import landscape
from preflight.store.cache_layout import CacheLayout
from preflight.trace.digests import hash_file

TILES = 80


def test_the_first_run_builds_publishes_and_passes_the_shipped_verifier(first):
    place, done = first
    assert place.current.is_symlink()
    report = place.report
    assert report["outcome"] == "success"
    assert (report["engines_built"], report["engines_reused"]) == (1, 0)
    assert report["descriptors_generated"] == TILES
    assert report["manifest_hash"] == place.manifest["predicate"]["manifest_hash"]
    assert done.event("c10.build.complete")[0]["manifest_hash"] == report["manifest_hash"]
    verdict = place.takeoff()
    assert verdict.status == 0, verdict.said


def test_no_inode_is_shared_between_work_and_the_generations(first):
    place, _ = first
    files = [path for path in place.generation.rglob("*") if path.is_file()]
    assert files
    in_work = {path.stat().st_ino for path in place.work.rglob("*")}
    assert not in_work & {path.stat().st_ino for path in files}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o444}


def test_the_second_run_has_nothing_to_do(built):
    link = built.current.readlink()
    _assert_no_op(built, built.provision_json())
    again = built.provision()
    assert again.status == 0
    assert "idempotent_no_op" in again.out
    assert built.current.readlink() == link


def _assert_no_op(place, done):
    assert done.status == 0, done.said
    assert done.ran == []
    assert [line["level"] for line in done.events if line["level"] in {"WARN", "ERROR"}] == []
    assert not {line["logger"] for line in done.events} & {
        "c10_provisioning.engine",
        "c10_provisioning.descriptor_batcher",
    }
    report = place.report
    assert report["outcome"] == "idempotent_no_op"
    assert (report["engines_built"], report["engines_reused"], report["descriptors_generated"]) == (0, 1, 0)
    assert report["manifest_hash"] == place.manifest["predicate"]["manifest_hash"]


def _touch_all(place):
    for path in place.folder.rglob("*"):
        if path.is_file() and "postgres" not in path.parts:
            path.touch()


def _delete(name):
    def delete(place):
        (found,) = place.work.glob(name)
        found.unlink()
        for suffix in ("-wal", "-shm"):
            found.with_name(found.name + suffix).unlink(missing_ok=True)

    return delete


def _comment(place):
    place.mission.write_text("# for the morning flight\n" + place.mission.read_text())


def _recopied(place):
    """Replace a file by a copy with the same bytes and a new inode."""
    for name in ("camera.json", "cache/work/index/descriptors.faiss"):
        path = place.folder / name
        other = path.with_name("other")
        shutil.copyfile(path, other)
        other.replace(path)


@pytest.mark.parametrize(
    "change",
    [_touch_all, _delete("doit.db"), _delete("digests.db"), _comment, _recopied],
    ids=["touched", "doit.db", "digests.db", "comment", "recopied"],
)
def test_a_change_without_effect_rebuilds_nothing(whole, change):
    change(whole)
    _assert_no_op(whole, whole.provision_json())


def test_a_moved_tree_rebuilds_nothing_and_updates_the_row_of_its_manifest(whole):
    before = whole.folder
    after = before.with_name(before.name + "-moved")
    before.rename(after)
    moved = type(whole)(after)
    try:
        _assert_no_op(moved, moved.provision_json())
        tiles = moved.tiles()
        try:
            rows = tiles.metadata().manifests(str(moved.cache))
        finally:
            tiles.close()
        assert [(row.generation, row.status) for row in rows] == [(1, "active")]
    finally:
        after.rename(before)


def test_another_flight_only_signs_and_publishes(built):
    built.edit(lambda mission: mission.update(flight_id="2f3d1c9e-5d3b-4c57-8e86-0a5d1f6f0001"))
    done = built.provision_json()
    assert done.status == 0, done.said
    assert done.ran == ["manifest", "publish"]
    assert built.report["outcome"] == "success"
    assert built.manifest["predicate"]["generation"] == 2
    verdict = built.takeoff()
    assert verdict.status == 0
    assert "2f3d1c9e" in verdict.out
    assert _shared(built, "descriptors.faiss")


def _shared(place, name):
    """Return whether a file is a hard link that the current and the previous generation share."""
    return (place.current / name).stat().st_ino == (place.cache / "previous" / name).stat().st_ino


def test_one_replaced_tile_is_one_inference(whole, landscape_tiles, tmp_path):
    (tile,) = [tile for tile in landscape_tiles if tile.zoom == 17][:1]
    other = next(iter(landscape.generate(99, columns=2, rows=2)))
    folder = tmp_path / "patch" / str(tile.zoom) / str(tile.x)
    folder.mkdir(parents=True)
    (folder / f"{tile.y}.jpg").write_bytes(other.content)
    refused = whole.doit("import", str(tmp_path / "patch"), "--source=small-landscape")
    assert refused.status == 1
    assert "other bytes" in refused.sentences
    assert "Traceback" not in refused.said
    _assert_no_op(whole, whole.provision_json())

    imported = whole.doit("import", str(tmp_path / "patch"), "--source=small-landscape", "--update")
    assert imported.status == 0, imported.said
    assert "1 replaced" in imported.sentences
    done = whole.provision_json()
    assert done.status == 0, done.said
    # The sample has the same tiles, so the parity gate does not run again.
    assert done.ran == ["tiles", "descriptors", "index", "selftest", "provenance", "manifest", "publish"]
    report = whole.report
    assert (report["engines_built"], report["engines_reused"], report["descriptors_generated"]) == (0, 1, 1)
    assert whole.takeoff().status == 0


def test_tiles_of_another_place_change_nothing(whole, tmp_path):
    tile = next(iter(landscape.generate(99, columns=2, rows=2)))
    folder = tmp_path / "elsewhere" / "18" / "5"
    folder.mkdir(parents=True)
    (folder / "5.jpg").write_bytes(tile.content)
    assert whole.doit("import", str(tmp_path / "elsewhere"), "--source=elsewhere").status == 0
    done = whole.provision_json()
    assert done.status == 0
    # The rows are read again. The sealed set is equal, so no later step runs.
    assert done.ran == ["tiles"]
    assert whole.manifest["predicate"]["generation"] == 1


def test_another_index_embeds_nothing(built):
    def change(mission):
        mission["components"]["c10_provisioning"]["index"] = {"m": 16}

    built.edit(change)
    done = built.provision_json()
    assert done.status == 0, done.said
    assert done.ran == ["index", "selftest", "corpus", "manifest", "publish"]
    assert built.report["descriptors_generated"] == 0
    assert built.takeoff().status == 0


def test_a_new_camera_calibration_signs_again(built):
    (built.folder / "camera.json").write_text('{"fx": 900.0}\n')
    done = built.provision_json()
    assert done.ran == ["manifest", "publish"]
    assert (built.current / "calibration.json").read_text() == '{"fx": 900.0}\n'


def test_repair_reads_everything_again_and_builds_nothing(built):
    _assert_no_op(built, built.provision_json("repair=1"))


def test_recalibrate_draws_the_sample_again(built):
    done = built.provision_json("recalibrate=1")
    assert done.status == 0, done.said
    # The same tiles give the same sample, so the gate's record is still valid.
    assert done.ran == ["sample"]


def test_old_generations_are_removed(built):
    for number in range(4):
        built.edit(
            lambda mission, number=number: mission.update(flight_id=f"2f3d1c9e-5d3b-4c57-8e86-00000000000{number}")
        )
        assert built.provision().status == 0
    assert [path.name[:6] for path in sorted((built.cache / "gen").iterdir())] == ["000003", "000004", "000005"]
    assert built.current.readlink().name.startswith("000005")
    assert (built.cache / "previous").readlink().name.startswith("000004")


def test_two_builds_of_one_mission_give_the_same_bytes(first, fresh):
    place, _ = first
    assert fresh.provision_json().status == 0
    names = sorted(path.relative_to(place.generation) for path in place.generation.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(fresh.generation) for path in fresh.generation.rglob("*") if path.is_file())
    # These files contain the time of signing or a hash that depends on it.
    signed = {"manifest.json", "manifest.json.sha256", "manifest.dsse.json", "SHA256SUMS"}
    same = [name for name in names if str(name) not in signed]
    assert len(same) >= 12
    for name in same:
        assert hash_file(place.generation / name) == hash_file(fresh.generation / name), name
    assert place.manifest["predicate"]["manifest_hash"] == fresh.manifest["predicate"]["manifest_hash"]


def test_the_layout_is_the_documented_one(first):
    layout = CacheLayout(first[0].cache)
    for path in (layout.lock, layout.current, layout.generations, layout.inventory, layout.index, layout.report):
        assert path.exists(), path
    assert not any(layout.staging.iterdir())
