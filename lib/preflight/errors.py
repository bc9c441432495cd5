"""The exceptions that this package raises. All derive from `PreflightError`.

Each message says what is wrong, where, and what to do now. The operator sees it unchanged and without a traceback.
"""

from __future__ import annotations

__all__ = [
    "BackboneError",
    "BuildCancelledError",
    "BuildLockHeldError",
    "BundleError",
    "CacheRootError",
    "CalibrationCacheError",
    "CallbackError",
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
    """Base class of every error that this package raises deliberately."""


class CallbackError(PreflightError):
    """A callback of the caller's raised. Its error is the cause."""


class CommandLineError(PreflightError):
    """A command-line variable is unknown, or an argument is invalid."""


class MissionError(PreflightError):
    """The mission file is invalid.

    Attributes:
        source: the name of the file in the message.
        problems: every fault found, each with its path in the file.
    """

    def __init__(self, source: str, problems: tuple[str, ...]) -> None:
        self.source = source
        self.problems = problems
        super().__init__(f"{source} is refused:\n" + "\n".join(f"  - {problem}" for problem in problems))


class CoverageError(PreflightError):
    """Tiles that the area needs are missing, too old, dated in the future or corrupt."""


class ImportSourceError(PreflightError):
    """An import is refused because of its source, its options or one of its tiles."""


class DatabaseError(PreflightError):
    """Postgres does not start, does not answer, or gives an unexpected answer."""


class TileContentError(PreflightError):
    """A tile does not decode or differs from its row, or a file of the sealed tile set is damaged."""


class BackboneError(PreflightError):
    """An ONNX file does not load, or differs from what the mission declares."""


class EngineBuildError(PreflightError):
    """A runtime cannot build, load or run an engine. The build never falls back to another precision or runtime."""


class CalibrationCacheError(PreflightError):
    """A calibration table is damaged, or was made for other inputs (D-C10-6)."""


class ParityError(EngineBuildError):
    """An engine's outputs differ from the fp32 ONNX reference by more than the threshold allows."""


class DescriptorBatchError(PreflightError):
    """Embedding failed: memory ran out after all allowed retries, an output is invalid, or the store is damaged."""


class IndexBuildError(PreflightError):
    """The descriptor index cannot be built or opened."""


class QualityGateError(PreflightError):
    """The self-test's margin over the thumbnail baseline is below the minimum of the mission."""


class SigningKeyError(PreflightError):
    """The signing key is missing or unreadable, or must not sign in this mode."""


class OfflineSigningError(PreflightError):
    """Offline signing failed: no statement can be exported, or the returned signature does not fit it."""


class SignatureAwaitedError(OfflineSigningError):
    """The statement is exported and waits for its signature from another machine. This is no failure."""


class TrustDirectoryError(PreflightError):
    """A trust directory cannot be read, or cannot be changed as requested."""


class BundleError(PreflightError):
    """A generation cannot be copied to a medium: the target is unsuitable, or the copy fails verification."""


class ManifestWriteError(PreflightError):
    """The manifest cannot be built or written."""


class ManifestCoverageError(PreflightError):
    """The staged cache holds a file that the manifest does not name, or lacks a file that it names."""


class CacheRootError(PreflightError):
    """The cache root is unusable: it is not writable, the disk is full, or the folder is no cache root."""


class BuildCancelledError(PreflightError):
    """The caller cancelled the build. What was finished is kept; the next build goes on from there."""


class BuildLockHeldError(PreflightError):
    """Another build holds the lock of the cache root."""


class InputChangedError(PreflightError):
    """An input changed while the stage that reads it was running."""


class IdempotentNoOp(PreflightError):  # noqa: N818 - the name is SPEC.md's
    """Nothing had to be built (D-C10-1). The Python API never raises it; the report's outcome says it instead."""
