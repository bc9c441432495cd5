"""Signs manifests and manages keys. The signature format, fingerprints and the checks of keys are in `takeoff`.

keyfiles         Ed25519 key files and their passphrases
manifest_signer  signs with a key on this machine
modes            which keys may sign in which mode
offline          statements that are signed on another machine
trust_directory  the public keys that an aircraft trusts
"""

from preflight.signing.keyfiles import (
    PASSPHRASE_VARIABLE,
    Ask,
    SigningKey,
    given_passphrase,
    load_public_key,
    load_signing_key,
    make_dev_key,
    make_key,
    new_passphrase,
    public_path,
)
from preflight.signing.manifest_signer import Ed25519ManifestSigner
from preflight.signing.modes import SigningMode, check_signing_mode, sign_statement
from preflight.signing.offline import (
    OfflineSigner,
    SigningRequest,
    export_bytes,
    read_export,
    read_signature,
    sign_export,
    summary,
)
from preflight.signing.trust_directory import TrustedKey, TrustListing, add_key, list_trust, revoke_key

__all__ = [
    "PASSPHRASE_VARIABLE",
    "Ask",
    "Ed25519ManifestSigner",
    "OfflineSigner",
    "SigningKey",
    "SigningMode",
    "SigningRequest",
    "TrustListing",
    "TrustedKey",
    "add_key",
    "check_signing_mode",
    "export_bytes",
    "given_passphrase",
    "list_trust",
    "load_public_key",
    "load_signing_key",
    "make_dev_key",
    "make_key",
    "new_passphrase",
    "public_path",
    "read_export",
    "read_signature",
    "revoke_key",
    "sign_export",
    "sign_statement",
    "summary",
]
