"""SPEC.md's factories but the last, each from the configuration and what it is handed."""

# ruff: noqa: PLC0415 - heavy libraries are imported by the functions that need them
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from preflight import __version__
from preflight.batcher import DescriptorBatcher
from preflight.job import BUILTIN, Job
from preflight.mission_schema import ProvisioningConfig
from preflight.ports import (
    Clock,
    Engine,
    ImageCodec,
    Signer,
)
from preflight.records import (
    BackboneSpec,
    HostCapabilities,
    TileHashRecord,
)
from preflight.stages.descriptors import Progress
from preflight.stages.engines import (
    EngineCompiler,
)
from preflight.stages.manifest import ManifestBuilder
from preflight.store.generations import Generations
from preflight.store.layout import CacheLayout
from preflight.trace.digests import DigestCache

if TYPE_CHECKING:
    from takeoff.host import Host
    from takeoff.manifest import Manifest
    from takeoff.verify import ManifestVerifier

from preflight.wiring import parts

TileHashes = Callable[["Manifest"], Iterable[TileHashRecord]]
"""The tile store's rows for the area and zooms of a manifest."""


def build_engine_compiler(
    config: ProvisioningConfig,
    host: HostCapabilities,
    environment: Mapping[str, str] | None = None,
    timings: Path | None = None,
) -> EngineCompiler:
    """Compiles backbones with the configured runtime, or the one they name.

    environment, timings: as `runtime_choice` takes them. Raises EngineBuildError when the runtime is forbidden or missing.
    """
    named = {section.runtime for section in config.backbones} - {None, config.runtime}
    return EngineCompiler(
        parts.runtime_choice(config.runtime, host, environment, timings, config.device),
        host,
        parts.onnx_models(),
        workspace_mb=config.workspace_mb,
        batch_size=config.descriptors.batch_size,
        others={name: parts.runtime_choice(name, host, environment, timings) for name in sorted(filter(None, named))},
    )


def build_backbone_specs(job: Job) -> tuple[BackboneSpec, ...]:
    """The corpus, with the built-in backbone's path in the cache root."""
    layout = CacheLayout(job.cache_root)
    return tuple(
        replace(spec, onnx_path=layout.onnx / f"{spec.model_name}.onnx") if is_builtin(spec) else spec
        for spec in job.backbones
    )


def is_builtin(spec: BackboneSpec) -> bool:
    """Whether the backbone's ONNX file is written by this package."""
    return str(spec.onnx_path).startswith(BUILTIN)


def build_descriptor_batcher(
    config: ProvisioningConfig,
    spec: BackboneSpec,
    engine: Engine,
    dim: int,
    images: ImageCodec,
    progress: Progress | None = None,
) -> DescriptorBatcher:
    """Embeds images of the backbone's size through an engine, `dim` numbers each."""
    section = config.descriptors
    return DescriptorBatcher(
        engine,
        input_name=next(iter(spec.inputs)),
        dim=dim,
        batch_size=section.batch_size,
        preprocess=lambda image: images.to_batch(image[None], spec.preprocessing)[0],
        max_oom_retries=section.max_oom_retries,
        progress_callback=progress,
    )


def build_manifest_builder(
    job: Job,
    compiler: EngineCompiler,
    digests: DigestCache,
    generations: Generations,
    clock: Clock,
    signer: Callable[[], Signer],
) -> ManifestBuilder:
    """Makes and signs the statement of a job."""
    layout = CacheLayout(job.cache_root)
    runtimes = {runtime.name: runtime.version for runtime in compiler.runtimes()}
    builder = {"preflight": __version__, **runtimes, **parts.index_identity()}
    return ManifestBuilder(job, layout, compiler, digests, generations, clock, signer, builder)


def build_manifest_verifier(
    trust: Path,
    clock: Clock,
    *,
    mode: str = "airborne",
    floor: Path | None = None,
    tiles: TileHashes | None = None,
    host: Host | None = None,
) -> ManifestVerifier:
    """The shipped verifier. Raises ValueError in operator mode without a tile store; in airborne mode one is ignored.

    host: the machine that will fly, which the engines must fit; None compares nothing.
    """
    from takeoff.policy import Expectations
    from takeoff.verify import ManifestVerifier

    fetch = None if tiles is None else _tiles_of(tiles)
    expect = Expectations(host=host)
    return ManifestVerifier(trust=trust, now=clock, mode=mode, expect=expect, floor=floor, tiles=fetch)


def flying_host(driver: Path = Path("/proc/driver/nvidia")) -> Host:
    """This machine, as the engines of a cache must fit it.

    driver: there where an NVIDIA driver is loaded; only then is it asked for the GPU, which takes longer than a verification.
    """
    from takeoff.host import probe

    host = probe()
    if host.sm is None and driver.exists():
        return host._replace(sm=parts.Surroundings.real().host.sm)
    return host


def _tiles_of(tiles: TileHashes) -> Callable[[Manifest], Iterator[tuple[int, float, float, str, str]]]:
    """The tile rows of a manifest's area, as the verifier's operator mode compares them."""

    def fetch(manifest: Manifest) -> Iterator[tuple[int, float, float, str, str]]:
        for record in tiles(manifest):
            yield record.zoom, record.lat, record.lon, record.source, record.sha256_hex

    return fetch
