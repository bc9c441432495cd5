"""`doit verify` finds and names damage, the next provision repairs it, and the verifier passes again."""

from __future__ import annotations

import json
import shutil

import pytest

ARTIFACTS = [
    "descriptors.faiss",
    "tiles.inventory",
    "calibration.json",
    "selftest.json",
    "corpus.json",
    "provenance.json",
    "ENGINE",
]
FILES = [
    *ARTIFACTS,
    *(f"{name}.sha256" for name in ARTIFACTS),
    "manifest.json",
    "manifest.json.sha256",
    "manifest.dsse.json",
    "SHA256SUMS",
]


def named(place, name):
    """Replace ENGINE by the path of the engine."""
    (engine,) = [path for path in (place.generation / "engines").iterdir() if path.suffix == ".engine"]
    return name.replace("ENGINE", f"engines/{engine.name}")


def replaced_by_altered_copy(path):
    """Replace a file by a damaged copy: another inode, and one bit of the middle byte flipped."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    other = path.with_name("altered")
    other.write_bytes(content)
    other.replace(path)


def edited_in_place(path):
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    with path.open("r+b") as file:
        file.write(content)
    path.chmod(0o444)


def refuse_then_repair(place, name):
    """Check that verify refuses and names the file, provision repairs it, and verify passes.

    Returns the repairing run.
    """
    generation = place.current.readlink()
    refused = place.doit("verify")
    assert refused.status >= 16
    assert name.rpartition("/")[2] in refused.out
    assert "doit provision" in refused.out
    assert "Traceback" not in refused.said
    repaired = place.provision_json()
    assert repaired.status == 0, repaired.said
    assert place.report["outcome"] == "success"
    assert place.current.readlink() != generation
    passed = place.doit("verify")
    assert passed.status == 0, passed.said
    assert "PASSED" in passed.out
    return repaired


def test_the_list_of_files_to_damage_is_complete(first):
    place, _ = first
    files = {path.relative_to(place.generation).as_posix() for path in place.generation.rglob("*") if path.is_file()}
    assert files == {named(place, name) for name in FILES}


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_refused_named_and_repaired(built, name):
    name = named(built, name)
    replaced_by_altered_copy(built.generation / name)
    repaired = refuse_then_repair(built, name)
    # The files in work/ are intact. So nothing is compiled or embedded again.
    assert repaired.ran == ["manifest", "publish"]
    assert built.report["engines_built"] == built.report["descriptors_generated"] == 0


def test_a_damaged_schema_version_is_repaired(built):
    path = built.generation / "manifest.json"
    content = path.read_bytes()
    assert b'"schema_version":"1.1"' in content
    path.chmod(0o644)
    path.write_bytes(content.replace(b'"schema_version":"1.1"', b'"schema_version":"1.0"'))
    refuse_then_repair(built, "manifest.json")


def test_verify_gives_its_verdict_even_if_it_cannot_mark_the_cache(built):
    replaced_by_altered_copy(built.generation / "corpus.json")
    (built.work / "refused.json").mkdir()
    refused = built.doit("verify")
    assert refused.status == built.takeoff().status >= 16
    assert "corpus.json" in refused.out
    assert "repair=1" in refused.out
    repaired = built.provision_json()
    assert repaired.status == 0, repaired.said
    assert built.doit("verify").status == 0


@pytest.mark.parametrize("act", ["revoke", "forbid_dev"])
def test_provision_does_not_call_a_cache_current_that_verify_refuses_for_its_key(built, act):
    trust = built.folder / "trust"
    link = built.current.readlink()
    if act == "revoke":
        envelope = json.loads((built.current / "manifest.dsse.json").read_bytes())
        (trust / "revoked").write_text(envelope["signatures"][0]["keyid"] + "\n")
    else:
        (trust / "allow_dev").unlink()
    assert built.doit("verify").status >= 16
    done = built.doit("provision")
    assert done.status == 1
    assert "trust" in done.sentences
    assert "Traceback" not in done.said
    assert built.current.readlink() == link


def test_a_cache_root_copied_without_links_is_refused_before_anything_is_built(built):
    target = built.generation
    built.current.unlink()
    shutil.copytree(target, built.current)
    done = built.doit("provision")
    assert done.status == 1
    assert "is a folder where a link must be" in done.sentences
    shutil.rmtree(built.current)
    assert built.provision_json().status == 0
    assert built.takeoff().status == 0


def test_an_edit_in_place_of_a_file_that_two_generations_share(built):
    built.edit(lambda mission: mission.update(flight_id=None))
    assert built.provision().status == 0
    name = "descriptors.faiss"
    assert (built.generation / name).stat().st_nlink == 2
    edited_in_place(built.generation / name)
    refuse_then_repair(built, name)


def test_provision_finds_an_edit_without_a_verification(built):
    """The stat signature of the file shows the edit."""
    edited_in_place(built.generation / "tiles.inventory")
    done = built.provision_json()
    assert done.ran == ["manifest", "publish"]
    assert built.doit("verify").status == 0


def test_an_added_file(built):
    (built.generation / "notes.txt").write_text("remember the milk")
    assert built.takeoff().status == built.doit("verify").status
    refuse_then_repair(built, "notes.txt")


def test_an_added_empty_folder_and_a_link(built):
    (built.generation / "engines" / "extra.engine").symlink_to("/etc/hostname")
    refuse_then_repair(built, "extra.engine")


@pytest.mark.parametrize("name", ["descriptors.faiss.sha256", "corpus.json", "manifest.dsse.json", "SHA256SUMS"])
def test_a_missing_file(built, name):
    (built.generation / name).unlink()
    refuse_then_repair(built, name)


def test_a_missing_manifest(built):
    (built.generation / "manifest.json").unlink()
    refuse_then_repair(built, "manifest.json")


def test_no_cache_at_all(fresh):
    done = fresh.doit("verify")
    assert done.status >= 16
    assert "doit provision" in done.out
    assert not (fresh.cache / "current").exists()


def test_a_damaged_file_in_work_is_built_again(built):
    (path,) = built.work.glob("index/*.faiss")
    replaced_by_altered_copy(path)
    done = built.provision_json()
    assert done.status == 0, done.said
    assert "index" in done.ran
    assert "descriptors" not in done.ran
    assert built.doit("verify").status == 0


def test_a_damaged_descriptor_segment_is_embedded_again(built):
    segments = [path for path in built.work.glob("descriptors/**/*") if path.is_file() and ".json" not in path.name]
    assert segments
    replaced_by_altered_copy(segments[0])
    done = built.provision_json()
    assert done.status == 0, done.said
    assert 0 < built.report["descriptors_generated"] < 80
    # The vectors are the same, so no later step runs.
    assert done.ran == ["descriptors"]


def test_a_deleted_work_folder_costs_only_a_rebuild(built):
    shutil.rmtree(built.work)
    done = built.provision_json()
    assert done.status == 0, done.said
    assert built.doit("verify").status == 0


def test_another_cache_can_be_verified(first, built):
    path = built.generation / "corpus.json"
    replaced_by_altered_copy(path)
    assert first[0].doit("verify", f"cache={built.current}").status >= 16
    assert not (first[0].work / "refused.json").exists()


def test_verify_as_json(built):
    done = built.doit("verify", "log=json")
    (verdict,) = done.events
    assert done.status == 0
    assert (verdict["level"], verdict["event"], verdict["outcome"]) == ("INFO", "c10.verify.pass", "pass")
    assert verdict["flight_id"] == "0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10"
    replaced_by_altered_copy(built.generation / "corpus.json")
    done = built.doit("verify", "log=json")
    (verdict,) = done.events
    assert (verdict["level"], verdict["event"], verdict["outcome"]) == ("ERROR", "c10.verify.fail", "fail")
    assert verdict["exit_status"] == done.status
    assert "corpus.json" in {reason["file"] for reason in verdict["fail_reasons"]}
    assert len(verdict["statustext"].encode()) <= 50


def test_the_operator_mode_passes_and_then_reports_drift(whole, landscape_tiles, tmp_path):
    passed = whole.doit("verify", "mode=operator")
    assert passed.status == 0, passed.said
    tile, other = landscape_tiles[:2]
    folder = tmp_path / "tiles" / str(tile.zoom) / str(tile.x)
    folder.mkdir(parents=True)
    (folder / f"{tile.y}.jpg").write_bytes(other.content)
    assert whole.doit("import", str(tmp_path / "tiles"), "--source=small-landscape", "--update").status == 0
    drifted = whole.doit("verify", "mode=operator")
    assert drifted.status == 44
    assert f"[tile_drift] {tile.zoom}/{tile.x}/{tile.y} small-landscape: drifted: SHA-256" in drifted.out
    assert drifted.out.count("[tile_drift]") == 2  # one for the aggregate, one for the tile
    assert "Traceback" not in drifted.said
    # The aircraft has no tile store. It trusts what was signed.
    assert whole.doit("verify", "mode=airborne").status == 0
    assert whole.provision().status == 0
    assert whole.doit("verify", "mode=operator").status == 0
    assert whole.servers() == []


def test_the_deep_check_hashes_the_tile_files(whole):
    passed = whole.doit("verify", "deep=1")
    assert passed.status == 0, passed.said
    files = sorted((whole.folder / "tiles" / "objects").rglob("*.jpg"))
    files[0].write_bytes(files[0].read_bytes()[:-1] + b"\0")
    files[1].unlink()
    assert whole.doit("verify").status == 0
    refused = whole.doit("verify", "deep=1", "log=json")
    (said,) = refused.events
    assert refused.status == said["exit_status"] == 45
    reasons = [reason for reason in said["fail_reasons"] if reason["code"] == "tile_file"]
    assert len(reasons) == len(said["fail_reasons"]) >= 2
    assert all(reason["file"].endswith(" small-landscape") and reason["file"].count("/") == 2 for reason in reasons)
    assert {
        name for name in (files[0].name, files[1].name) if any(name in reason["message"] for reason in reasons)
    } == {
        files[0].name,
        files[1].name,
    }


def test_status_shows_the_published_generations(built):
    built.edit(lambda mission: mission.update(flight_id="2f3d1c9e-5d3b-4c57-8e86-0a5d1f6f0001"))
    assert built.provision().status == 0
    done = built.doit("status")
    assert done.status == 0
    current, previous = built.current.readlink().name, (built.cache / "previous").readlink().name
    for part in (current, previous, "current", "previous", "80", "2f3d1c9e", "dev", str(built.mission), "MB"):
        assert part in done.out, part
    told = json.loads(built.doit("status", "log=json").out)
    assert [item["name"] for item in told["generations"]] == [previous, current]
    newest = told["generations"][1]
    assert newest["mark"] == "current"
    assert newest["tiles"] == 80
    files = [path for path in built.generation.rglob("*") if path.is_file()]
    assert newest["size"] == sum(path.stat().st_size for path in files)
    assert newest["valid_until"].endswith("+00:00")


def test_status_before_the_first_build_creates_nothing(fresh):
    done = fresh.doit("status")
    assert done.status == 0
    assert "doit provision" in done.out
    assert not fresh.cache.exists()


def test_status_names_a_generation_it_cannot_read(built):
    manifest = built.generation / "manifest.json"
    manifest.chmod(0o644)
    manifest.write_text("{")
    done = built.doit("status")
    assert done.status == 0
    assert "unreadable" in done.out
