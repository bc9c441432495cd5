"""Changes of a trust directory, as read by the verifier of the aircraft."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import preflight
from preflight import signing
from preflight.commands.key_management import trust
from preflight.errors import CommandLineError, SigningKeyError, TrustDirectoryError
from takeoff import keys

LIB = Path(preflight.__file__).parents[2]
NOW = datetime(2026, 5, 1, tzinfo=timezone.utc)


def key(number):
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key().public_bytes_raw()


def fingerprint(number):
    return keys.fingerprint(key(number))


@pytest.fixture
def directory(tmp_path):
    folder = tmp_path / "trust"
    signing.add_key(folder, key(1), "first")
    return folder


def snapshot(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_the_first_key_creates_the_directory(tmp_path):
    folder = tmp_path / "deep" / "trust"
    assert signing.add_key(folder, key(1), "Ana's key/2") == (fingerprint(1), f"Ana-s-key-2-{fingerprint(1)[:12]}.pem")
    assert keys.load_trust(folder) == keys.Trust({fingerprint(1): key(1)}, frozenset(), False)
    assert signing.add_key(folder, key(1), "again") == (fingerprint(1), None)
    assert len(snapshot(folder)) == 1


def test_a_revoked_key_is_refused_by_the_verifier_and_stays_revoked(directory):
    assert signing.revoke_key(directory, fingerprint(1).upper(), NOW)
    assert keys.load_trust(directory).revoked == {fingerprint(1)}
    before = snapshot(directory)
    assert before[keys.REVOKED] == f"{fingerprint(1)}  # 2026-05-01\n".encode()
    assert not signing.revoke_key(directory, fingerprint(1), NOW)
    with pytest.raises(TrustDirectoryError, match="is revoked"):
        signing.add_key(directory, key(1), "first")
    assert snapshot(directory) == before


def test_a_key_without_a_file_can_be_revoked_and_lines_written_by_hand_are_kept(directory):
    (directory / keys.REVOKED).write_text(f"# lost at the airfield\n{fingerprint(2)}")
    signing.revoke_key(directory, fingerprint(3), NOW)
    assert (
        (directory / keys.REVOKED).read_text().startswith(f"# lost at the airfield\n{fingerprint(2)}\n{fingerprint(3)}")
    )
    listing = signing.list_trust(directory)
    assert [(item.fingerprint, item.revoked) for item in listing.keys] == [
        (fingerprint(1), False),
        *sorted((fingerprint(number), True) for number in (2, 3)),
    ]
    with pytest.raises(TrustDirectoryError, match="is revoked"):
        signing.add_key(directory, key(3), "third")


def test_concurrent_revocations_are_all_kept(directory):
    program = (
        "import sys; from pathlib import Path; from datetime import datetime; from preflight import signing\n"
        "for number in range(5): signing.revoke_key(Path(sys.argv[1]), sys.argv[2] + f'{number:x}' * 63, datetime(2026, 5, 1))"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", program, str(directory), digit], env={"PYTHONPATH": str(LIB)})
        for digit in "abc"
    ]
    assert [run.wait() for run in runs] == [0, 0, 0]
    assert keys.load_trust(directory).revoked == {digit + f"{number:x}" * 63 for digit in "abc" for number in range(5)}


@pytest.mark.parametrize("weak", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
def test_weak_keys_are_refused_by_the_check_of_the_verifier(directory, weak):
    before = snapshot(directory)
    with pytest.raises(TrustDirectoryError, match="weak"):
        signing.add_key(directory, weak, "weak")
    assert snapshot(directory) == before


@pytest.mark.parametrize("damage", ["bad key", "link", "folder", "bad list"])
def test_a_damaged_directory_is_reported_and_not_changed(directory, damage):
    match damage:
        case "bad key":
            (directory / "x.pem").write_text("x")
        case "link":
            (directory / "x.pem").symlink_to(next(directory.glob("first-*")))
        case "folder":
            (directory / "x.pem").mkdir()
        case "bad list":
            (directory / keys.REVOKED).write_text("not a fingerprint\n")
    before = snapshot(directory)
    for change in (
        lambda: signing.add_key(directory, key(2), "second"),
        lambda: signing.revoke_key(directory, fingerprint(1), NOW),
        lambda: signing.list_trust(directory),
    ):
        with pytest.raises(TrustDirectoryError, match="damaged"):
            change()
    assert snapshot(directory) == before


def test_invalid_fingerprints_and_directories_are_refused(directory, tmp_path):
    for text in ("", "abc", "g" * 64, fingerprint(1)[:-1]):
        with pytest.raises(TrustDirectoryError, match="neither a fingerprint"):
            signing.revoke_key(directory, text, NOW)
    for change in (
        lambda: signing.revoke_key(tmp_path / "absent", fingerprint(1), NOW),
        lambda: signing.list_trust(tmp_path / "absent"),
    ):
        with pytest.raises(TrustDirectoryError, match="absent"):
            change()
    assert not (tmp_path / "absent").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrustDirectoryError, match="no public key"):
        signing.list_trust(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(TrustDirectoryError, match="cannot be opened"):
        signing.add_key(tmp_path / "file" / "trust", key(1), "first")


def test_the_output_of_the_trust_command(tmp_path):
    made = signing.make_key(tmp_path / "op.pem", None)
    public = tmp_path / "op.pub.pem"
    folder = tmp_path / "trust"
    result = trust(folder, ["add", str(public)], NOW)
    assert result.fields["file"] == f"op-{made.fingerprint[:12]}.pem"
    assert "already" in trust(folder, ["add", str(public)], NOW).text
    (folder / keys.ALLOW_DEV).touch()
    text = trust(folder, ["list"], NOW).text
    assert f"{made.fingerprint}  trusted  op-" in text
    assert "accepts caches signed in dev mode" in text
    assert trust(folder, ["revoke", str(public)], NOW).fields["new"]
    assert "already" in trust(folder, ["revoke", made.fingerprint], NOW).text
    with pytest.raises(SigningKeyError, match="is a private key"):
        trust(folder, ["add", str(tmp_path / "op.pem")], NOW)
    for arguments in ([], ["add"], ["list", "x"], ["remove", "x"]):
        with pytest.raises(CommandLineError, match="doit help trust"):
            trust(folder, arguments, NOW)
