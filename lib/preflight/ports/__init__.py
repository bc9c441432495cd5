"""The ports: Protocols through which the stages reach the outside world.

A port declares only the methods that its callers use. tests/contracts holds one suite for each port, and every adapter
runs it. An adapter turns each failure of its library into an error of `preflight.errors`, raised `from` its cause.
"""

from preflight.ports.building import CacheProvisioner, FileLockFactory
from preflight.ports.c6 import (
    C6DescriptorIndex,
    C6TileMetadataStore,
    C6TileStore,
    DescriptorIndexRebuilder,
    ManifestRow,
    TileIdShape,
    TileMetadataShape,
    TileMetadataStore,
    TilePixelOpener,
    TilePixelStore,
    TilesByBboxBatchQuery,
    TilesByBboxQuery,
)
from preflight.ports.inference import (
    BackboneEmbedder,
    Clock,
    Compilation,
    CompileRequest,
    ConcurrentRuntime,
    DescriptorIndex,
    DescriptorIndexFactory,
    Engine,
    ImageCodec,
    InferenceRuntime,
    OnnxModels,
    OutOfDeviceMemory,
    PrecisionTools,
    QueueingEngine,
    Signer,
)

__all__ = [
    "BackboneEmbedder",
    "C6DescriptorIndex",
    "C6TileMetadataStore",
    "C6TileStore",
    "CacheProvisioner",
    "Clock",
    "Compilation",
    "CompileRequest",
    "ConcurrentRuntime",
    "DescriptorIndex",
    "DescriptorIndexFactory",
    "DescriptorIndexRebuilder",
    "Engine",
    "FileLockFactory",
    "ImageCodec",
    "InferenceRuntime",
    "ManifestRow",
    "OnnxModels",
    "OutOfDeviceMemory",
    "PrecisionTools",
    "QueueingEngine",
    "Signer",
    "TileIdShape",
    "TileMetadataShape",
    "TileMetadataStore",
    "TilePixelOpener",
    "TilePixelStore",
    "TilesByBboxBatchQuery",
    "TilesByBboxQuery",
]
