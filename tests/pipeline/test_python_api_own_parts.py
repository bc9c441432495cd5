"""The Python API with parts of the caller's own, over 16 tiles in memory: store, embedder, compiler, index, callbacks."""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
from contextlib import contextmanager
from datetime import datetime, timezone
from io import BytesIO
from threading import Event, Thread
from types import SimpleNamespace

import numpy as np
import pytest

import preflight
from preflight.adapters.demo import landscape
from preflight.area.web_mercator import tile_bounds, tile_center
from preflight.engine.compiler import EngineCompiler
from preflight.errors import (
    BuildCancelledError,
    BuildLockHeldError,
    CallbackError,
    DescriptorBatchError,
    IndexBuildError,
)
from preflight.wiring.libraries import onnx_models

TILES, DIM, WAIT_S = 16, 64, 120
STAGES = ["tiles", "engine:weight_free_vpr", "descriptors", "index", "selftest", "manifest", "publish"]


class TilesInMemory:
    """C6's rows and pixels in a dictionary. opened: called each time a tile is opened."""

    def __init__(self, tiles, opened=lambda: None):
        self.tiles = tiles
        self.opened = opened

    def query_by_bbox(self, *, bbox, zoom):
        for tile, content in self.tiles.items():
            if tile.zoom_level == zoom:
                digest = hashlib.sha256(content).hexdigest()
                yield SimpleNamespace(tile_id=tile, source="memory", content_sha256_hex=digest)

    @contextmanager
    def read_tile_pixels(self, tile_id):
        self.opened()
        yield BytesIO(self.tiles[tile_id])


class Index:
    """Keeps what it gets."""

    def __init__(self, error=None):
        self.error = error
        self.got = []

    def rebuild_from_descriptors(self, *, descriptors, tile_ids, hnsw_params):
        if self.error is not None:
            raise self.error
        # The array is a view of a file of the build.
        self.got.append((descriptors.dtype, np.array(descriptors), list(tile_ids), hnsw_params))


class Grey:
    """Embeds an image by the brightness of 8 x 8 blocks. after: called with the images of each batch."""

    descriptor_dim = DIM

    def __init__(self, identity="grey:1", after=lambda made: made):
        self.identity = identity
        self.after = after
        self.batches = 0

    def embed(self, images):
        self.batches += 1
        count, height, width, _ = images.shape
        grey = images[:, : height // 8 * 8, : width // 8 * 8].astype(np.float32).mean(axis=3)
        blocks = grey.reshape(count, 8, height // 8, 8, width // 8).mean(axis=(2, 4)).reshape(count, DIM) + 1.0
        return self.after((blocks / np.linalg.norm(blocks, axis=1, keepdims=True)).astype(np.float32))


class OwnCompiler(EngineCompiler):
    """A compiler of the caller's. It remembers what it compiled."""

    def compile(self, spec, target, inputs=None):
        self.__dict__.setdefault("compiled", []).append(spec.model_name)
        super().compile(spec, target, inputs)


def clock():
    return datetime.now(timezone.utc)


@pytest.fixture(scope="module")
def drawn():
    """(TileId -> content, the box around them, their zoom)."""
    tiles = list(landscape.generate(7, columns=4, rows=4))
    zoom = max(tile.zoom for tile in tiles)
    content = {
        preflight.TileId(zoom, *tile_center(zoom, tile.x, tile.y)): tile.content for tile in tiles if tile.zoom == zoom
    }
    bounds = [tile_bounds(zoom, tile.x, tile.y) for tile in tiles if tile.zoom == zoom]
    low = min(one.lat_min for one in bounds) + 1e-7, min(one.lon_min for one in bounds) + 1e-7
    high = max(one.lat_max for one in bounds) - 1e-7, max(one.lon_max for one in bounds) - 1e-7
    return content, (*low, *high), zoom


class Desk:
    """A folder with all that a caller has, and the calls that it makes."""

    def __init__(self, folder, drawn):
        self.folder = folder
        self.tiles, self.box, self.zoom = drawn
        self.store = TilesInMemory(self.tiles)
        self.index = Index()
        self.embedder = preflight.C7EngineBackboneEmbedder()
        self.compiler = None
        backbone = preflight.BackboneConfig("weight_free_vpr", "builtin:weight_free_vpr", (1, 3, 224, 224), "image")
        block = preflight.C10ProvisioningConfig(
            backbones=[backbone],
            manifest=preflight.C10ManifestConfig("dev", folder / "keys" / "dev.pem", folder / "trust"),
            workspace_mb=256,
            batcher=preflight.C10BatcherConfig(batch_size=4),
        )
        self.config = preflight.Config({"c10_provisioning": block})

    @property
    def request(self):
        return preflight.BuildRequest(
            bbox=self.box,
            zoom_levels=(self.zoom,),
            sector_class=preflight.SectorClassification.STABLE_REAR,
            calibration_path=self.folder / "camera.json",
            cache_root=self.folder / "cache",
            takeoff_origin=preflight.LatLonAlt(*self.box[:2], 100.0),
        )

    @property
    def generation(self):
        return (self.folder / "cache" / "current").resolve(strict=True)

    def provisioner(self):
        config, store = self.config, self.store
        compiler = self.compiler or preflight.build_engine_compiler(config)
        return preflight.build_cache_provisioner(
            config,
            engine_compiler=compiler,
            descriptor_batcher=preflight.build_descriptor_batcher(
                config,
                backbone_embedder=self.embedder,
                tile_metadata_store=store,
                tile_store=store,
                descriptor_index=self.index,
                clock=clock,
            ),
            manifest_builder=preflight.build_manifest_builder(config, tile_metadata_store=store, clock=clock),
            tile_metadata_store=store,
            host=compiler.host,
            precision="fp32",
            clock=clock,
        )

    def build(self, **options):
        return self.provisioner().build_cache_artifacts(self.request, **options)

    def assert_lock_is_free(self):
        with (self.folder / "cache" / ".c10.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def verdict(self, *, operator=False):
        verifier = preflight.build_manifest_verifier(
            self.config, clock=clock, tile_metadata_store=self.store, with_tile_store=operator
        )
        return verifier.verify_manifest(self.folder / "cache" / "current")


@pytest.fixture
def desk(tmp_path, drawn):
    """A desk where nothing is built."""
    (tmp_path / "camera.json").write_text("{}")
    return Desk(tmp_path, drawn)


@pytest.fixture(scope="module")
def built_once(tmp_path_factory, drawn):
    """A folder with a built cache. Tests must not change it."""
    folder = tmp_path_factory.mktemp("own-parts")
    (folder / "camera.json").write_text("{}")
    desk = Desk(folder, drawn)
    report = desk.build()
    assert (report.outcome, report.descriptors_generated) == ("success", TILES)
    return desk


@pytest.fixture
def built(built_once, desk):
    """A copy of it for one test."""
    subprocess.run(["cp", "-a", f"{built_once.folder}/.", desk.folder], check=True)
    return desk


def test_both_modes_of_the_verifier_pass_and_the_index_got_the_matrix(built_once):
    assert built_once.verdict().outcome == "pass"
    assert built_once.verdict(operator=True).outcome == "pass"
    ((dtype, descriptors, tile_ids, params),) = built_once.index.got
    assert dtype == np.float32
    assert len(descriptors) == len(tile_ids) == TILES
    assert set(tile_ids) == set(built_once.tiles)
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1.0, atol=1e-4)
    assert params == preflight.HnswParams(32, 200, 64, "inner_product")


def test_an_embedder_of_the_caller_replaces_engine_and_batcher(built):
    built.embedder = Grey()
    report = built.build()
    assert (report.outcome, report.descriptors_generated, report.engines_built) == ("success", TILES, 0)
    assert built.embedder.batches >= 4
    ((dtype, descriptors, tile_ids, _),) = built.index.got
    assert (dtype, descriptors.shape) == (np.float32, (TILES, DIM))
    assert set(tile_ids) == set(built.tiles)
    assert built.verdict().outcome == "pass"
    corpus = json.loads((built.generation / "corpus.json").read_text())
    assert f'"descriptor_dim": {DIM}' in json.dumps(corpus)


def test_the_identity_of_an_embedder_decides_whether_descriptors_are_current(built):
    built.embedder = Grey("grey:1")
    assert built.build().descriptors_generated == TILES
    built.embedder = Grey("grey:1")
    again = built.build()
    assert (again.outcome, again.descriptors_generated, built.embedder.batches) == ("idempotent_no_op", 0, 0)
    built.embedder = Grey("grey:2")
    other = built.build()
    assert (other.outcome, other.descriptors_generated) == ("success", TILES)


@pytest.mark.parametrize("identity", ["", None, 7])
def test_an_embedder_without_an_identity_is_refused(built, identity):
    built.embedder = Grey(identity)
    with pytest.raises(DescriptorBatchError, match="identity"):
        built.build()
    built.assert_lock_is_free()


def _nan(made):
    made[0, 3] = np.nan
    return made


def _zero(made):
    made[-1] = 0.0
    return made


@pytest.mark.parametrize(
    "after",
    [
        _nan,
        _zero,
        lambda made: made[:, :-1],
        lambda made: made[:-1],
        lambda made: made[0],
        lambda made: made * 2,
        lambda made: made.astype(np.float64),
        lambda made: made.tolist(),
        lambda made: None,
    ],
    ids=["NaN", "length 0", "short", "one less", "one vector", "length 2", "float64", "a list", "None"],
)
def test_an_embedder_is_held_to_the_same_checks_as_an_engine(built, after):
    before = built.generation
    built.embedder = Grey("bad", after)
    with pytest.raises(DescriptorBatchError):
        built.build()
    built.assert_lock_is_free()
    assert built.generation == before
    assert built.index.got == []


def test_an_embedder_that_raises_is_the_cause(built):
    error = ValueError("no such layer")

    def after(made):
        raise error

    built.embedder = Grey("raises", after)
    with pytest.raises(DescriptorBatchError, match="Grey failed: ValueError: no such layer") as caught:
        built.build()
    assert error in _causes(caught.value)
    built.assert_lock_is_free()


def _causes(error):
    while error is not None:
        yield error
        error = error.__cause__


def test_the_compiler_handed_in_is_the_one_that_compiles(desk):
    host = preflight.build_engine_compiler(desk.config).host
    desk.compiler = OwnCompiler(
        preflight.build_inference_runtime(desk.config), host, onnx_models(), workspace_mb=256, batch_size=4
    )
    report = desk.build()
    assert (report.outcome, report.engines_built) == ("success", 1)
    assert desk.compiler.compiled == ["weight_free_vpr"]


def test_an_index_that_raises_ends_the_run_and_the_next_run_asks_it_again(built):
    built.embedder = Grey()
    built.index = Index(RuntimeError("full"))
    with pytest.raises(IndexBuildError, match="RuntimeError: full"):
        built.build()
    built.assert_lock_is_free()
    built.index = Index()
    assert built.build().outcome == "success"
    assert len(built.index.got) == 1


def test_an_index_is_filled_although_the_index_file_is_current(built):
    built.index = None
    built.embedder = Grey()
    assert built.build().outcome == "success"
    built.index = Index()
    assert built.build().outcome == "success"
    assert len(built.index.got) == 1
    built.index = Index()
    assert built.build().outcome == "idempotent_no_op"
    assert built.index.got == []


def test_an_embedder_is_checked_in_the_self_test_too(built):
    batches = []

    def after(made):
        batches.append(None)
        return _nan(made) if len(batches) > TILES // 4 else made

    built.embedder = Grey(after=after)
    before = built.generation
    with pytest.raises(DescriptorBatchError):
        built.build()
    assert len(batches) > TILES // 4
    assert built.generation == before


def test_a_callback_that_raises_ends_the_run_as_the_cause(built):
    error = ZeroDivisionError("of the callback")

    def raises(*_):
        raise error

    before = built.generation
    for name in ("progress_callback", "observer"):
        built.embedder = Grey(name)
        with pytest.raises(CallbackError, match=f"{name} raised ZeroDivisionError") as caught:
            built.build(**{name: raises})
        assert caught.value.__cause__ is error
        built.assert_lock_is_free()
        assert built.generation == before
    assert built.build().outcome == "success"


def test_a_build_can_be_cancelled_in_every_stage_and_goes_on_from_there(desk):
    for stage in STAGES:
        cancel, seen = Event(), []

        def observe(name, event, stage=stage, cancel=cancel, seen=seen):
            seen.append((name, event))
            if (name, event) == (stage, "begin"):
                cancel.set()

        with pytest.raises(BuildCancelledError):
            desk.build(observer=observe, cancel=cancel)
        before = STAGES[: STAGES.index(stage)]
        assert [name for name, _ in seen if name not in before] == [stage, stage]
        assert seen[-1] == (stage, "failed")
        desk.assert_lock_is_free()
        assert not (desk.folder / "cache" / "current").exists()
    seen = []
    assert desk.build(observer=lambda *told: seen.append(told)).outcome == "success"
    assert list(dict.fromkeys(name for name, _ in seen)) == STAGES
    assert desk.verdict().outcome == "pass"


def test_tiles_are_cancelled_while_they_are_read(desk):
    cancel, seen = Event(), []
    desk.store = TilesInMemory(desk.tiles, opened=cancel.set)
    with pytest.raises(BuildCancelledError):
        desk.build(cancel=cancel, observer=lambda *told: seen.append(told))
    assert seen == [("tiles", "begin"), ("tiles", "failed")]
    desk.assert_lock_is_free()


def test_descriptors_are_cancelled_between_batches(built):
    cancel = Event()

    def after(made):
        cancel.set()
        return made

    built.embedder = Grey(after=after)
    with pytest.raises(BuildCancelledError):
        built.build(cancel=cancel)
    assert built.embedder.batches == 1
    built.assert_lock_is_free()
    built.embedder = Grey()
    assert built.build(cancel=lambda: False).outcome == "success"


def test_publishing_is_cancelled_until_its_rename(built):
    before = built.generation
    for checks in (2, 3):  # the first check is before the step; see the test of every stage
        built.embedder, left = Grey(f"grey:{checks}"), []

        def observe(name, event, left=left, checks=checks):
            if (name, event) == ("publish", "begin"):
                left.extend(range(checks))

        def cancel(left=left):
            return bool(left) and left.pop() == 0

        with pytest.raises(BuildCancelledError):
            built.build(observer=observe, cancel=cancel)
        assert built.generation == before
        built.assert_lock_is_free()
    assert built.build().outcome == "success"
    assert built.generation != before


def test_the_verifier_logs_the_verdict_as_the_command_does(built_once, caplog):
    with caplog.at_level("INFO", "c10_provisioning"):
        assert built_once.verdict().outcome == "pass"
    (record,) = (record for record in caplog.records if record.event.startswith("c10.verify"))
    assert (record.name, record.event, record.levelname) == ("c10_provisioning.verify", "c10.verify.pass", "INFO")
    assert (record.fields["outcome"], record.fields["generation"], record.fields["exit_status"]) == ("pass", 1, 0)
    assert all(record.fields["per_artifact_hash_match"].values())


def test_a_build_that_is_cancelled_before_it_begins_builds_nothing(desk):
    with pytest.raises(BuildCancelledError):
        desk.build(cancel=lambda: True)
    desk.assert_lock_is_free()
    assert not (desk.folder / "cache" / "current").exists()


def test_of_two_builds_in_two_threads_one_is_refused(built):
    inside, leave, reports = Event(), Event(), []

    def after(made):
        inside.set()
        assert leave.wait(WAIT_S)
        return made

    built.embedder = Grey(after=after)
    first = built.provisioner()
    thread = Thread(target=lambda: reports.append(first.build_cache_artifacts(built.request)))
    thread.start()
    try:
        assert inside.wait(WAIT_S)
        with pytest.raises(BuildLockHeldError):
            built.build()
        with pytest.raises(BuildLockHeldError):
            first.build_cache_artifacts(built.request)
    finally:
        leave.set()
        thread.join(WAIT_S)
    assert [report.outcome for report in reports] == ["success"]
    built.assert_lock_is_free()


def test_one_set_of_parts_serves_several_builds(built):
    provisioner = built.provisioner()
    assert provisioner.build_cache_artifacts(built.request).outcome == "idempotent_no_op"
    again = provisioner.build_cache_artifacts(built.request)
    assert (again.outcome, again.engines_reused) == ("idempotent_no_op", 1)


def test_a_store_whose_pixels_differ_from_their_hash_is_refused(desk):
    desk.store.read_tile_pixels = lambda tile_id: contextmanager(lambda: iter([b"other"]))()
    report = desk.build()
    assert (report.outcome, report.manifest_hash) == ("failure", None)
    assert "16 of 16 tiles are corrupt" in report.failure_reason
    desk.assert_lock_is_free()


def test_operator_mode_sees_that_a_tile_changed(built):
    first = next(iter(built.tiles))
    built.store = TilesInMemory({**built.tiles, first: b"other"})
    assert built.verdict(operator=True).outcome == "fail"
    assert built.verdict().outcome == "pass"
