"""The lean verifier: the manifest's format and the check that a cache may be flown with.

It imports the standard library and `cryptography` only, and nothing at all before a name is used: a part of it costs
an aircraft no more than that part, and `__main__` can look at the interpreter before anything is imported.
"""

# ruff: noqa: PLC0415 - imported where it is needed; not even __future__ or typing here (see __main__)
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from takeoff.errors import ContentHashMismatchError, ManifestNotFoundError, VerificationError
    from takeoff.policy import Expectations
    from takeoff.verify import ManifestVerifier, VerificationResult, VerifiedCache, verify_manifest

__all__ = [
    "ContentHashMismatchError",
    "Expectations",
    "ManifestNotFoundError",
    "ManifestVerifier",
    "VerificationError",
    "VerificationResult",
    "VerifiedCache",
    "verify_manifest",
]


def __getattr__(name: str) -> "Any":  # noqa: ANN401 - PEP 562
    if name not in __all__:
        raise AttributeError(f"module 'takeoff' has no attribute {name!r}")
    from takeoff import errors, policy, verify

    return next(getattr(module, name) for module in (verify, errors, policy) if hasattr(module, name))
