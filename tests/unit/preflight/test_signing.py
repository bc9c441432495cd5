"""Private keys, development keys, signing modes."""

from __future__ import annotations

import stat

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from preflight import signing
from preflight.errors import SigningKeyError
from takeoff import envelope, keys


def write_key(path, private, passphrase=None):
    protection = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    path.chmod(0o600)
    return path


def test_a_key_signs_what_the_verifier_verifies(tmp_path):
    private = Ed25519PrivateKey.generate()
    key = signing.load_signing_key(write_key(tmp_path / "k.pem", private))
    sealed = envelope.decode(signing.sign_statement(b"{}", key), 10_000)
    assert (sealed.payload, sealed.keyid) == (b"{}", key.fingerprint)
    assert keys.verify_signature(key.public_key, sealed.signature, envelope.pae(b"{}"))
    assert signing.sign_statement(b"{}", key) == signing.sign_statement(b"{}", key)


def test_an_encrypted_key_needs_its_passphrase(tmp_path):
    path = write_key(tmp_path / "k.pem", Ed25519PrivateKey.generate(), b"correct")
    assert signing.load_signing_key(path, b"correct").fingerprint
    for passphrase in (None, b"wrong"):
        with pytest.raises(SigningKeyError, match="passphrase"):
            signing.load_signing_key(path, passphrase)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_that_others_can_reach_is_refused(tmp_path, mode):
    path = write_key(tmp_path / "k.pem", Ed25519PrivateKey.generate())
    path.chmod(mode)
    with pytest.raises(SigningKeyError, match="chmod 600"):
        signing.load_signing_key(path)


def test_files_that_are_no_signing_key(tmp_path):
    with pytest.raises(SigningKeyError, match="cannot be read"):
        signing.load_signing_key(tmp_path / "absent.pem")
    (tmp_path / "text.pem").write_text("hello")
    (tmp_path / "text.pem").chmod(0o600)
    with pytest.raises(SigningKeyError, match="not a readable"):
        signing.load_signing_key(tmp_path / "text.pem")
    with pytest.raises(SigningKeyError, match="not an Ed25519 key"):
        signing.load_signing_key(write_key(tmp_path / "ec.pem", ec.generate_private_key(ec.SECP256R1())))
    with pytest.raises(SigningKeyError, match="regular file"):
        signing.load_signing_key(tmp_path.joinpath("/dev/null"))


def test_a_development_key_and_its_trust(tmp_path):
    key_path, trust = tmp_path / "keys" / "dev.pem", tmp_path / "deep" / "trust"
    key = signing.make_dev_key(key_path, trust)
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
    assert signing.load_signing_key(key_path).fingerprint == key.fingerprint
    assert keys.load_trust(trust) == keys.Trust({key.fingerprint: key.public_key}, frozenset(), True)
    assert [path.name for path in trust.parent.iterdir()] == ["trust"]


def test_what_exists_is_never_touched(tmp_path):
    key_path, trust = tmp_path / "dev.pem", tmp_path / "trust"
    trust.mkdir()
    with pytest.raises(SigningKeyError, match="trust directory exists"):
        signing.make_dev_key(key_path, trust)
    assert list(trust.iterdir()) == []
    assert not key_path.exists()
    trust.rmdir()
    key_path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(SigningKeyError, match="signing key exists"):
        signing.make_dev_key(key_path, trust)
    assert not trust.exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SigningKeyError, match="cannot be made"):
        signing.make_dev_key(tmp_path / "file" / "dev.pem", tmp_path / "trust")


def test_signing_modes():
    assert signing.check_signing_mode("operator", "ab", ["AB"]) is None
    assert signing.check_signing_mode("dev", "ab", ["cd"]) is None
    assert "operator key" in signing.check_signing_mode("dev", "ab", ["ab"])
    for allowed in ([], ["cd"]):
        with pytest.raises(SigningKeyError, match="allowed_operator_fingerprints"):
            signing.check_signing_mode("operator", "ab", allowed)
