"""Builds the place-recognition cache an aircraft flies on, signs it and publishes it.

Every public name can be imported from here. Each is loaded when it is first used: `import preflight` loads no numpy.
docs/python-api.md says what each name is for.
"""

# mypy: implicit-reexport

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

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
else:
    _HOMES = {
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

    # Hidden from mypy, which would accept any misspelt name.
    def __getattr__(name: str) -> object:
        """Returns a public name from its module (PEP 562)."""
        home = next((home for home, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(home), name)


__all__ = [
    "BackboneConfig",
    "BackboneEmbedder",
    "BackboneError",
    "BackboneSpec",
    "BoundingBox",
    "BuildCancelledError",
    "BuildLockHeldError",
    "BuildOutcome",
    "BuildReport",
    "BuildRequest",
    "C6DescriptorIndex",
    "C6TileMetadataStore",
    "C6TileStore",
    "C7EngineBackboneEmbedder",
    "C7InferenceConfig",
    "C10BatcherConfig",
    "C10ManifestConfig",
    "C10ProvisionerConfig",
    "C10ProvisioningConfig",
    "CacheProvisioner",
    "CacheProvisionerImpl",
    "CacheRootError",
    "CalibrationCacheError",
    "CallbackError",
    "Clock",
    "Config",
    "ContentHashMismatchError",
    "CoverageError",
    "DatabaseError",
    "DescriptorBatchError",
    "DescriptorBatcher",
    "DescriptorIndexRebuilder",
    "Ed25519ManifestSigner",
    "EngineBuildError",
    "EngineCacheEntry",
    "EngineCompiler",
    "EngineFilenameSchema",
    "FileLockFactory",
    "FilelockFileLockFactory",
    "HnswParams",
    "HostCapabilities",
    "IdempotentNoOp",
    "IndexBuildError",
    "LatLonAlt",
    "ManifestBuilder",
    "ManifestCoverageError",
    "ManifestNotFoundError",
    "ManifestVerifierImpl",
    "ManifestWriteError",
    "MissionError",
    "ParityError",
    "PrecisionMode",
    "PreflightError",
    "QualityGateError",
    "SectorClassification",
    "Sha256Sidecar",
    "SignatureAwaitedError",
    "SigningKeyError",
    "TileBboxRecord",
    "TileContentError",
    "TileHashRecord",
    "TileId",
    "TilePixelOpener",
    "TilesByBboxBatchQuery",
    "TilesByBboxQuery",
    "VerificationOutcome",
    "VerificationResult",
    "__version__",
    "build_backbone_specs",
    "build_cache_provisioner",
    "build_descriptor_batcher",
    "build_engine_compiler",
    "build_inference_runtime",
    "build_manifest_builder",
    "build_manifest_verifier",
    "c6_descriptor_index_to_rebuilder",
    "c6_tile_metadata_store_to_tiles_batch_query",
    "c6_tile_metadata_store_to_tiles_query",
    "c6_tile_store_to_pixel_opener",
    "load_config",
]
