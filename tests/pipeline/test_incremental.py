"""Counts what runs again after each change. Each test is a row of the table of costs of an incremental build."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from preflight import wiring
from preflight.adapters.demo import landscape
from preflight.adapters.faiss.index import FaissIndexFactory
from preflight.area.web_mercator import tile_bounds
from preflight.commands.verify import verify
from preflight.engine import compiler as engine_compiler
from preflight.errors import CoverageError, InputChangedError
from preflight.mission.cache_place import read_place
from preflight.mission.loading import load_mission
from preflight.records import BuildReport
from preflight.stages import (
    corpus,
    descriptors,
    engines,
    index,
    manifest,
    provenance,
    publish,
    samples,
    selftest,
    tiles,
)
from preflight.stages import parity_gate as parity
from preflight.trace import digests
from preflight.trace.digests import hash_file

ROOT = Path(__file__).resolve().parents[2]
TILES = 80
SIGNED = ["manifest", "publish"]
DESCRIPTOR = "weight_free_vpr"


@dataclass(frozen=True)
class Built:
    """What a run did.

    ran: its steps; counts: from the run log; hashed: files read for a digest; warned: misses and moves.
    """

    report: BuildReport
    ran: list[str]
    counts: dict[str, int]
    hashed: int
    warned: list[str]

    @property
    def no_op(self):
        return (self.report.outcome, self.ran, self.warned) == ("idempotent_no_op", [], [])

    @property
    def work(self):
        """The numbers of engines compiled, tiles embedded and indexes built."""
        return tuple(self.counts.get(name, 0) for name in ("engines_built", "descriptors_generated", "indexes_built"))


@pytest.fixture(scope="module")
def host():
    return wiring.Surroundings.real().host


@pytest.fixture
def build(host, caplog):
    """build(place): run one provision through the API, in this process."""

    def provision(place, clock=wiring.wall_clock, **options):
        caplog.clear()
        mission = load_mission(place.mission, {})
        assembly = wiring.assemble(mission, wiring.Surroundings(clock, {}, host), wiring.Options(**options))
        with caplog.at_level(logging.DEBUG, logger="c10_provisioning"):
            report = assembly.session().build()
        events = [(record.event, record.fields) for record in caplog.records if hasattr(record, "event")]
        return Built(
            report=report,
            ran=[fields["step"] for event, fields in events if event == "c10.step.start"],
            counts=dict(assembly.run_log.counts),
            hashed=assembly.digests.hashed_files,
            warned=[event for event, _ in events if event in {"c10.engine.miss", "c10.manifest.moving_forward"}],
        )

    return provision


def section(mission):
    return mission["components"]["c10_provisioning"]


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }


def flip(path):
    """Flip one bit of the middle byte in place, and restore the modification time."""
    before = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    path.chmod(before.st_mode & 0o777)


# Nothing


def nothing(place):
    pass


def touch_all(place):
    for path in place.folder.rglob("*"):
        if path.is_file():  # the tile store is a link into another place
            path.touch()


def comment(place):
    place.mission.write_text("# for the morning flight\n" + place.mission.read_text() + "\n# the end\n")


def without(pattern):
    def change(place):
        found = list(place.work.glob(pattern))
        assert found
        for path in found:
            path.unlink()

    return change


@pytest.mark.parametrize(
    ("change", "hashes"),
    [
        (nothing, False),
        (touch_all, True),
        (comment, False),
        (without("doit.db*"), False),
        (without("digests.db*"), True),
        (without("history/*"), False),
        (without("rates.json"), False),
    ],
    ids=["nothing", "touched", "comment", "doit.db", "digests.db", "history", "rates"],
)
def test_a_change_without_effect_is_hashed_once_and_rebuilds_nothing(built, build, change, hashes):
    link = built.current.readlink()
    moved = build(built)  # the copy is in another folder than the original
    assert moved.no_op
    assert moved.hashed > 0
    settled = build(built)
    assert settled.no_op
    assert settled.hashed == 0
    change(built)
    after = build(built)
    assert after.no_op
    assert (after.hashed > 0) == hashes
    last = build(built)
    assert last.no_op
    assert last.hashed == 0
    assert built.current.readlink() == link


def test_the_cache_root_alone_moved(built, build):
    built.cache.rename(built.folder / "elsewhere")
    built.edit(lambda mission: mission.update(cache_root="elsewhere"))
    assert build(built).no_op
    assert build(built).hashed == 0


def test_the_repository_cloned_elsewhere(built, python_outside, tmp_path):
    """The folder of the program and the times of its files have no effect."""
    clone = tmp_path / "clone"
    for name in ("lib", "recipes", "cache_templates"):
        shutil.copytree(
            ROOT / name, clone / name, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("dodo.py", "pyproject.toml"):
        shutil.copyfile(ROOT / name, clone / name)
    environment = {**os.environ, "PYTHONPATH": f"{clone / 'lib'}{os.pathsep}{clone}"}
    command = [sys.executable, "-c", "import preflight, recipes; print(preflight.__file__, recipes.__file__)"]
    assert python_outside(command, cwd=clone, env=environment).out.count(str(clone)) == 2
    done = python_outside(built.command("provision", "log=json"), cwd=clone, env=environment)
    assert done.status == 0, done.said
    assert done.ran == []
    assert built.report["outcome"] == "idempotent_no_op"


# Tiles and area


def test_one_tiles_pixels(whole, build, landscape_tiles, tmp_path, monkeypatch):
    tile = landscape_tiles[0]
    other = next(iter(landscape.generate(99, columns=2, rows=2)))
    folder = tmp_path / str(tile.zoom) / str(tile.x)
    folder.mkdir(parents=True)
    (folder / f"{tile.y}.jpg").write_bytes(other.content)
    store = whole.tiles()
    try:
        now = wiring.wall_clock
        report = wiring.import_folder(store, tmp_path, "small-landscape", now(), now, replace_tiles=True)
    finally:
        store.close()
    assert report.replaced == 1
    hashed = []
    monkeypatch.setattr(digests, "hash_file", lambda path: hashed.append(path.name) or hash_file(path))
    done = build(whole)
    assert done.ran == ["tiles", "descriptors", "index", "selftest", "provenance", *SIGNED]
    # Each is read once in the copy. The new times are hashed from the file again, the new lines while they are written.
    assert [hashed.count(name) for name in ("tiles.times", "tiles.lines")] == [2, 1]
    assert done.work == (0, 1, 1)
    # With one tile, the time is mostly that of loading the engine. So the plan keeps the rate of the eighty tiles.
    assert json.loads((whole.work / "rates.json").read_bytes())["descriptors"]["units"] == TILES
    assert build(whole).no_op


def columns(landscape_tiles, first, last):
    """Return a box over these columns of zoom 18, slightly inside their outer borders."""
    fine = [tile for tile in landscape_tiles if tile.zoom == 18]
    west = min(tile.x for tile in fine)
    bounds = [tile_bounds(18, tile.x, tile.y) for tile in fine if first <= tile.x - west <= last]
    return {
        "lat_min": min(bound.lat_min for bound in bounds) + 1e-7,
        "lon_min": min(bound.lon_min for bound in bounds) + 1e-7,
        "lat_max": max(bound.lat_max for bound in bounds) - 1e-7,
        "lon_max": max(bound.lon_max for bound in bounds) - 1e-7,
    }


def sealed(place):
    """Return the number of tiles in the sealed set."""
    return place.manifest["predicate"]["identity"]["corpus"]["tile_count"]


def test_the_area_shifted_by_one_column(built, build, landscape_tiles):
    """Another batch size gives another descriptor space.

    So no descriptor of the shifted area's new tiles exists yet.
    """

    def narrow(mission):
        mission["area"] = {"bbox": columns(landscape_tiles, 0, 3)}
        section(mission)["descriptors"] = {"batch_size": 8}

    built.edit(narrow)
    done = build(built)
    # Four columns of eight tiles at zoom 18, and two columns of four tiles at zoom 17.
    assert (done.work, sealed(built)) == ((1, 4 * 8 + 2 * 4, 1), 40)

    built.edit(lambda mission: mission.update(area={"bbox": columns(landscape_tiles, 1, 4)}))
    shifted = build(built)
    assert sealed(built) == 4 * 8 + 3 * 4
    # The new column at zoom 18, and the column at zoom 17 that contains it.
    assert shifted.work == (0, 8 + 4, 1)
    assert shifted.ran == ["tiles", "descriptors", "index", "selftest", "provenance", *SIGNED]

    built.edit(lambda mission: mission.update(area={"bbox": columns(landscape_tiles, 0, 3)}))
    assert build(built).work == (0, 0, 1)


# Backbones


def write_tiny(path, seed):
    """Write a model that computes eight numbers with one matrix."""
    weights = np.random.default_rng(seed).normal(size=(8, 8)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def pair_built(first, room):
    """The built mission with an additional auxiliary backbone, and what adding it ran. Tests must not change it."""
    place = type(first[0])(room / "pair")
    place.folder.mkdir()
    parts = [path for path in first[0].folder.iterdir() if path.name != "tiles"]
    subprocess.run(["cp", "-a", *parts, place.folder], check=True)
    (place.folder / "tiles").symlink_to(first[0].folder / "tiles")
    write_tiny(place.folder / "tiny.onnx", 1)
    backbone = {
        "model_name": "tiny",
        "role": "auxiliary",
        "onnx_path": "tiny.onnx",
        "input_name": "x",
        "expected_input_shape": [1, 8],
        "precision": "fp32",
    }
    place.edit(lambda mission: section(mission)["backbones"].append(backbone))
    done = place.provision_json()
    assert done.status == 0, done.said
    return place, done


@pytest.fixture
def pair(pair_built, copy_of):
    return copy_of(pair_built[0], own_tiles=False)


TINY = ["model:tiny", "engine:tiny", "parity:tiny"]


def test_a_backbone_added(pair_built):
    place, done = pair_built
    assert done.ran == [*TINY, "corpus", *SIGNED]
    assert (place.report["engines_built"], place.report["engines_reused"]) == (1, 1)
    assert place.report["descriptors_generated"] == 0


def test_an_edit_of_a_backbone_that_is_not_the_descriptor(pair, build):
    write_tiny(pair.folder / "tiny.onnx", 2)
    done = build(pair)
    assert done.ran == [*TINY, *SIGNED]
    assert done.work == (1, 0, 0)
    assert (done.report.engines_built, done.report.engines_reused) == (1, 1)
    assert build(pair).no_op


def test_an_onnx_file_saved_again_with_the_same_bytes(pair, build):
    assert build(pair).no_op
    path = pair.folder / "tiny.onnx"
    before = path.stat().st_ino
    write_tiny(path.with_name("again.onnx"), 1)
    path.with_name("again.onnx").replace(path)
    assert path.stat().st_ino != before
    done = build(pair)
    assert done.no_op
    assert done.hashed == 1
    assert build(pair).hashed == 0


def test_an_input_edited_while_its_stage_runs(pair, build, monkeypatch):
    path = pair.folder / "tiny.onnx"
    link = pair.current.readlink()
    compiled = engine_compiler.EngineCompiler.compile

    def compile_and_edit(self, spec, target, inputs=None):
        compiled(self, spec, target, inputs)
        write_tiny(path, 3)

    write_tiny(path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(engine_compiler.EngineCompiler, "compile", compile_and_edit)
        with pytest.raises(InputChangedError, match=r"tiny\.onnx"):
            build(pair)
    assert pair.current.readlink() == link
    assert "tiny.onnx" in pair.report["failure_reason"]
    done = build(pair)
    assert done.ran == [*TINY, *SIGNED]
    (model,) = [model for model in pair.manifest["predicate"]["identity"]["models"] if model["model_name"] == "tiny"]
    assert model["onnx_sha256"] == hash_file(path)
    assert pair.takeoff().status == 0


# Parameters


def test_ef_search_is_rewritten_in_the_index_and_nothing_is_built(built, build):
    built.edit(lambda mission: section(mission).update(index={"ef_search": 100}))
    done = build(built)
    assert done.ran == ["index", "selftest", "corpus", *SIGNED]
    assert done.work == (0, 0, 0)
    assert built.takeoff().status == 0
    retuned = hash_file(built.work / "index" / "descriptors.faiss")
    (built.work / "index" / "descriptors.faiss").unlink()
    again = build(built)
    # A new index has the same bytes, so no later step runs.
    assert (again.ran, again.work) == (["index"], (0, 0, 1))
    assert hash_file(built.work / "index" / "descriptors.faiss") == retuned


def test_an_edited_index_is_not_retuned(built, build):
    flip(built.work / "index" / "descriptors.faiss")
    built.edit(lambda mission: section(mission).update(index={"ef_search": 100}))
    assert build(built).work == (0, 0, 1)
    assert built.takeoff().status == 0


@pytest.mark.parametrize(
    "change",
    [
        {"flight_id": "2f3d1c9e-5d3b-4c57-8e86-0a5d1f6f0001"},
        {"takeoff_origin": {"lat": 45.991, "lon": -29.99, "alt": 121.0}},
    ],
    ids=["flight_id", "takeoff_origin"],
)
def test_flight_or_origin_only(built, build, change):
    built.edit(lambda mission: mission.update(change))
    done = build(built)
    assert (done.ran, done.work) == (SIGNED, (0, 0, 0))
    assert build(built).no_op


# Versions


def test_another_faiss(built, build, monkeypatch):
    real = wiring.index_identity()

    class Newer(FaissIndexFactory):
        def identity(self):
            return {**super().identity(), "faiss": "99.1"}

    monkeypatch.setattr(wiring.libraries, "index_identity", lambda: {**real, "faiss": "99.1"})
    monkeypatch.setattr(wiring.libraries, "index_factory", Newer)
    done = build(built)
    assert done.ran == ["index", "selftest", *SIGNED]
    assert done.work == (0, 0, 1)
    assert built.manifest["predicate"]["builder"]["faiss"] == "99.1"
    assert build(built).no_op


def test_another_openvino(built, build, monkeypatch):
    """The new engine embeds all tiles again. Its vectors are equal, so the index is not built again."""
    choice = wiring.runtime_choice("openvino")
    monkeypatch.setattr(wiring.factories, "runtime_choice", lambda *_: replace(choice, version="2099.1"))
    done = build(built)
    names = [f"engine:{DESCRIPTOR}", f"parity:{DESCRIPTOR}", "descriptors", "selftest", "corpus"]
    assert done.ran == [*names, *SIGNED]
    assert done.work == (1, TILES, 0)
    assert done.warned == ["c10.engine.miss"]
    assert build(built).no_op


@pytest.mark.parametrize(
    ("module", "name", "ran", "work"),
    [
        (tiles, "SEAL_VERSION", ["tiles"], (0, 0, 0)),
        (samples, "SAMPLE_VERSION", ["sample"], (0, 0, 0)),
        (engines, "BUILTIN_VERSION", [f"onnx:{DESCRIPTOR}"], (0, 0, 0)),
        (engines, "INSPECT_VERSION", [f"model:{DESCRIPTOR}"], (0, 0, 0)),
        (parity, "PARITY_VERSION", [f"parity:{DESCRIPTOR}"], (0, 0, 0)),
        (
            engines,
            "COMPILE_VERSION",
            [f"engine:{DESCRIPTOR}", "descriptors", "selftest", *SIGNED],
            (1, TILES, 0),
        ),
        # The manifest is signed again, because it contains the action keys.
        (descriptors, "DESCRIPTORS_VERSION", ["descriptors", *SIGNED], (0, 0, 0)),
        (index, "INDEX_VERSION", ["index", *SIGNED], (0, 0, 1)),
        (selftest, "SELFTEST_VERSION", ["selftest", *SIGNED], (0, 0, 0)),
        (corpus, "CORPUS_VERSION", ["corpus"], (0, 0, 0)),
        (provenance, "PROVENANCE_VERSION", ["provenance"], (0, 0, 0)),
        (manifest, "MANIFEST_VERSION", SIGNED, (0, 0, 0)),
        (publish, "PUBLISH_VERSION", ["publish"], (0, 0, 0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_stage_version(built, build, monkeypatch, module, name, ran, work):
    """The stage runs. The stages that depend on it run only if its output changed."""
    monkeypatch.setattr(module, name, 99)
    done = build(built)
    assert (done.ran, done.work) == (ran, work)
    assert built.manifest["predicate"]["generation"] == (2 if "manifest" in ran else 1)


# Damage and time


@pytest.mark.parametrize(
    ("pattern", "ran"),
    [
        ("tiles/tiles.inventory", ["tiles"]),
        ("tiles/coverage.json", ["tiles"]),
        ("samples/parity.npy", ["sample"]),
        (f"onnx/{DESCRIPTOR}.onnx", [f"onnx:{DESCRIPTOR}"]),
        (f"onnx/{DESCRIPTOR}.json", [f"model:{DESCRIPTOR}"]),
        ("engines/*.engine", [f"engine:{DESCRIPTOR}"]),
        ("engines/*.sha256", [f"engine:{DESCRIPTOR}"]),
        (f"parity/{DESCRIPTOR}.json", [f"parity:{DESCRIPTOR}"]),
        ("descriptors/descriptors.json", ["descriptors"]),
        ("index/descriptors.faiss", ["index"]),
        ("index/descriptors.faiss.sha256", ["index"]),
        ("selftest/selftest.json", ["selftest"]),
        ("manifest/corpus.json", ["corpus"]),
        ("manifest/provenance.json", ["provenance"]),
        ("manifest/manifest.json", SIGNED),
        ("manifest/manifest.dsse.json", SIGNED),
        ("publish/published.json", ["publish"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_target_that_was_edited_by_hand(built, build, pattern, ran):
    assert build(built).no_op
    (path,) = built.work.glob(pattern)
    before, generation = hash_file(path), built.generation
    published = contents(generation)
    flip(path)
    assert hash_file(path) != before
    done = build(built)
    assert done.ran == ran
    assert done.work == (int("engine" in ran[0]), 0, int(ran == ["index"]))
    assert contents(generation) == published
    if ran is not SIGNED:
        assert hash_file(path) == before
        assert built.generation == generation
    assert built.takeoff().status == 0


@pytest.mark.parametrize("content", [b"", b"{", b'{"predicate": 1}', b"\xff\xfe"])
def test_an_invalid_manifest_in_work(built, build, content):
    (built.work / "manifest" / "manifest.json").write_bytes(content)
    assert build(built).ran == SIGNED
    assert built.takeoff().status == 0


def test_a_damaged_byte_in_current(built, build):
    flip(built.generation / "descriptors.faiss")
    mission = load_mission(built.mission, {})
    places = read_place(built.mission, {})
    status, verdict = verify(places, lambda: mission, "airborne", None, wiring.wall_clock, as_json=False)
    assert status >= 16
    assert "descriptors.faiss" in verdict
    done = build(built)
    assert (done.ran, done.work) == (SIGNED, (0, 0, 0))
    assert built.takeoff().status == 0
    assert build(built).no_op


def test_a_cache_past_half_of_its_validity_is_signed_again(whole, build):
    """The shipped verifier uses the real time before each publication. So this test sets the build's clock back."""
    now = wiring.wall_clock()
    # The tiles must be older than this clock. Tiles with a later date would be refused.
    access = whole.tiles()
    access.metadata()._connection.execute("UPDATE preflight.tiles SET captured_at = captured_at - interval '30 days'")
    access.close()
    build(whole)
    whole.edit(lambda mission: mission.update(flight_id=None))
    assert build(whole, clock=lambda: now - timedelta(days=16)).ran == SIGNED
    assert build(whole, clock=lambda: now - timedelta(days=2)).no_op
    before = contents(whole.generation)
    done = build(whole)
    assert (done.ran, done.work) == (SIGNED, (0, 0, 0))
    after = contents(whole.generation)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"manifest.json", "manifest.json.sha256", "manifest.dsse.json", "SHA256SUMS"}
    assert build(whole, clock=lambda: now + timedelta(days=14)).no_op


def test_a_tile_that_became_too_old_after_the_build(built, build):
    link = built.current.readlink()
    now = wiring.wall_clock()
    with pytest.raises(CoverageError, match="365"):
        build(built, clock=lambda: now + timedelta(days=366))
    assert built.current.readlink() == link
    assert json.loads((built.work / "build_report.json").read_bytes())["outcome"] == "failure"
    # The refused run removes nothing that was built.
    assert build(built).no_op
