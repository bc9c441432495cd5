"""The factories of SPEC.md, with the signatures of its callers. `build_cache_provisioner` is in `provisioner`.

Each factory reads the configuration of the whole program with `read_blocks`. The functions without `config` do the same work
for `doit provision`, which has read its mission file already: one way in.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from preflight.adapters.c6.index import c6_descriptor_index_to_rebuilder
from preflight.engine.compiler import EngineCompiler
from preflight.engine.runtime_choice import RuntimeChoice
from preflight.engine.runtimes import RUNTIMES, RuntimeTable
from preflight.mission.config import Blocks, read_blocks
from preflight.mission.job import BUILTIN
from preflight.mission.loading import backbone_spec
from preflight.mission.schema import ProvisioningConfig
from preflight.ports import BackboneEmbedder, C6DescriptorIndex, C6TileMetadataStore, C6TileStore, Clock
from preflight.records import BackboneSpec, HostCapabilities
from preflight.store.cache_layout import CacheLayout
from preflight.wiring import libraries
from preflight.wiring.parts import C7EngineBackboneEmbedder, DescriptorBatcher, ManifestBuilder
from preflight.wiring.runtimes import runtime_choice
from preflight.wiring.surroundings import Surroundings


def build_inference_runtime(config: object) -> RuntimeChoice:
    """Chooses the runtime of the block `c7_inference`. Honours BUILD_TENSORRT_RUNTIME and BUILD_PYTORCH_FP16_RUNTIME.

    Raises:
        MissionError: the configuration is refused.
        EngineBuildError: the runtime is unknown, forbidden or not installed, or needs a GPU and the host has none.
    """
    provisioning = read_blocks(config).provisioning
    return runtime_choice(provisioning.runtime, Surroundings.real().host, os.environ, device=provisioning.device)


def build_engine_compiler(config: object) -> EngineCompiler:
    """Returns the compiler for this host and the configured runtime.

    Raises:
        MissionError, EngineBuildError: as `build_inference_runtime`.
    """
    blocks, here = read_blocks(config), Surroundings.real()
    return engine_compiler(blocks.provisioning, here.host, here.environment, runtimes=here.runtimes)


def engine_compiler(
    config: ProvisioningConfig,
    host: HostCapabilities,
    environment: Mapping[str, str] | None = None,
    timings: Path | None = None,
    runtimes: RuntimeTable = RUNTIMES,
) -> EngineCompiler:
    """Returns the compiler for the configured runtime, and for the runtimes that backbones name.

    environment, timings, runtimes: as in `runtime_choice`.

    Raises:
        EngineBuildError: as in `runtime_choice`.
    """

    def choice(name: str, device: str | None = None) -> RuntimeChoice:
        return runtime_choice(name, host, environment, timings, device, runtimes)

    named = {section.runtime for section in config.backbones} - {None, config.runtime}
    return EngineCompiler(
        choice(config.runtime, config.device),
        host,
        libraries.onnx_models(),
        workspace_mb=config.workspace_mb,
        batch_size=config.descriptors.batch_size,
        others={name: choice(name) for name in sorted(filter(None, named))},
    )


def build_backbone_specs(config: object) -> tuple[BackboneSpec, ...]:
    """Returns the corpus. `onnx_path` is an absolute path, or the name of a built-in. Opens no runtime.

    Raises:
        MissionError: the configuration is refused.
    """
    return specs_of(read_blocks(config))


def specs_of(blocks: Blocks) -> tuple[BackboneSpec, ...]:
    """Returns the corpus of a checked configuration. Relative paths start at the working directory."""
    return tuple(
        backbone_spec(section, lambda text: Path(text).absolute()) for section in blocks.provisioning.backbones
    )


def placed_builtins(backbones: tuple[BackboneSpec, ...], layout: CacheLayout) -> tuple[BackboneSpec, ...]:
    """Returns the corpus with the path of the built-in backbone in the cache root."""
    return tuple(
        replace(spec, onnx_path=layout.onnx / f"{spec.model_name}.onnx") if is_builtin(spec) else spec
        for spec in backbones
    )


def is_builtin(spec: BackboneSpec) -> bool:
    """Returns whether this package writes the backbone's ONNX file."""
    return str(spec.onnx_path).startswith(BUILTIN)


def build_manifest_builder(
    config: object, *, tile_metadata_store: C6TileMetadataStore, clock: object
) -> ManifestBuilder:
    """Returns the part that signs, and that keeps the `manifests` rows. Key and trust directory come from the configuration.

    Raises:
        MissionError: the configuration is refused.
        ValueError: the clock does not give aware times.
    """
    _check_store(tile_metadata_store)
    return ManifestBuilder(read_blocks(config), tile_metadata_store, clock_of(clock))


def build_descriptor_batcher(
    config: object,
    *,
    backbone_embedder: BackboneEmbedder | C7EngineBackboneEmbedder,
    tile_metadata_store: C6TileMetadataStore,
    tile_store: C6TileStore,
    descriptor_index: C6DescriptorIndex | None,
    clock: object,
) -> DescriptorBatcher:
    """Returns the part that embeds the tiles.

    Args:
        config: the configuration of the whole program.
        backbone_embedder: `C7EngineBackboneEmbedder()` for the backbone's own engine, or an embedder of the caller's.
        tile_metadata_store: C6's rows.
        tile_store: C6's pixels.
        descriptor_index: C6's index, which gets the matrix after the index file was written; None if nobody needs it.
        clock: a callable that returns an aware datetime, or an object with `now()`.

    Raises:
        MissionError: the configuration is refused.
        ValueError: a part lacks a method, or the clock does not give aware times.
    """
    section = read_blocks(config).provisioning.descriptors
    _check_store(tile_metadata_store)
    _check(tile_store, "tile_store", "read_tile_pixels")
    if not isinstance(backbone_embedder, C7EngineBackboneEmbedder):
        _check(backbone_embedder, "backbone_embedder", "embed")
    rebuilder = None
    if descriptor_index is not None:
        _check(descriptor_index, "descriptor_index", "rebuild_from_descriptors")
        rebuilder = c6_descriptor_index_to_rebuilder(descriptor_index)
    return DescriptorBatcher(backbone_embedder, tile_metadata_store, tile_store, rebuilder, clock_of(clock), section)


def clock_of(clock: object) -> Clock:
    """Returns a clock in the form of the port: from a callable, or from an object with `now()`.

    Raises:
        ValueError: it is neither, or gives something else than a datetime with a time zone.
    """
    tell = getattr(clock, "now", clock)
    if isinstance(clock, type) or not callable(tell):
        raise ValueError(  # noqa: TRY004 - the interface promises ValueError
            f"clock: {clock!r} is neither a callable nor an object with now()"
        )
    checked = _checked(tell)
    checked()
    return checked


def _checked(tell: Callable[[], object]) -> Clock:
    def now() -> datetime:
        found = tell()
        if not isinstance(found, datetime) or found.tzinfo is None:
            raise ValueError(f"clock: gives {found!r}, which is not a datetime with a time zone")
        return found

    return now


def _check_store(store: object) -> None:
    _check(store, "tile_metadata_store", "query_by_bbox")


def _check(part: object, name: str, method: str) -> None:
    if not callable(getattr(part, method, None)):
        raise ValueError(f"{name}: {type(part).__name__} has no method {method}")  # noqa: TRY004 - as above


__all__ = [
    "build_backbone_specs",
    "build_descriptor_batcher",
    "build_engine_compiler",
    "build_inference_runtime",
    "build_manifest_builder",
    "clock_of",
    "engine_compiler",
    "is_builtin",
    "placed_builtins",
    "specs_of",
]
