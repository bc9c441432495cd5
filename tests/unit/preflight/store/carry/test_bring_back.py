"""`doit sign --import` when the following build publishes what was signed, or something else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from preflight import signing
from preflight.commands.sign import bring_back, export
from preflight.errors import OfflineSigningError
from preflight.store.manifests import parse_manifest


@pytest.fixture
def waiting(scene, tmp_path):
    """A waiting statement, its signature, and a mission whose build publishes what `published` holds."""
    statement = (scene.generation(2) / "manifest.json").read_bytes()
    key = signing.make_key(tmp_path / "k.pem", None)
    signer = signing.OfflineSigner(key.public_key, signing.SigningRequest(tmp_path / "waiting"))
    signer.lay_out(statement)
    signature = tmp_path / "sig"
    signature.write_bytes(signing.sign_export(statement, key))
    here = SimpleNamespace(
        statement=statement,
        published=scene.generation(1) / "manifest.json",
        new=scene.generation(2) / "manifest.json",
        closed=0,
        signature=signature,
    )

    def published():
        return parse_manifest(here.published.read_bytes())

    builder = SimpleNamespace(published=published, overtaken=lambda _: None)
    here.assembly = SimpleNamespace(signer=lambda: signer, builder=builder)
    return here


def session_of(waiting, build):
    def close():
        waiting.closed += 1

    return SimpleNamespace(build=build, close=close)


def test_the_build_publishes_what_was_signed(waiting):
    def build():
        waiting.published = waiting.new
        return "report"

    assert bring_back(waiting.assembly, session_of(waiting, build), waiting.signature, None) == "report"


def test_a_build_that_does_not_publish_the_signed_statement_is_reported(waiting):
    """After the export, the mission was changed back. Its build is up to date and does not need the signature."""
    with pytest.raises(OfflineSigningError, match="the signed statement is outdated"):
        bring_back(
            waiting.assembly,
            session_of(waiting, lambda: "idempotent_no_op"),
            waiting.signature,
            None,
        )


def test_the_session_is_closed_if_nothing_is_built(waiting, tmp_path):
    with pytest.raises(OfflineSigningError, match="cannot be read"):
        bring_back(waiting.assembly, session_of(waiting, pytest.fail), tmp_path / "absent", None)
    assert waiting.closed == 1


def test_an_export_replaces_only_another_export(waiting, tmp_path):
    target = tmp_path / "out"
    for _ in range(2):
        assert export(waiting.assembly, target).fields["generation"] == "2"
    assert signing.read_export(target) == waiting.statement
    for path in (tmp_path / "k.pem", tmp_path / "waiting"):
        with pytest.raises(OfflineSigningError):
            export(waiting.assembly, path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OfflineSigningError, match="cannot be written"):
        export(waiting.assembly, tmp_path / "file" / "out")
