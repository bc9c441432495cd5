"""The public names of `preflight`, and the module of each.

They stand here and not in `preflight/__init__`, so that the root of the package imports one room only.
"""

# mypy: implicit-reexport
# ruff: noqa: F401 - mypy reads the imports; Python uses the table
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from preflight.adapters.c6 import (
        c6_descriptor_index_to_rebuilder,
        c6_tile_metadata_store_to_tiles_batch_query,
        c6_tile_metadata_store_to_tiles_query,
        c6_tile_store_to_pixel_opener,
    )
    from preflight.engine.compiler import (
        EngineCompiler,
    )
    from preflight.engine.file_names import (
        EngineFilenameSchema,
    )
    from preflight.errors import (
        BackboneError,
        BuildCancelledError,
        BuildLockHeldError,
        CacheRootError,
        CalibrationCacheError,
        CallbackError,
        CoverageError,
        DatabaseError,
        DescriptorBatchError,
        EngineBuildError,
        IdempotentNoOp,
        IndexBuildError,
        ManifestCoverageError,
        ManifestWriteError,
        MissionError,
        ParityError,
        PreflightError,
        QualityGateError,
        SignatureAwaitedError,
        SigningKeyError,
        TileContentError,
    )
    from preflight.mission.config import (
        BackboneConfig,
        C7InferenceConfig,
        C10BatcherConfig,
        C10ManifestConfig,
        C10ProvisionerConfig,
        C10ProvisioningConfig,
        Config,
        load_config,
    )
    from preflight.ports import (
        BackboneEmbedder,
        C6DescriptorIndex,
        C6TileMetadataStore,
        C6TileStore,
        CacheProvisioner,
        Clock,
        DescriptorIndexRebuilder,
        FileLockFactory,
        TilePixelOpener,
        TilesByBboxBatchQuery,
        TilesByBboxQuery,
    )
    from preflight.records import (
        BackboneSpec,
        BoundingBox,
        BuildOutcome,
        BuildReport,
        BuildRequest,
        EngineCacheEntry,
        HnswParams,
        HostCapabilities,
        PrecisionMode,
        SectorClassification,
        TileBboxRecord,
        TileHashRecord,
        TileId,
    )
    from preflight.signing.manifest_signer import (
        Ed25519ManifestSigner,
    )
    from preflight.store.lock import (
        FilelockFileLockFactory,
    )
    from preflight.store.sidecar import (
        Sha256Sidecar,
    )
    from preflight.wiring.api_verifier import (
        ManifestVerifierImpl,
        build_manifest_verifier,
    )
    from preflight.wiring.factories import (
        build_backbone_specs,
        build_descriptor_batcher,
        build_engine_compiler,
        build_inference_runtime,
        build_manifest_builder,
    )
    from preflight.wiring.parts import (
        C7EngineBackboneEmbedder,
        DescriptorBatcher,
        ManifestBuilder,
    )
    from preflight.wiring.provisioner import (
        CacheProvisionerImpl,
        build_cache_provisioner,
    )
    from takeoff.errors import (
        ContentHashMismatchError,
        ManifestNotFoundError,
    )
    from takeoff.position import (
        LatLonAlt,
    )
    from takeoff.verify import (
        VerificationOutcome,
        VerificationResult,
    )

HOMES = {
    "preflight.adapters.c6": (
        "c6_descriptor_index_to_rebuilder",
        "c6_tile_metadata_store_to_tiles_batch_query",
        "c6_tile_metadata_store_to_tiles_query",
        "c6_tile_store_to_pixel_opener",
    ),
    "preflight.engine.compiler": ("EngineCompiler",),
    "preflight.engine.file_names": ("EngineFilenameSchema",),
    "preflight.errors": (
        "BackboneError",
        "BuildCancelledError",
        "BuildLockHeldError",
        "CacheRootError",
        "CalibrationCacheError",
        "CallbackError",
        "CoverageError",
        "DatabaseError",
        "DescriptorBatchError",
        "EngineBuildError",
        "IdempotentNoOp",
        "IndexBuildError",
        "ManifestCoverageError",
        "ManifestWriteError",
        "MissionError",
        "ParityError",
        "PreflightError",
        "QualityGateError",
        "SignatureAwaitedError",
        "SigningKeyError",
        "TileContentError",
    ),
    "preflight.mission.config": (
        "BackboneConfig",
        "C10BatcherConfig",
        "C10ManifestConfig",
        "C10ProvisionerConfig",
        "C10ProvisioningConfig",
        "C7InferenceConfig",
        "Config",
        "load_config",
    ),
    "preflight.ports": (
        "BackboneEmbedder",
        "C6DescriptorIndex",
        "C6TileMetadataStore",
        "C6TileStore",
        "CacheProvisioner",
        "Clock",
        "DescriptorIndexRebuilder",
        "FileLockFactory",
        "TilePixelOpener",
        "TilesByBboxBatchQuery",
        "TilesByBboxQuery",
    ),
    "preflight.records": (
        "__version__",
        "BackboneSpec",
        "BoundingBox",
        "BuildOutcome",
        "BuildReport",
        "BuildRequest",
        "EngineCacheEntry",
        "HnswParams",
        "HostCapabilities",
        "PrecisionMode",
        "SectorClassification",
        "TileBboxRecord",
        "TileHashRecord",
        "TileId",
    ),
    "preflight.signing.manifest_signer": ("Ed25519ManifestSigner",),
    "preflight.store.lock": ("FilelockFileLockFactory",),
    "preflight.store.sidecar": ("Sha256Sidecar",),
    "preflight.wiring.api_verifier": (
        "ManifestVerifierImpl",
        "build_manifest_verifier",
    ),
    "preflight.wiring.factories": (
        "build_backbone_specs",
        "build_descriptor_batcher",
        "build_engine_compiler",
        "build_inference_runtime",
        "build_manifest_builder",
    ),
    "preflight.wiring.parts": (
        "C7EngineBackboneEmbedder",
        "DescriptorBatcher",
        "ManifestBuilder",
    ),
    "preflight.wiring.provisioner": (
        "CacheProvisionerImpl",
        "build_cache_provisioner",
    ),
    "takeoff.errors": (
        "ContentHashMismatchError",
        "ManifestNotFoundError",
    ),
    "takeoff.position": ("LatLonAlt",),
    "takeoff.verify": ("VerificationOutcome", "VerificationResult"),
}
"""Module -> its public names."""


def load(name: str) -> object:
    """Returns a public name from its module. Raises AttributeError for any other name."""
    home = next((home for home, names in HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'preflight' has no attribute {name!r}")
    return getattr(import_module(home), name)
