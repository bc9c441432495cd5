"""SPEC.md's factories except the last one. Each takes the configuration and the parts it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from preflight import __version__
from preflight.descriptors.batcher import DescriptorBatcher
from preflight.engine.compiler import EngineCompiler
from preflight.engine.runtime_choice import RuntimeChoice
from preflight.engine.runtimes import RUNTIMES, RuntimeTable
from preflight.mission.job import BUILTIN, Job
from preflight.mission.schema import ProvisioningConfig
from preflight.ports import (
    Clock,
    Engine,
    ImageCodec,
    Signer,
)
from preflight.records import (
    BackboneSpec,
    HostCapabilities,
)
from preflight.stages.descriptors import Progress
from preflight.stages.manifest import ManifestBuilder
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generations
from preflight.trace.digests import DigestCache
from preflight.wiring import libraries
from preflight.wiring.runtimes import runtime_choice


def build_engine_compiler(
    config: ProvisioningConfig,
    host: HostCapabilities,
    environment: Mapping[str, str] | None = None,
    timings: Path | None = None,
    runtimes: RuntimeTable = RUNTIMES,
) -> EngineCompiler:
    """Returns the compiler for the configured runtime, or for the runtimes that backbones name.

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


def build_backbone_specs(job: Job) -> tuple[BackboneSpec, ...]:
    """Returns the corpus, with the path of the built-in backbone in the cache root."""
    layout = CacheLayout(job.cache_root)
    return tuple(
        replace(spec, onnx_path=layout.onnx / f"{spec.model_name}.onnx") if is_builtin(spec) else spec
        for spec in job.backbones
    )


def is_builtin(spec: BackboneSpec) -> bool:
    """Returns whether this package writes the backbone's ONNX file."""
    return str(spec.onnx_path).startswith(BUILTIN)


def build_descriptor_batcher(
    config: ProvisioningConfig,
    spec: BackboneSpec,
    engine: Engine,
    dim: int,
    images: ImageCodec,
    progress: Progress | None = None,
) -> DescriptorBatcher:
    """Returns the batcher that embeds images of the backbone's size through an engine. dim: length of a descriptor."""
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
    """Returns the builder that makes and signs the statement of a job."""
    layout = CacheLayout(job.cache_root)
    runtimes = {runtime.name: runtime.version for runtime in compiler.runtimes()}
    builder = {"preflight": __version__, **runtimes, **libraries.index_identity()}
    return ManifestBuilder(job, layout, compiler, digests, generations, clock, signer, builder)
