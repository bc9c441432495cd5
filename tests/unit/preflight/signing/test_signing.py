"""Private keys, development keys, signing modes, offline signing."""

from __future__ import annotations

import base64
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from preflight import signing
from preflight.errors import OfflineSigningError, SignatureAwaitedError, SigningKeyError
from preflight.store import atomic
from takeoff import envelope, keys


def write_key(path, private, passphrase=None):
    protection = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, protection))
    path.chmod(0o600)
    return path


def test_the_verifier_accepts_a_signature(tmp_path):
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


def test_files_that_are_not_signing_keys_are_refused(tmp_path):
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


def test_a_development_key_comes_with_its_trust_directory(tmp_path):
    key_path, trust = tmp_path / "keys" / "dev.pem", tmp_path / "deep" / "trust"
    key = signing.make_dev_key(key_path, trust)
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
    assert signing.load_signing_key(key_path).fingerprint == key.fingerprint
    assert keys.load_trust(trust) == keys.Trust({key.fingerprint: key.public_key}, frozenset(), True)
    assert [path.name for path in trust.parent.iterdir()] == ["trust"]


def test_existing_files_are_never_changed(tmp_path):
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


def test_a_folder_that_cannot_be_created_is_reported(tmp_path):
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


# OpenSSH key files, made by the real ssh-keygen.


@pytest.fixture
def ssh_keygen(tmp_path):
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")

    def make(name, *, kind="ed25519", passphrase=""):
        path = tmp_path / name
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", str(path)], check=True)
        return path

    return make


def test_openssh_keys_sign_and_are_trusted(ssh_keygen):
    path = ssh_keygen("id", passphrase="correct")
    key = signing.load_signing_key(path, b"correct")
    assert signing.load_public_key(path.with_name("id.pub")) == key.public_key
    for passphrase, why in ((None, "is encrypted"), (b"wrong", "wrong passphrase")):
        with pytest.raises(SigningKeyError, match=why):
            signing.load_signing_key(path, passphrase)
    assert signing.load_signing_key(ssh_keygen("open")).fingerprint
    with pytest.raises(SigningKeyError, match="the key has none"):
        signing.load_signing_key(path.with_name("open"), b"superfluous")
    path.chmod(0o640)
    with pytest.raises(SigningKeyError, match="chmod 600"):
        signing.load_signing_key(path, b"correct")


def test_openssh_keys_of_another_kind_are_refused(ssh_keygen):
    path = ssh_keygen("id", kind="ecdsa")
    with pytest.raises(SigningKeyError, match="not an Ed25519 key"):
        signing.load_signing_key(path)
    with pytest.raises(SigningKeyError, match="give an Ed25519 public key"):
        signing.load_public_key(path.with_name("id.pub"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ssh-ed25519 AAAA",
        b"ssh-ed25519 \xff\xff",
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        keys.to_pem(bytes(32)),
        keys.to_pem(b"\x01" + bytes(31)),
    ],
)
def test_invalid_and_weak_public_keys_are_refused(tmp_path, content):
    path = tmp_path / "k.pub"
    path.write_bytes(content)
    with pytest.raises(SigningKeyError, match="give an Ed25519 public key"):
        signing.load_public_key(path)


def test_a_private_key_in_place_of_a_public_key_and_the_reverse_are_refused(tmp_path):
    signing.make_key(tmp_path / "k.pem", None)
    with pytest.raises(SigningKeyError, match="is a private key"):
        signing.load_public_key(tmp_path / "k.pem")
    with pytest.raises(SigningKeyError, match="is a public key"):
        signing.load_signing_key(tmp_path / "k.pub.pem")
    with pytest.raises(SigningKeyError, match="cannot be read"):
        signing.load_public_key(tmp_path / "absent")


# Creating keys.


def test_a_key_pair_is_created_and_nothing_is_overwritten(tmp_path):
    path = tmp_path / "deep" / "operator.pem"
    key = signing.make_key(path, b"secret")
    assert signing.load_signing_key(path, b"secret").fingerprint == key.fingerprint
    assert signing.load_public_key(signing.public_path(path)) == key.public_key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = path.read_bytes()
    with pytest.raises(SigningKeyError, match=r"operator\.pem exists"):
        signing.make_key(path, None)
    path.unlink()
    with pytest.raises(SigningKeyError, match=r"operator\.pub\.pem exists"):
        signing.make_key(path, None)
    assert not path.exists()
    path.write_bytes(kept)
    (tmp_path / "file").write_text("")
    with pytest.raises(SigningKeyError, match="cannot be made"):
        signing.make_key(tmp_path / "file" / "k.pem", None)


def test_a_partial_key_file_is_removed(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(SigningKeyError, match="No space left"):
        signing.make_key(tmp_path / "k.pem", None)
    assert list(tmp_path.iterdir()) == []


def test_no_private_key_is_left_on_a_file_system_without_permissions(tmp_path, monkeypatch):
    real = atomic.write_new
    monkeypatch.setattr(atomic, "write_new", lambda path, content, *, mode: real(path, content, mode=0o666))
    with pytest.raises(SigningKeyError, match="keeps no permissions"):
        signing.make_key(tmp_path / "k.pem", None)
    assert list(tmp_path.iterdir()) == []


# Passphrases.


def test_where_a_passphrase_comes_from(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(b"from the file\r\nsecond line\n")
    path.chmod(0o600)
    assert signing.given_passphrase(path, "from the environment") == b"from the file"
    assert signing.given_passphrase(None, "from the environment") == b"from the environment"
    assert signing.given_passphrase(None, "") is None
    path.chmod(0o644)
    with pytest.raises(SigningKeyError, match="other users can access the passphrase file"):
        signing.given_passphrase(path, None)
    path.write_text("\n")
    path.chmod(0o600)
    with pytest.raises(SigningKeyError, match="first line is empty"):
        signing.given_passphrase(path, None)


def test_a_passphrase_from_a_pipe(tmp_path):
    """A shell passes a pipe for <(...)."""
    reading, writing = os.pipe()
    os.write(writing, b"piped\n")
    os.close(writing)
    try:
        assert signing.given_passphrase(Path(f"/proc/self/fd/{reading}"), None) == b"piped"
    finally:
        os.close(reading)


def test_a_person_is_asked_once_for_an_existing_and_twice_for_a_new_passphrase(tmp_path):
    asked = []

    def ask(prompt):
        asked.append(prompt)
        return "secret"

    signing.make_key(tmp_path / "k.pem", signing.new_passphrase(None, ask))
    assert len(asked) == 2
    assert signing.load_signing_key(tmp_path / "k.pem", None, ask).fingerprint
    assert asked[2:] == [f"Passphrase of {tmp_path / 'k.pem'}: "]
    with pytest.raises(SigningKeyError, match="wrong passphrase"):
        signing.load_signing_key(tmp_path / "k.pem", None, lambda _: "wrong")
    with pytest.raises(SigningKeyError, match="is encrypted"):
        signing.load_signing_key(tmp_path / "k.pem", None, lambda _: "")
    # Nobody is asked if the passphrase is given, or if the key has none.
    signing.load_signing_key(tmp_path / "k.pem", b"secret", ask)
    signing.make_key(tmp_path / "open.pem", None)
    signing.load_signing_key(tmp_path / "open.pem", None, ask)
    assert len(asked) == 3
    assert signing.new_passphrase(b"given", None) == b"given"


@pytest.mark.parametrize(
    ("answers", "why"), [([""], "is empty"), (["one", "two"], "differ"), (None, "--passphrase-file")]
)
def test_new_passphrases_that_are_refused(answers, why):
    ask = None if answers is None else lambda _: answers.pop(0)
    with pytest.raises(SigningKeyError, match=why):
        signing.new_passphrase(None, ask)


# Offline signing.

STATEMENT = b'{"some":"statement"}'


@pytest.fixture
def offline(tmp_path):
    key = signing.make_key(tmp_path / "k.pem", None)
    request = signing.SigningRequest(tmp_path / "request")
    return key, request, signing.OfflineSigner(key.public_key, request)


def test_a_statement_waits_until_its_signature_is_imported(offline):
    key, request, signer = offline
    assert signer.waiting() is None
    for _ in range(2):
        with pytest.raises(SignatureAwaitedError, match="doit sign"):
            signer.sign(STATEMENT)
    assert signer.waiting() == STATEMENT
    signer.accept(STATEMENT, signing.sign_export(STATEMENT, key))
    assert signer.sign(STATEMENT) == signing.sign_statement(STATEMENT, key)
    # Another statement needs another signature.
    with pytest.raises(SignatureAwaitedError):
        signer.sign(STATEMENT + b" ")
    assert not request.signature.exists()


def test_no_signature_but_the_keys_own_over_the_statement_is_taken(offline, tmp_path):
    key, request, signer = offline
    other = signing.make_key(tmp_path / "other.pem", None)
    good = signing.sign_export(STATEMENT, key)
    order = 2**252 + 27742317777372353535851937790883648493
    malleable = good[:32] + (int.from_bytes(good[32:], "little") + order).to_bytes(32, "little")
    signatures = (signing.sign_export(STATEMENT, other), signing.sign_export(b"{}", key), good[:63], b"", malleable)
    for signature in signatures:
        with pytest.raises(OfflineSigningError, match="does not match key"):
            signer.accept(STATEMENT, signature)
        assert not request.signature.exists()
    # A wrong signature that already lies in the folder is not used either.
    request.folder.mkdir()
    request.statement.write_bytes(STATEMENT)
    request.signature.write_bytes(signatures[0])
    with pytest.raises(SignatureAwaitedError):
        signer.sign(STATEMENT)


def test_signature_files_are_raw_or_base64(tmp_path):
    raw = bytes(range(64))
    path = tmp_path / "s"
    for content in (raw, base64.b64encode(raw), base64.b64encode(raw) + b"\n"):
        path.write_bytes(content)
        assert signing.read_signature(path) == raw
    for content in (b"", raw[:-1], raw + b"\n", base64.b64encode(raw[:-1]), b"!" + base64.b64encode(raw), b"x" * 9999):
        path.write_bytes(content)
        with pytest.raises(OfflineSigningError, match="64 bytes"):
            signing.read_signature(path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60))
def test_only_an_export_of_a_valid_manifest_is_read(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "export"
    for data in (content, envelope.pae(content), envelope.pae(b"{}")[:-1] + content):
        path.write_bytes(data)
        with pytest.raises(OfflineSigningError, match="nothing was signed"):
            signing.read_export(path)
