"""The factories refuse a clock or a part that cannot serve, before anything is built."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from types import SimpleNamespace

import pytest

from preflight.errors import MissionError
from preflight.mission.config import BackboneConfig, C10BatcherConfig, C10ManifestConfig, C10ProvisioningConfig, Config
from preflight.wiring.factories import (
    build_backbone_specs,
    build_descriptor_batcher,
    build_manifest_builder,
    clock_of,
)
from preflight.wiring.parts import C7EngineBackboneEmbedder
from preflight.wiring.provisioner import build_cache_provisioner

NOW = datetime(2026, 5, 1, tzinfo=timezone(timedelta(hours=2)))
CONFIG = Config(
    {
        "c10_provisioning": C10ProvisioningConfig(
            [
                BackboneConfig("weight_free_vpr", "builtin:weight_free_vpr", [1, 3, 224, 224], "image"),
                BackboneConfig("net", "models/net.onnx", (1, 3, 8, 8), "x"),
            ],
            C10ManifestConfig("dev", "dev.pem", "trust"),
        )
    }
)


def nothing(*_, **__):
    """A method that is never called."""
    raise AssertionError


STORE = SimpleNamespace(query_by_bbox=nothing)
PARTS = {
    "backbone_embedder": C7EngineBackboneEmbedder(),
    "tile_metadata_store": STORE,
    "tile_store": SimpleNamespace(read_tile_pixels=nothing),
    "descriptor_index": SimpleNamespace(rebuild_from_descriptors=nothing),
    "clock": lambda: NOW,
}


class Clock:
    """A clock with `now()`, which cannot be called itself."""

    def now(self):
        return NOW


@pytest.mark.parametrize("clock", [lambda: NOW, Clock(), Clock().now])
def test_a_clock_is_a_callable_or_has_now(clock):
    assert clock_of(clock)() == NOW


@pytest.mark.parametrize(
    "clock",
    [
        datetime,
        datetime.now,
        lambda: datetime(2026, 5, 1),  # noqa: DTZ001 - the bad value
        lambda: date(2026, 5, 1),
        lambda: 1_700_000_000.0,
        lambda: None,
        SimpleNamespace(now=lambda: datetime(2026, 5, 1)),  # noqa: DTZ001 - the bad value
        NOW,
        None,
        "now",
        SimpleNamespace(now=5),
    ],
)
def test_a_clock_that_cannot_serve_is_refused_at_once(clock):
    with pytest.raises(ValueError, match="clock: "):
        clock_of(clock)
    with pytest.raises(ValueError, match="clock: "):
        build_manifest_builder(CONFIG, tile_metadata_store=STORE, clock=clock)
    with pytest.raises(ValueError, match="clock: "):
        build_descriptor_batcher(CONFIG, **{**PARTS, "clock": clock})


def test_a_clock_that_gives_a_naive_time_later_is_refused_then():
    times = [NOW, datetime(2026, 5, 1)]  # noqa: DTZ001 - the bad value
    clock = clock_of(lambda: times.pop(0))
    with pytest.raises(ValueError, match="clock: gives"):
        clock()


@pytest.mark.parametrize("part", ["backbone_embedder", "tile_metadata_store", "tile_store", "descriptor_index"])
def test_a_part_without_its_method_is_refused_by_name(part):
    with pytest.raises(ValueError, match=f"{part}: SimpleNamespace has no method"):
        build_descriptor_batcher(CONFIG, **{**PARTS, part: SimpleNamespace()})


def test_the_parts_handed_in_are_the_parts_kept():
    batcher = build_descriptor_batcher(CONFIG, **PARTS)
    for name, part in (("tile_metadata_store", batcher.tile_metadata_store), ("tile_store", batcher.tile_store)):
        assert part is PARTS[name]
    assert batcher.embedder is PARTS["backbone_embedder"]
    assert batcher.rebuilder is not None
    assert build_descriptor_batcher(CONFIG, **{**PARTS, "descriptor_index": None}).rebuilder is None
    builder = build_manifest_builder(CONFIG, tile_metadata_store=STORE, clock=Clock())
    assert (builder.tile_metadata_store, builder.clock()) == (STORE, NOW)


def provisioner(**changes):
    parts = {
        "config": CONFIG,
        "engine_compiler": None,
        "descriptor_batcher": build_descriptor_batcher(CONFIG, **PARTS),
        "manifest_builder": build_manifest_builder(CONFIG, tile_metadata_store=STORE, clock=Clock()),
        "tile_metadata_store": STORE,
        "host": None,
        "precision": "fp32",
        "clock": Clock(),
    }
    return build_cache_provisioner(**(parts | changes))


def config(batch_size=64, trust="trust", key="dev.pem"):
    backbone = BackboneConfig("weight_free_vpr", "builtin:weight_free_vpr", [1, 3, 224, 224], "image")
    batcher = C10BatcherConfig(batch_size=batch_size)
    block = C10ProvisioningConfig([backbone], C10ManifestConfig("dev", key, trust), batcher=batcher)
    return Config({"c10_provisioning": block})


def test_parts_of_one_configuration_and_store_are_taken():
    assert provisioner() is not None


@pytest.mark.parametrize("other", [{"trust": "other"}, {"key": "other.pem"}])
def test_a_manifest_builder_of_another_configuration_is_refused(other):
    part = build_manifest_builder(config(**other), tile_metadata_store=STORE, clock=Clock())
    with pytest.raises(ValueError, match="manifest_builder: was made from another configuration"):
        provisioner(manifest_builder=part)


def test_a_batcher_of_another_configuration_or_store_is_refused():
    with pytest.raises(ValueError, match="descriptor_batcher: was made from another configuration"):
        provisioner(descriptor_batcher=build_descriptor_batcher(config(batch_size=8), **PARTS))
    other = {**PARTS, "tile_metadata_store": SimpleNamespace(query_by_bbox=nothing, other=1)}
    with pytest.raises(ValueError, match="descriptor_batcher: was made with another tile_metadata_store"):
        provisioner(descriptor_batcher=build_descriptor_batcher(CONFIG, **other))


def test_a_manifest_builder_needs_a_store():
    with pytest.raises(ValueError, match="tile_metadata_store: SimpleNamespace has no method query_by_bbox"):
        build_manifest_builder(CONFIG, tile_metadata_store=SimpleNamespace(), clock=Clock())


def test_a_refused_configuration_is_refused_by_each_factory():
    bad = Config({})
    with pytest.raises(MissionError, match="c10_provisioning"):
        build_backbone_specs(bad)
    with pytest.raises(MissionError, match="c10_provisioning"):
        build_manifest_builder(bad, tile_metadata_store=STORE, clock=Clock())
    with pytest.raises(MissionError, match="c10_provisioning"):
        build_descriptor_batcher(bad, **PARTS)


def test_the_corpus_has_absolute_paths_and_tuples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    builtin, net = build_backbone_specs(CONFIG)
    assert str(builtin.onnx_path) == "builtin:weight_free_vpr"
    assert net.onnx_path == tmp_path / "models" / "net.onnx"
    assert (builtin.inputs, net.inputs) == ({"image": (1, 3, 224, 224)}, {"x": (1, 3, 8, 8)})
