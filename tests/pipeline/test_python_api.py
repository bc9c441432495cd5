"""The Python API that C12 calls. It does the same work as `doit provision`."""

from __future__ import annotations

import fcntl
import json
import logging
from dataclasses import replace
from uuid import UUID

import pytest

from preflight import wiring
from preflight.descriptors.batcher import EngineBatcher
from preflight.engine.compiler import EngineCompiler
from preflight.errors import BuildLockHeldError, EngineBuildError, TileContentError
from preflight.mission.loading import load_mission
from preflight.records import BoundingBox, BuildRequest, HostCapabilities
from preflight.stages.manifest import ManifestStage
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generations
from preflight.trace.digests import DigestCache, hash_file
from preflight.wiring.provisioner import CacheProvisioner
from takeoff.errors import ContentHashMismatchError, ManifestNotFoundError
from takeoff.verify import ManifestVerifier


@pytest.fixture
def job_of():
    """job_of(place): the job of its mission."""
    return lambda place: load_mission(place.mission, {}).job


@pytest.fixture
def surroundings():
    real = wiring.Surroundings.real()
    return wiring.Surroundings(wiring.wall_clock, {}, real.host)


@pytest.fixture
def provisioner_of(job_of, surroundings):
    """provisioner_of(place): a provisioner with the configuration and the tile store of the mission."""
    opened = []

    def make(place, progress=None, **section):
        job = job_of(place)
        opened.append(place.tiles())
        config = replace_section(job.config, **section)
        return wiring.build_cache_provisioner(
            config,
            tiles=opened[-1],
            trust=job.trust,
            signing_key=job.signing_key,
            surroundings=surroundings,
            backbones=job.backbones,
            options=wiring.Options(progress=progress),
        )

    yield make
    for tiles in opened:
        tiles.close()


def replace_section(config, **changes):
    import msgspec

    return msgspec.structs.replace(config, **changes)


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
    provisioner = provisioner_of(fresh, progress=lambda done, total: told.append((done, total)))
    assert isinstance(provisioner, CacheProvisioner)
    request = request_of(fresh)
    report = provisioner.build_cache_artifacts(request)
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
    (spec,) = wiring.build_backbone_specs(load_mission(place.mission, {}).job)
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


def test_the_six_factories(built, job_of, surroundings):
    job = job_of(built)
    layout = CacheLayout(job.cache_root)
    compiler = wiring.build_engine_compiler(job.config, surroundings.host)
    assert isinstance(compiler, EngineCompiler)
    (spec,) = wiring.build_backbone_specs(job)
    assert spec.onnx_path == layout.onnx / "weight_free_vpr.onnx"
    digests = DigestCache(None)
    builder = wiring.build_manifest_builder(
        job, compiler, digests, Generations(layout, digests), wiring.wall_clock, lambda: None
    )
    assert isinstance(builder, ManifestStage)
    assert builder.published().manifest.manifest_hash == built.report["manifest_hash"]
    engine = layout.engines / str(compiler.name(spec))
    with compiler.load(spec, engine) as loaded:
        batcher = wiring.build_descriptor_batcher(job.config, spec, loaded, 1, wiring.image_codec())
        assert isinstance(batcher, EngineBatcher)


def test_an_engine_is_named_after_the_host_that_the_caller_gives(built, job_of):
    job = job_of(built)
    (spec,) = wiring.build_backbone_specs(job)
    compiler = wiring.build_engine_compiler(job.config, HostCapabilities(arch="aarch64", isa="neon"))
    assert "cpu-neon" in str(compiler.name(spec))


def test_a_runtime_that_is_not_installed_is_refused(built, job_of, surroundings):
    config = replace_section(job_of(built).config, runtime="tensorrt")
    with pytest.raises(EngineBuildError):
        wiring.build_engine_compiler(config, surroundings.host)


def test_the_verifier_of_the_api(built, job_of):
    job = job_of(built)
    verifier = wiring.build_manifest_verifier(job.trust, wiring.wall_clock)
    assert isinstance(verifier, ManifestVerifier)
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


def test_the_operator_mode_needs_a_tile_store(built, job_of):
    job = job_of(built)
    with pytest.raises(ValueError, match="operator"):
        wiring.build_manifest_verifier(job.trust, wiring.wall_clock, mode="operator")

    def never(manifest):
        raise AssertionError(manifest)

    airborne = wiring.build_manifest_verifier(job.trust, wiring.wall_clock, mode="airborne", tiles=never)
    assert airborne.verify_manifest(built.current).outcome == "pass"

    tiles = built.tiles()
    try:
        (box,) = job.area.boxes()

        def rows(manifest):
            return tiles.metadata().tile_hashes_by_bbox(box, job.zoom_levels, job.sector_class)

        operator = wiring.build_manifest_verifier(job.trust, wiring.wall_clock, mode="operator", tiles=rows)
        assert operator.verify_manifest(built.current).outcome == "pass"
    finally:
        tiles.close()


def test_a_replayed_clock_signs_with_its_own_time(built, job_of, surroundings, request_of):
    """Only the given clock is used, not the wall clock. Two builds within one second are valid and in order."""
    job = job_of(built)
    moment = wiring.wall_clock().replace(microsecond=0)
    tiles = built.tiles()
    issued = []
    for flight in (None, UUID(int=1), UUID(int=2)):
        provisioner = wiring.build_cache_provisioner(
            job.config,
            tiles=tiles,
            trust=job.trust,
            signing_key=job.signing_key,
            surroundings=replace(surroundings, clock=lambda: moment),
            backbones=job.backbones,
        )
        assert provisioner.build_cache_artifacts(replace(request_of(built), flight_id=flight)).outcome == "success"
        predicate = built.manifest["predicate"]
        assert predicate["valid_from"] == int(moment.timestamp())
        issued.append(predicate["issued_at"])
    assert issued == sorted(set(issued))
    assert issued[0] - int(moment.timestamp()) <= 30
    assert json.loads((built.cache / ".c10.lock").read_text())["since"] == moment.isoformat()


def test_the_loggers_of_the_host_program_are_not_changed(built, provisioner_of, request_of):
    before = logging.getLogger("c10_provisioning").handlers[:], logging.getLogger().handlers[:]
    provisioner_of(built).build_cache_artifacts(request_of(built))
    assert (logging.getLogger("c10_provisioning").handlers[:], logging.getLogger().handlers[:]) == before
