from __future__ import annotations

import pytest

from preflight import signing
from preflight.errors import SigningKeyError
from takeoff import envelope, keys


@pytest.mark.parametrize("form", [lambda path: path, str])
def test_it_signs_what_the_verifier_accepts(tmp_path, form):
    key = signing.make_key(tmp_path / "operator.pem", b"secret")
    signer = signing.Ed25519ManifestSigner(form(tmp_path / "operator.pem"), b"secret")
    sealed = envelope.decode(signer.sign(b'{"a": 1}'), 10_000)
    assert (sealed.payload, sealed.keyid) == (b'{"a": 1}', signer.fingerprint)
    assert signer.fingerprint == keys.fingerprint(key.public_key)
    key.private.public_key().verify(sealed.signature, envelope.pae(b'{"a": 1}'))
    assert signer.waiting() is None


def test_it_asks_for_a_passphrase(tmp_path):
    key, asked = signing.make_key(tmp_path / "operator.pem", b"secret"), []
    ask = lambda prompt: asked.append(prompt) or "secret"  # noqa: E731
    assert signing.Ed25519ManifestSigner(tmp_path / "operator.pem", ask=ask).fingerprint == key.fingerprint
    assert asked == [f"Passphrase of {tmp_path / 'operator.pem'}: "]


def test_a_wrong_passphrase_is_refused(tmp_path):
    signing.make_key(tmp_path / "operator.pem", b"secret")
    with pytest.raises(SigningKeyError, match="wrong passphrase"):
        signing.Ed25519ManifestSigner(tmp_path / "operator.pem", b"guess")
