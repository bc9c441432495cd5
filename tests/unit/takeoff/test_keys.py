"""Envelope, keys and the trust directory, against other implementations and known attacks."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
from pathlib import Path

import pytest

from takeoff import envelope, keys, verify
from takeoff.errors import EnvelopeError, TrustError

WYCHEPROOF = Path(__file__).parents[4] / "shared" / "data" / "wycheproof" / "ed25519_test.json"
SMALL_ORDER = [
    "01" + "00" * 31,
    "ec" + "ff" * 30 + "7f",
    "00" * 32,
    "00" * 31 + "80",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "01" + "00" * 30 + "80",
    "ec" + "ff" * 31,
    "ee" + "ff" * 30 + "7f",
    "ee" + "ff" * 31,
    "ed" + "ff" * 30 + "7f",
    "ed" + "ff" * 31,
]


def test_wycheproof():
    if not WYCHEPROOF.exists():
        pytest.skip("the Wycheproof vectors are not beside the repository")
    judged = 0
    for group in json.loads(WYCHEPROOF.read_text())["testGroups"]:
        raw = bytes.fromhex(group["publicKey"]["pk"])
        der = bytes.fromhex(group["publicKeyDer"])
        pem = f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"
        assert keys.from_pem(pem.encode()) == raw
        for case in group["tests"]:
            signature, message = bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"])
            assert keys.verify_signature(raw, signature, message) == (case["result"] == "valid"), case["tcId"]
            judged += 1
    assert judged == 151


@pytest.mark.parametrize("encoding", SMALL_ORDER)
def test_the_small_order_keys_are_refused_when_loaded(encoding, tmp_path):
    raw = bytes.fromhex(encoding)
    assert len(SMALL_ORDER) == len(set(SMALL_ORDER)) == 14
    (tmp_path / "weak.pem").write_bytes(keys.to_pem(raw))
    with pytest.raises(TrustError, match="weak"):
        keys.load_trust(tmp_path)
    with pytest.raises(TrustError, match="weak"):
        keys.verify_signature(raw, b"\0" * 64, b"")


def forged(weak):
    """A message and a signature that `cryptography` accepts under a key nobody holds the secret of; None where it has none."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(weak)
    except ValueError:
        return None
    # S = 0: the equation is R = -hA, and a small-order A gives at most eight values of it.
    for number in range(64):
        for point in SMALL_ORDER:
            signature, message = bytes.fromhex(point) + bytes(32), b"forged %d" % number
            with contextlib.suppress(InvalidSignature):
                key.verify(signature, message)
                return signature, message
    return None


@pytest.mark.parametrize("encoding", SMALL_ORDER)
def test_forgeries_under_weak_keys_are_refused(encoding, tmp_path, cache, kit):
    """The library takes them (50.0.2 did, under all 14); with such a key in the trust directory nothing is verified at all."""
    weak = bytes.fromhex(encoding)
    found = forged(weak) or (bytes(64), b"a library that has learned better")
    with pytest.raises(TrustError, match="weak"):
        keys.verify_signature(weak, *found)
    (tmp_path / "weak").mkdir()
    (tmp_path / "weak" / "weak.pem").write_bytes(keys.to_pem(weak))
    sealed = envelope.Envelope((cache / "manifest.json").read_bytes(), keys.fingerprint(weak), found[0])
    (cache / "manifest.dsse.json").write_bytes(envelope.encode(sealed))
    result = verify.verify_manifest(cache, trust=tmp_path / "weak", now=lambda: kit.NOW)
    assert [failure.code for failure in result.failures] == ["trust"]


def test_a_signature_with_l_added_is_refused(private):
    order = 2**252 + 27742317777372353535851937790883648493
    good = private.sign(b"message")
    raw = private.public_key().public_bytes_raw()
    bad = good[:32] + (int.from_bytes(good[32:], "little") + order).to_bytes(32, "little")
    assert keys.verify_signature(raw, good, b"message")
    assert not keys.verify_signature(raw, bad, b"message")


def test_pem_and_fingerprint_as_openssl_has_them(private, tmp_path):
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = private.public_key()
    raw = public.public_bytes_raw()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert keys.to_pem(raw) == pem
    assert keys.from_pem(pem) == keys.from_pem(pem.replace(b"\n", b"\r\n")) == raw
    (tmp_path / "k.pem").write_bytes(pem)
    command = ["openssl", "pkey", "-pubin", "-in", tmp_path / "k.pem", "-outform", "DER"]
    der = subprocess.run(command, capture_output=True, check=True).stdout
    digest = subprocess.run(["sha256sum"], input=der, capture_output=True, check=True).stdout
    assert digest.split()[0].decode() == keys.fingerprint(raw)


@pytest.mark.parametrize(
    "change",
    [
        lambda pem: b"",
        lambda pem: pem + pem,
        lambda pem: pem + b"\n",
        lambda pem: pem[:-1],
        lambda pem: b"x" + pem,
        lambda pem: pem.replace(b"PUBLIC", b"PRIVATE"),
        lambda pem: pem.replace(b"MCow", b"MCox"),
        lambda pem: pem.replace(b"MCow", b"MCo"),
        lambda pem: pem.replace(b"=\n", b"\n"),
        lambda pem: pem.replace(b"MCow", b"MC\xffow"),
        lambda pem: pem.replace(b"MCow", b"MC ow"),
    ],
)
def test_damaged_key_files_refuse_the_directory(trust, change):
    pem = (trust / "operator.pem").read_bytes()
    (trust / "second.pem").write_bytes(change(pem))
    with pytest.raises(TrustError, match=r"second\.pem"):
        keys.load_trust(trust)


def test_a_trust_directory_as_read(trust, private):
    raw = private.public_key().public_bytes_raw()
    (trust / "README").write_text("not read")
    assert keys.load_trust(trust) == keys.Trust({keys.fingerprint(raw): raw}, frozenset(), False)
    (trust / "allow_dev").write_bytes(b"")
    (trust / "revoked").write_text("")
    assert keys.load_trust(trust).allow_dev is True


def test_trust_directories_that_refuse(trust, tmp_path):
    (tmp_path / "empty").mkdir()
    for path, message in (
        (tmp_path / "empty", "no public key"),
        (tmp_path / "absent", "cannot be read"),
        (trust / "operator.pem", "cannot be read"),
    ):
        with pytest.raises(TrustError, match=message):
            keys.load_trust(path)
    (trust / "revoked").write_text("abc\n")
    with pytest.raises(TrustError, match="line 1 is not a fingerprint"):
        keys.load_trust(trust)
    (trust / "revoked").unlink()
    os.mkfifo(trust / "fifo.pem")
    with pytest.raises(TrustError, match=r"fifo\.pem is a FIFO"):
        keys.load_trust(trust)


# Envelope


def good(private) -> dict:
    return {
        "payload": base64.b64encode(b"payload").decode(),
        "payloadType": envelope.PAYLOAD_TYPE,
        "signatures": [{"keyid": "ab" * 32, "sig": base64.b64encode(b"\1" * 64).decode()}],
    }


def canon(value) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def test_envelope_round_trip(private):
    made = envelope.Envelope(b"payload", "ab" * 32, b"\1" * 64)
    assert envelope.encode(made) == canon(good(private))
    assert envelope.decode(canon(good(private)), 1000) == made


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.pop("payload"),
        lambda it: it.pop("payloadType"),
        lambda it: it.pop("signatures"),
        lambda it: it.update(more=1),
        lambda it: it.update(payload=1),
        lambda it: it.update(payload="cGF5bG9hZA"),
        lambda it: it.update(payload="cGF5bG9hZB=="),
        lambda it: it.update(payload="cGF5 bG9hZA=="),
        lambda it: it.update(payload="cGF5bG9hZA==="),
        lambda it: it.update(payload="cGF5bG9hZ_=="),
        lambda it: it.update(payloadType="application/json"),
        lambda it: it.update(payloadType=None),
        lambda it: it.update(signatures=[]),
        lambda it: it.update(signatures={}),
        lambda it: it.update(signatures=it["signatures"] * 2),
        lambda it: it["signatures"][0].update(keyid="AB" * 32),
        lambda it: it["signatures"][0].update(keyid=""),
        lambda it: it["signatures"][0].update(keyid=None),
        lambda it: it["signatures"][0].update(more=1),
        lambda it: it["signatures"][0].pop("keyid"),
        lambda it: it["signatures"][0].pop("sig"),
        lambda it: it["signatures"][0].update(sig="AA=="),
        lambda it: it["signatures"][0].update(sig=7),
    ],
)
def test_envelopes_that_are_refused(private, change):
    made = good(private)
    change(made)
    with pytest.raises(EnvelopeError):
        envelope.decode(canon(made), 1000)


def test_an_envelope_that_is_not_canonical_or_too_large(private):
    for data in (json.dumps(good(private)).encode(), b"[]", b"", canon(good(private)) + b"\n"):
        with pytest.raises(EnvelopeError):
            envelope.decode(data, 1000)
    with pytest.raises(EnvelopeError, match="larger"):
        envelope.decode(canon(good(private)), 100)


def test_securesystemslib_verifies_the_envelope(cache, private):
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import SSlibKey

    raw = private.public_key().public_bytes_raw()
    keyid = keys.fingerprint(raw)
    key = SSlibKey(keyid, "ed25519", "ed25519", {"public": raw.hex()})
    sealed = Envelope.from_dict(json.loads((cache / "manifest.dsse.json").read_bytes()))
    assert set(sealed.verify([key], 1)) == {keyid}
    assert sealed.payload == (cache / "manifest.json").read_bytes()
    assert sealed.pae() == envelope.pae(sealed.payload)


def test_openssl_verifies_the_pae_bytes(cache, trust, tmp_path):
    sealed = envelope.decode((cache / "manifest.dsse.json").read_bytes(), 1 << 20)
    (tmp_path / "pae").write_bytes(envelope.pae(sealed.payload))
    (tmp_path / "sig").write_bytes(sealed.signature)
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", trust / "operator.pem"]
    command += ["-in", tmp_path / "pae", "-sigfile", tmp_path / "sig"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_in_toto_reads_the_statement(cache, kit):
    """Another implementation's schema: `in_toto_attestation`, the project's own."""
    pytest.importorskip("in_toto_attestation", reason="in-toto-attestation is not installed")
    from google.protobuf import json_format
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    # Unknown members are refused by the parser, so the four of the specification are all there are.
    message = json_format.Parse((cache / "manifest.json").read_bytes(), statement_pb2.Statement())
    Statement.copy_from_pb(message).validate()
    assert {subject.name: subject.digest["sha256"] for subject in message.subject} == kit.make_manifest().subjects
    assert message.predicate.fields["schema_version"].string_value == "1.1"
