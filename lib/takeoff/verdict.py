"""The verdict as text: for people and for programs."""

# ruff: noqa: PLC0415 - start-up time: imports lie where they are needed
from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from takeoff.errors import VerificationError, printable

if TYPE_CHECKING:
    from takeoff.verify import VerificationResult

MOST_SHOWN = 20


def human_verdict(cache: str | None, result: VerificationResult | None, failures: tuple[VerificationError, ...]) -> str:
    """Returns one line for a pass. For a refusal: one line for each failure, then one for each remedy."""
    if result is None or result.manifest is None or failures:
        return "\n".join([f"REFUSED {printable(cache or '')}".rstrip(), *_listed(failures), *_remedies(failures)])
    from takeoff.policy import utc

    manifest = result.manifest
    return (
        f"PASSED {printable(cache or '')}: generation {manifest.generation}, manifest {manifest.manifest_hash[:12]},"
        f" {len(result.artifacts)} artifacts, signed by {(result.signer or '')[:12]} ({manifest.signing_mode}),"
        f" flight {manifest.identity.flight_id or 'none'}, valid until {utc(manifest.valid_until)}"
    )


def _listed(failures: tuple[VerificationError, ...]) -> Iterator[str]:
    """Yields one line for each failure. Of many failures of one code: the first ones, and the number of the others."""
    for code, kind in groupby(failures, key=lambda failure: failure.code):
        found = list(kind)
        yield from (f"  {failure}" for failure in found[:MOST_SHOWN])
        if len(found) > MOST_SHOWN:
            yield f"  [{code}] and {len(found) - MOST_SHOWN} more, all in the JSON verdict"


def _remedies(failures: tuple[VerificationError, ...]) -> list[str]:
    """Returns each remedy once, the one of the lowest status first."""
    ordered = sorted(failures, key=lambda failure: failure.exit_status)
    return list(dict.fromkeys(failure.remedy for failure in ordered))


def json_verdict(cache: str | None, result: VerificationResult | None, failures: tuple[VerificationError, ...]) -> str:
    """Returns one JSON object on one line."""
    import json

    manifest = result.manifest if result else None
    first = min(failures, key=lambda failure: failure.exit_status, default=None)
    verdict = {
        "outcome": "fail" if failures else "pass",
        "exit_status": first.exit_status if first else 0,
        "statustext": first.statustext if first else None,
        "cache": cache,
        "fail_reasons": [{"code": f.code, "file": f.file, "message": f.message} for f in failures],
        "manifest_hash_match": bool(result and result.manifest_hash_match),
        "per_artifact_hash_match": result.artifacts if result else {},
        "manifest_hash": manifest.manifest_hash if manifest else None,
        "generation": manifest.generation if manifest else None,
        "signer": result.signer if result else None,
        "takeoff_origin": result.takeoff_origin if result else None,
        "flight_id": str(result.flight_id) if result and result.flight_id else None,
        "remedy": "; ".join(_remedies(failures)) or None,
    }
    return json.dumps(verdict, sort_keys=True)
