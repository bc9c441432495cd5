from __future__ import annotations

import hashlib

import pytest

from preflight.store.sidecar import Sha256Sidecar
from takeoff.errors import ContentHashMismatchError, SidecarMismatchError, SidecarMissingError

DIGEST = hashlib.sha256(b"engine").hexdigest()


@pytest.fixture
def sidecar(tmp_path):
    (tmp_path / "a.engine").write_bytes(b"engine")
    return Sha256Sidecar(tmp_path / "a.engine")


def test_it_holds_the_digits_of_the_file_and_nothing_else(sidecar, tmp_path):
    assert sidecar.write() == DIGEST
    assert (tmp_path / "a.engine.sha256").read_bytes() == DIGEST.encode()
    assert sidecar.read() == sidecar.check() == DIGEST


def test_a_known_digest_is_written_without_reading_the_file(tmp_path):
    absent = Sha256Sidecar(tmp_path / "absent")
    assert absent.write(DIGEST) == DIGEST
    assert absent.read() == DIGEST


def test_a_missing_sidecar_is_refused(sidecar):
    with pytest.raises(SidecarMissingError, match=r"a\.engine\.sha256"):
        sidecar.check()


@pytest.mark.parametrize("content", [b"", DIGEST.upper().encode(), DIGEST.encode() + b"\n", b"g" * 64])
def test_a_sidecar_of_another_form_is_refused(sidecar, content):
    sidecar.path.write_bytes(content)
    with pytest.raises(SidecarMismatchError, match="64 lower-case hex digits"):
        sidecar.read()


def test_a_changed_file_is_refused(sidecar):
    sidecar.write()
    sidecar.file.write_bytes(b"another")
    with pytest.raises(ContentHashMismatchError, match=f"its sidecar states {DIGEST}"):
        sidecar.check()
