"""Everything that can go wrong while a cache is built, as one family.

Each message says what is wrong, where, and what to do now; it is shown to an operator as it stands, without a traceback.
"""

from __future__ import annotations

__all__ = [
    "BackboneError",
    "BuildLockHeldError",
    "BundleError",
    "CacheRootError",
    "CalibrationCacheError",
    "CommandLineError",
    "CoverageError",
    "DatabaseError",
    "DescriptorBatchError",
    "EngineBuildError",
    "IdempotentNoOp",
    "ImportSourceError",
    "IndexBuildError",
    "InputChangedError",
    "ManifestCoverageError",
    "ManifestWriteError",
    "MissionError",
    "OfflineSigningError",
    "ParityError",
    "PreflightError",
    "QualityGateError",
    "SignatureAwaitedError",
    "SigningKeyError",
    "TileContentError",
    "TrustDirectoryError",
]


class PreflightError(Exception):
    """Base of every error this package raises on purpose."""


class CommandLineError(PreflightError):
    """An unknown variable or an argument that does not fit."""


class MissionError(PreflightError):
    """The mission file is refused; `problems` lists every fault found, each with its path in the file."""

    def __init__(self, source: str, problems: tuple[str, ...]) -> None:
        self.source = source
        self.problems = problems
        super().__init__(f"{source} is refused:\n" + "\n".join(f"  - {problem}" for problem in problems))


class CoverageError(PreflightError):
    """Tiles the area needs are missing or too old."""


class ImportSourceError(PreflightError):
    """Tiles offered for import are refused."""


class DatabaseError(PreflightError):
    """Postgres cannot be reached, started or understood."""


class TileContentError(PreflightError):
    """A tile's bytes are not what its row says, or do not decode."""


class BackboneError(PreflightError):
    """An ONNX file does not load, or is not what the mission says it is."""


class EngineBuildError(PreflightError):
    """A runtime did not produce, or does not accept, an engine. Nothing falls back to another precision or runtime."""


class CalibrationCacheError(PreflightError):
    """A calibration table is damaged, foreign or does not match (D-C10-6)."""


class ParityError(EngineBuildError):
    """An engine's outputs differ from the fp32 ONNX reference by more than the threshold."""


class DescriptorBatchError(PreflightError):
    """Embedding failed: out of memory also after the allowed retries, or an output that is no descriptor."""


class IndexBuildError(PreflightError):
    """The descriptor index could not be built or opened."""


class QualityGateError(PreflightError):
    """The self-test's margin over the thumbnail baseline is below the mission's."""


class SigningKeyError(PreflightError):
    """The signing key is missing, unreadable or not allowed to sign in this mode."""


class OfflineSigningError(PreflightError):
    """Signing elsewhere: nothing can be handed out, or what came back does not fit."""


class SignatureAwaitedError(OfflineSigningError):
    """The statement is written, and waits for the signature that is made elsewhere. Nothing went wrong."""


class TrustDirectoryError(PreflightError):
    """A trust directory cannot be read or changed as asked."""


class BundleError(PreflightError):
    """A generation cannot be carried out: the target is not fit for it, or the copy is refused."""


class ManifestWriteError(PreflightError):
    """The manifest could not be made or written."""


class ManifestCoverageError(PreflightError):
    """The staged cache holds a file the manifest does not name, or lacks one it does."""


class CacheRootError(PreflightError):
    """The cache root cannot be used: not writable, no space, or not a cache root."""


class BuildLockHeldError(PreflightError):
    """Another build holds the cache root's lock."""


class InputChangedError(PreflightError):
    """An input was edited while the stage that reads it ran."""


class IdempotentNoOp(PreflightError):  # noqa: N818 - the name is SPEC.md's
    """Nothing had to be built (D-C10-1). Callers of the Python API see it as the report's outcome, never raised."""
