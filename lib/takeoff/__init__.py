"""The lean verifier: the format of the manifest, and the check that a cache may be used in flight.

It imports only the standard library and `cryptography`, and each module only when a name of it is used. So an aircraft
pays only for the parts that it uses, and `__main__` can check the interpreter before anything is imported.
"""

# ruff: noqa: PLC0415 - imports lie where they are needed; not even __future__ or typing here (see __main__)
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from takeoff.errors import ContentHashMismatchError, ManifestNotFoundError, VerificationError
    from takeoff.policy import Expectations
    from takeoff.position import LatLonAlt
    from takeoff.verify import ManifestVerifier, VerificationOutcome, VerificationResult, VerifiedCache, verify_manifest

__all__ = [
    "ContentHashMismatchError",
    "Expectations",
    "LatLonAlt",
    "ManifestNotFoundError",
    "ManifestVerifier",
    "VerificationError",
    "VerificationOutcome",
    "VerificationResult",
    "VerifiedCache",
    "verify_manifest",
]


def __getattr__(name: str) -> "Any":  # noqa: ANN401 - PEP 562
    if name not in __all__:
        raise AttributeError(f"module 'takeoff' has no attribute {name!r}")
    from takeoff import errors, policy, verify

    return next(getattr(module, name) for module in (verify, errors, policy) if hasattr(module, name))
