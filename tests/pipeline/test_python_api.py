"""The Python API that C12 calls. It does the same work as `doit provision`."""

from __future__ import annotations

import fcntl
import json
import logging
import shutil
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from uuid import UUID

import pytest

import preflight
from preflight import wiring
from preflight.engine.compiler import EngineCompiler
from preflight.errors import BuildLockHeldError, EngineBuildError, TileContentError
from preflight.mission.config import read_blocks
from preflight.mission.loading import load_mission
from preflight.records import BoundingBox, BuildRequest, HostCapabilities
from preflight.store.cache_layout import CacheLayout
from preflight.tile_import.importing import import_tiles
from preflight.tile_import.source import OfferedTile
from preflight.trace.digests import hash_file
from preflight.wiring.factories import engine_compiler, placed_builtins
from takeoff.errors import ContentHashMismatchError, ManifestNotFoundError

SOURCE, OTHER = "small-landscape", "other-landscape"


def config_of(place, runtime=None):
    """The configuration of the place's mission. runtime: instead of the mission's."""
    config = preflight.load_config(place.mission, {})
    if runtime is None:
        return config
    return preflight.Config({**config.components, "c7_inference": preflight.C7InferenceConfig(runtime)})


@pytest.fixture
def job_of():
    """job_of(place): the job of its mission."""
    return lambda place: load_mission(place.mission, {}).job


@pytest.fixture
def tiles_of():
    """tiles_of(place): its tile store, which is closed after the test."""
    opened = []

    def make(place):
        opened.append(place.tiles())
        return opened[-1]

    yield make
    for tiles in opened:
        tiles.close()


@pytest.fixture
def provisioner_of(tiles_of):
    """provisioner_of(place): a provisioner with the configuration and the tile store of the mission."""

    def make(place, *, runtime=None, clock=wiring.wall_clock):
        config, tiles = config_of(place, runtime), tiles_of(place)
        compiler = preflight.build_engine_compiler(config)
        batcher = preflight.build_descriptor_batcher(
            config,
            backbone_embedder=preflight.C7EngineBackboneEmbedder(),
            tile_metadata_store=tiles,
            tile_store=tiles,
            descriptor_index=None,
            clock=clock,
        )
        return preflight.build_cache_provisioner(
            config,
            engine_compiler=compiler,
            descriptor_batcher=batcher,
            manifest_builder=preflight.build_manifest_builder(config, tile_metadata_store=tiles, clock=clock),
            tile_metadata_store=tiles,
            host=compiler.host,
            precision=preflight.PrecisionMode.FP32,
            clock=clock,
        )

    return make


@pytest.fixture
def request_of(job_of):
    """request_of(place): the BuildRequest that corresponds to the mission."""

    def make(place):
        job = job_of(place)
        (box,) = job.area.boxes()
        return BuildRequest(
            bbox=box,
            zoom_levels=job.zoom_levels,
            sector_class=job.sector_class,
            calibration_path=job.calibration,
            cache_root=job.cache_root,
            takeoff_origin=job.takeoff_origin,
            flight_id=job.flight_id,
        )

    return make


def test_after_a_build_by_the_api_neither_api_nor_doit_has_anything_to_do(fresh, provisioner_of, request_of):
    told = []
    provisioner = provisioner_of(fresh)
    assert isinstance(provisioner, preflight.CacheProvisionerImpl)
    request = request_of(fresh)
    report = provisioner.build_cache_artifacts(
        request, progress_callback=lambda done, total: told.append((done, total))
    )
    assert (report.outcome, report.failure_reason) == ("success", None)
    assert (report.engines_built, report.engines_reused, report.descriptors_generated) == (1, 0, 80)
    assert report.manifest_hash == fresh.manifest["predicate"]["manifest_hash"]
    assert told[-1] == (80, 80)
    assert told == sorted(set(told))
    assert fresh.takeoff().status == 0

    again = provisioner.build_cache_artifacts(request)
    assert (again.outcome, again.engines_built, again.descriptors_generated) == ("idempotent_no_op", 0, 0)
    assert again.manifest_hash == report.manifest_hash
    assert fresh.servers() == []

    through_doit = fresh.provision_json()
    assert through_doit.status == 0
    assert through_doit.ran == []
    assert fresh.report["outcome"] == "idempotent_no_op"


def test_after_a_build_by_doit_the_api_has_nothing_to_do(built, provisioner_of, request_of):
    report = provisioner_of(built).build_cache_artifacts(request_of(built))
    assert report.outcome == "idempotent_no_op"
    assert report.engines_reused == 1


def test_missing_tiles_give_a_report_with_outcome_failure(built, provisioner_of, request_of):
    link = built.current.readlink()
    box = BoundingBox(lat_min=0.34, lon_min=32.58, lat_max=0.35, lon_max=32.59)
    report = provisioner_of(built).build_cache_artifacts(replace(request_of(built), bbox=box, takeoff_origin=None))
    assert report.outcome == "failure"
    assert report.manifest_hash is None
    assert "C11 TileDownloader" in report.failure_reason
    assert built.report["failure_reason"] == report.failure_reason
    assert built.current.readlink() == link
    with (built.cache / ".c10.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert built.servers() == []


def test_other_failures_are_raised_after_the_report_was_written(whole, provisioner_of, request_of):
    path = next(iter(sorted((whole.folder / "tiles" / "objects").rglob("*.jpg"))))
    path.unlink()
    for segment in whole.work.rglob("*.seg"):
        segment.unlink()
    with pytest.raises(TileContentError):
        provisioner_of(whole).build_cache_artifacts(request_of(whole))
    assert whole.report["outcome"] == "failure"
    assert path.name in whole.report["failure_reason"]


def test_a_held_lock_raises_an_error_but_compiling_needs_no_lock(built, provisioner_of, request_of, tmp_path):
    provisioner = provisioner_of(built)
    before = built.report
    with (built.cache / ".c10.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BuildLockHeldError):
            provisioner.build_cache_artifacts(request_of(built))
        backbone = _on_disk(built)
        (entry,) = provisioner.compile_engines_for_corpus([backbone], tmp_path)
    assert entry.model_name == "weight_free_vpr"
    assert entry.path.parent == tmp_path
    assert entry.sha256 == hash_file(entry.path)
    assert not entry.reused
    # The diagnostic compilation gives the bytes of the build.
    (engine,) = (built.generation / "engines").glob("*.engine")
    assert hash_file(engine) == entry.sha256
    assert engine.name == entry.path.name
    assert built.report == before


def _on_disk(place):
    """Return the backbone of a built place, with the path of its ONNX file."""
    (spec,) = placed_builtins(preflight.build_backbone_specs(config_of(place)), CacheLayout(place.cache))
    assert spec.onnx_path.is_file()
    return spec


def test_onnx_runtime_builds_and_publishes_too(fresh, provisioner_of, request_of):
    report = provisioner_of(fresh, runtime="onnxruntime").build_cache_artifacts(request_of(fresh))
    assert report.outcome == "success"
    (engine,) = (fresh.generation / "engines").glob("*.engine")
    assert "onnxruntime" in engine.name
    assert fresh.takeoff().status == 0


def test_another_runtime_is_another_engine(built):
    """The runtime is one line of the mission. The old engine is not used as the new one."""

    def change(mission):
        mission["components"]["c10_provisioning"]["runtime"] = "onnxruntime"

    built.edit(change)
    done = built.provision_json()
    assert done.status == 0, done.said
    assert built.report["engines_built"] == 1
    assert built.report["descriptors_generated"] == 80
    assert built.takeoff().status == 0


def test_the_parts_that_the_factories_make(built, tiles_of):
    config, tiles = config_of(built), tiles_of(built)
    compiler = preflight.build_engine_compiler(config)
    assert isinstance(compiler, EngineCompiler)
    (spec,) = preflight.build_backbone_specs(config)
    assert str(spec.onnx_path) == "builtin:weight_free_vpr"
    builder = preflight.build_manifest_builder(config, tile_metadata_store=tiles, clock=wiring.wall_clock)
    assert isinstance(builder, preflight.ManifestBuilder)
    assert builder.tile_metadata_store is tiles
    embedder = preflight.C7EngineBackboneEmbedder()
    batcher = preflight.build_descriptor_batcher(
        config,
        backbone_embedder=embedder,
        tile_metadata_store=tiles,
        tile_store=tiles,
        descriptor_index=None,
        clock=wiring.wall_clock,
    )
    assert isinstance(batcher, preflight.DescriptorBatcher)
    assert (batcher.embedder, batcher.tile_metadata_store, batcher.tile_store) == (embedder, tiles, tiles)
    layout = CacheLayout(built.cache)
    (placed,) = placed_builtins((spec,), layout)
    with compiler.load(placed, layout.engines / str(compiler.name(placed))) as loaded:
        assert callable(loaded.run)


def test_an_engine_is_named_after_the_host_that_the_caller_gives(built):
    config = config_of(built)
    (spec,) = preflight.build_backbone_specs(config)
    provisioning = read_blocks(config).provisioning
    compiler = engine_compiler(provisioning, HostCapabilities(arch="aarch64", isa="neon"))
    assert "cpu-neon" in str(compiler.name(spec))


def test_a_runtime_that_is_not_installed_is_refused(built):
    with pytest.raises(EngineBuildError):
        preflight.build_engine_compiler(config_of(built, runtime="tensorrt"))


def test_the_verifier_of_the_api(built, job_of):
    job = job_of(built)
    verifier = preflight.build_manifest_verifier(config_of(built), clock=wiring.wall_clock)
    assert isinstance(verifier, preflight.ManifestVerifierImpl)
    result = verifier.verify_manifest(built.current)
    assert (result.outcome, result.fail_reasons) == ("pass", ())
    assert result.manifest_hash_match
    assert all(result.per_artifact_hash_match.values())
    assert str(result.flight_id) == str(job.flight_id)
    result.raise_for_failure()

    index = built.generation / "descriptors.faiss"
    index.chmod(0o644)
    index.write_bytes(index.read_bytes()[:-1] + b"\xff")
    damaged = verifier.verify_manifest(built.current)
    assert damaged.outcome == "fail"
    assert any("descriptors.faiss" in reason for reason in damaged.fail_reasons)
    with pytest.raises(ContentHashMismatchError):
        damaged.raise_for_failure()
    with pytest.raises(ManifestNotFoundError):
        verifier.verify_manifest(built.folder)


class NeverAsked:
    """A metadata store that fails the test if it is asked."""

    def query_by_bbox(self, *, bbox, zoom):
        raise AssertionError((bbox, zoom))


def test_the_operator_mode_needs_a_tile_store(built, tiles_of):
    config = config_of(built)
    with pytest.raises(ValueError, match="tile_metadata_store: operator"):
        preflight.build_manifest_verifier(config, clock=wiring.wall_clock, with_tile_store=True)

    airborne = preflight.build_manifest_verifier(config, clock=wiring.wall_clock, tile_metadata_store=NeverAsked())
    assert airborne.verify_manifest(built.current).outcome == "pass"

    operator = preflight.build_manifest_verifier(
        config, clock=wiring.wall_clock, tile_metadata_store=tiles_of(built), with_tile_store=True
    )
    assert operator.verify_manifest(built.current).outcome == "pass"
    assert operator.verify_manifest(built.current / "manifest.json").outcome == "pass"


def _import_another_source(tiles, landscape_tiles):
    """Import the first two tiles of zoom 18 from another source, with each other's pixels."""
    one, two = [tile for tile in landscape_tiles if tile.zoom == 18][:2]
    swapped = ((one, two.content), (two, one.content))
    import_tiles(
        (OfferedTile(tile.zoom, tile.x, tile.y, content, ".jpg") for tile, content in swapped),
        source=OTHER,
        captured_at=datetime.now(timezone.utc),
        metadata=tiles.metadata(),
        pixels=tiles.pixels(),
        check_image=wiring.check_image,
        clock=wiring.wall_clock,
    )


def test_operator_mode_chooses_between_sources_as_a_build_does(whole, tiles_of, landscape_tiles):
    """A tile in two sources is no drift. Another order of the sources is."""
    tiles = tiles_of(whole)
    _import_another_source(tiles, landscape_tiles)

    def verdict(order):
        whole.edit(lambda mission: mission["tile_store"].update(source_order=order))
        verifier = preflight.build_manifest_verifier(
            config_of(whole), clock=wiring.wall_clock, tile_metadata_store=tiles, with_tile_store=True
        )
        return verifier.verify_manifest(whole.current)

    passed = verdict([SOURCE, OTHER])
    assert (passed.outcome, passed.fail_reasons) == ("pass", ())
    assert verdict([OTHER, SOURCE]).outcome == "fail"


def _without_times(manifest):
    """The statement of a manifest without the times of its issue."""
    times = {"issued_at", "valid_from", "valid_until"}
    predicate = manifest["predicate"]
    assert times <= predicate.keys()
    return {**manifest, "predicate": {name: value for name, value in predicate.items() if name not in times}}


def test_the_api_and_doit_build_the_same_bytes(fresh, first, provisioner_of, request_of):
    by_doit = first[0]
    for name in ("keys", "trust"):
        shutil.copytree(by_doit.folder / name, fresh.folder / name)
    assert provisioner_of(fresh).build_cache_artifacts(request_of(fresh)).outcome == "success"
    made, expected = (
        {path.relative_to(root): path for path in root.rglob("*") if path.is_file()}
        for root in (fresh.generation, by_doit.generation)
    )
    assert made.keys() == expected.keys()
    # The list of checksums holds the manifest's, which has the times.
    signed = {path for path in made if path.name.startswith("manifest.") or path.name == "SHA256SUMS"}
    assert len(signed) < len(made)
    differing = [str(path) for path in made.keys() - signed if made[path].read_bytes() != expected[path].read_bytes()]
    assert differing == []
    assert _without_times(fresh.manifest) == _without_times(by_doit.manifest)


def test_a_replayed_clock_signs_with_its_own_time(built, provisioner_of, request_of):
    """Only the given clock is used, not the wall clock. Two builds within one second are valid and in order."""
    moment = wiring.wall_clock().replace(microsecond=0)
    provisioner = provisioner_of(built, clock=lambda: moment)
    issued = []
    for flight in (None, UUID(int=1), UUID(int=2)):
        assert provisioner.build_cache_artifacts(replace(request_of(built), flight_id=flight)).outcome == "success"
        predicate = built.manifest["predicate"]
        assert predicate["valid_from"] == int(moment.timestamp())
        issued.append(predicate["issued_at"])
    assert issued == sorted(set(issued))
    assert issued[0] - int(moment.timestamp()) <= 30
    assert json.loads((built.cache / ".c10.lock").read_text())["since"] == moment.isoformat()


def test_a_clock_that_replays_another_day_publishes_too(built, provisioner_of, request_of):
    """The verification before publishing takes the build's clock. The machine's clock would refuse the validity."""
    moment = wiring.wall_clock().replace(microsecond=0) + timedelta(days=40)
    report = provisioner_of(built, clock=lambda: moment).build_cache_artifacts(request_of(built))
    assert report.outcome == "success"
    assert built.manifest["predicate"]["valid_from"] == int(moment.timestamp())
    assert built.takeoff().status != 0


def test_the_loggers_of_the_host_program_are_not_changed(built, provisioner_of, request_of):
    before = logging.getLogger("c10_provisioning").handlers[:], logging.getLogger().handlers[:]
    provisioner_of(built).build_cache_artifacts(request_of(built))
    assert (logging.getLogger("c10_provisioning").handlers[:], logging.getLogger().handlers[:]) == before
