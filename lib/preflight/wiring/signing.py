"""Chooses the signer of a job's statement: a key on this machine, or one elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from preflight.mission.job import Job
from preflight.report.run_log import RunLog
from preflight.signing import (
    PASSPHRASE_VARIABLE,
    Ask,
    Ed25519ManifestSigner,
    OfflineSigner,
    SigningRequest,
    check_signing_mode,
    given_passphrase,
    load_public_key,
)


class KeySigner(Ed25519ManifestSigner):
    """Signs with a key on this machine. Checks the key against the signing mode."""

    def __init__(self, job: Job, passphrase: bytes | None, run_log: RunLog, ask: Ask | None = None) -> None:
        super().__init__(job.signing_key, passphrase, ask)
        _hold_to_mode(job, self.fingerprint, run_log)


def signer_of(
    job: Job, request_folder: Path, run_log: RunLog, environment: Mapping[str, str], ask: Ask | None
) -> KeySigner | OfflineSigner:
    """Returns the signer of a job. request_folder: where statements wait for an offline signature. Raises SigningKeyError."""
    if job.config.manifest.signing == "here":
        return KeySigner(job, given_passphrase(None, environment.get(PASSPHRASE_VARIABLE)), run_log, ask)
    signer = OfflineSigner(load_public_key(job.signing_key), SigningRequest(request_folder))
    _hold_to_mode(job, signer.fingerprint, run_log)
    return signer


def _hold_to_mode(job: Job, fingerprint: str, run_log: RunLog) -> None:
    section = job.config.manifest
    warning = check_signing_mode(section.signing_mode, fingerprint, section.allowed_operator_fingerprints)
    if warning is not None:
        run_log.warn("c10.signing.operator_key_in_dev", warning)
