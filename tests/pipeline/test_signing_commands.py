"""keygen, trust, offline signing and bundle as an operator runs them, with real processes and the real openssl."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from preflight import wiring
from preflight.commands import sign
from preflight.errors import EngineBuildError, OfflineSigningError
from preflight.mission.loading import load_mission
from preflight.signing import summary

ROOT = Path(__file__).resolve().parents[2]
SECRET = "correct horse"


def section(mission):
    return mission["components"]["c10_provisioning"]["manifest"]


def status_of(place):
    """Return what `doit status` reports about a statement that waits for its signature."""
    (told,) = place.doit("status", "log=json").events
    return told["awaited"]


def snapshot(folder):
    """Return every file below a folder with its content, inode and ctime."""
    return {
        path: (path.read_bytes(), path.stat().st_ino, path.stat().st_ctime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def openssl(*arguments):
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here")
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


@pytest.fixture
def keyed(built):
    """A built mission that an operator must sign on another machine, with a key made by `doit keygen`."""
    secret = built.folder / "secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    key = built.folder / "safe" / "operator.pem"
    made = built.doit("keygen", str(key), f"--passphrase-file={secret}", "log=json")
    assert made.status == 0, made.said
    (told,) = made.event("c10.key.made")
    added = built.doit("trust", "add", told["public_key"])
    assert added.status == 0, added.said

    def change(mission):
        section(mission).update(
            signing="offline",
            signing_key="safe/operator.pub.pem",
            signing_mode="operator",
            allowed_operator_fingerprints=[told["fingerprint"]],
        )

    built.edit(change)
    return built, key, secret, told["fingerprint"]


def test_keys_are_made_trusted_listed_and_revoked(built):
    key = built.folder / "k" / "operator.pem"
    environment = {**os.environ, "PREFLIGHT_SIGNING_PASSPHRASE": SECRET}
    made = built.doit("keygen", str(key), env=environment)
    assert made.status == 0, made.said
    assert SECRET not in made.said
    assert "fingerprint" in made.out
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert b"ENCRYPTED PRIVATE KEY" in key.read_bytes()
    openssl("pkey", "-in", key, "-passin", f"pass:{SECRET}", "-noout")
    before = key.read_bytes()
    again = built.doit("keygen", str(key), env=environment)
    assert again.status == 1
    assert "exists and was not changed" in again.sentences
    assert key.read_bytes() == before
    trust = built.folder / "aircraft"
    public = str(key.with_name("operator.pub.pem"))
    assert built.doit("trust", "add", public, f"--trust={trust}").status == 0
    (listed,) = built.doit("trust", "list", f"--trust={trust}", "log=json").event("c10.key.listed")
    (entry,) = listed["keys"]
    assert (entry["revoked"], listed["allow_dev"]) == (False, False)
    assert built.doit("trust", "revoke", entry["fingerprint"], f"--trust={trust}").status == 0
    shown = built.doit("trust", "list", f"--trust={trust}")
    assert f"{entry['fingerprint']}  REVOKED  {entry['file']}" in shown.out
    assert "allow_dev is absent" in shown.out
    refused = built.doit("trust", "add", public, f"--trust={trust}")
    assert refused.status == 1
    assert "is revoked" in refused.sentences
    # The mission's trust directory contains its development key and allow_dev.
    (own,) = built.doit("trust", "list", "log=json").event("c10.key.listed")
    assert own["allow_dev"]
    assert own["trust"] == str(built.folder / "trust")


def test_a_key_cannot_be_made_without_a_passphrase(built):
    done = built.doit("keygen", str(built.folder / "k.pem"), stdin=subprocess.DEVNULL)
    assert done.status == 1
    assert "--passphrase-file" in done.sentences
    assert not (built.folder / "k.pem").exists()


def test_a_statement_that_waits_across_a_step_to_another_schema(keyed, releases):
    """Its signature would be for a manifest that this release's verifier refuses, so a new statement is written."""
    old, key, secret, _ = keyed
    assert old.provision().status == 1
    stick = old.folder / "stick"
    assert old.doit("sign", f"--export={stick / 'old'}").status == 0
    assert old.doit("sign", f"--key={key}", f"--passphrase-file={secret}", str(stick / "old")).status == 0
    waiting, link = (old.work / "signing" / "statement.json").read_bytes(), old.current.readlink()

    new = replace(old, python=releases["99.1"])
    why = "is of schema 1.1, and this release of preflight writes schema 99.1"
    told = status_of(new)
    assert told["signed"] is False
    assert (
        f"the statement that waits for its signature {why}. Run doit provision, which writes a new" in told["problem"]
    )
    for option in (f"--export={stick / 'new'}", f"--import={stick / 'old.sig'}"):
        refused = new.doit("sign", option)
        assert refused.status == 1
        assert f"{why}. Run doit provision, which writes a new one, then doit sign --export=FILE" in refused.sentences
    assert (old.work / "signing" / "statement.json").read_bytes() == waiting
    assert new.provision().status == 1
    assert new.doit("sign", f"--export={stick / 'new'}").status == 0
    # The machine with the key signs no statement that it cannot show.
    foreign = old.doit("sign", f"--key={key}", f"--passphrase-file={secret}", str(stick / "new"))
    assert foreign.status == 1
    assert "sign it with the release of preflight that exported it" in foreign.sentences
    assert new.doit("sign", f"--key={key}", f"--passphrase-file={secret}", str(stick / "new")).status == 0
    assert old.current.readlink() == link
    assert new.doit("sign", f"--import={stick / 'new.sig'}").status == 0
    assert (new.takeoff().status, new.manifest["predicate"]["schema_version"]) == (0, "99.1")


def test_signed_elsewhere_and_brought_back(keyed):
    place, key, secret, fingerprint = keyed
    old = place.generation
    stopped = place.provision_json()
    assert stopped.status == 1
    (failed,) = stopped.event("c10.build.failed")
    assert failed["error"] == "SignatureAwaitedError"
    assert place.report["outcome"] == "failure"
    assert "waits for its signature" in place.report["failure_reason"]
    assert place.generation == old
    waiting = (place.work / "signing" / "statement.json").read_bytes()
    # A second run must leave the same bytes, because somebody may be signing them.
    assert place.provision_json().status == 1
    assert (place.work / "signing" / "statement.json").read_bytes() == waiting

    before = snapshot(place.cache)
    assert status_of(place) == {
        "signed": False,
        "problem": None,
        "next": "doit sign --export=FILE, sign FILE on the machine with the key, then doit sign --import=FILE.sig",
        "facts": {"signer": fingerprint, **summary(waiting)},
    }
    text = place.doit("status")
    assert "waits generation 2 for flight 0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10, written 20" in text.sentences
    assert (
        f"waits for its signature by {fingerprint[:12]} next doit sign --export=FILE, sign FILE on the"
        in text.sentences
    )
    assert snapshot(place.cache) == before

    out = place.folder / "stick" / "cache.pae"
    exported = place.doit("sign", f"--export={out}")
    assert exported.status == 0, exported.said
    told = json.loads(out.with_name("cache.pae.json").read_bytes())
    assert told["signer"] == fingerprint
    assert told["generation"] == "2"
    assert told["flight_id"] in exported.out
    assert out.read_bytes().endswith(waiting)

    # Our signature and that of openssl are the same 64 bytes, because pure Ed25519 is deterministic.
    signed = place.doit("sign", f"--key={key}", f"--passphrase-file={secret}", str(out))
    assert signed.status == 0, signed.said
    assert told["manifest_hash"] in signed.out
    assert SECRET not in signed.said
    other = place.folder / "stick" / "openssl.sig"
    openssl("pkeyutl", "-sign", "-rawin", "-inkey", key, "-passin", f"file:{secret}", "-in", out, "-out", other)
    assert other.read_bytes() == out.with_name("cache.pae.sig").read_bytes()
    public = key.with_name("operator.pub.pem")
    openssl("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public, "-in", out, "-sigfile", other)

    done = place.doit("sign", f"--import={other}", f"--public-key={public}", "log=json")
    assert done.status == 0, done.said
    assert done.ran == ["manifest", "publish"]
    assert done.event("c10.build.complete")[0]["outcome"] == "success"
    assert place.generation != old
    assert (place.current / "manifest.json").read_bytes() == waiting
    verdict = place.takeoff()
    assert verdict.status == 0
    assert f"signed by {fingerprint[:12]}" in verdict.out

    assert place.provision_json().ran == []
    assert status_of(place) is None
    for arguments, why in (
        (("sign", f"--import={other}"), "nothing waits"),
        (("sign", f"--export={out}"), "nothing waits"),
    ):
        refused = place.doit(*arguments)
        assert refused.status == 1
        assert why in refused.sentences
    reproduced = place.doit("reproduce", "log=json")
    assert reproduced.status == 0, reproduced.said

    # Roll back to the previous generation and forward again, also with signatures made elsewhere.
    signed_here = place.generation
    awaited = place.doit("rollback")
    assert awaited.status == 1
    assert "waits for its signature" in awaited.sentences
    assert place.generation == signed_here
    # The development key signed the previous generation. The trust directory still allows it.
    assert place.doit("sign", f"--export={out}").status == 0
    openssl("pkeyutl", "-sign", "-rawin", "-inkey", key, "-passin", f"file:{secret}", "-in", out, "-out", other)
    back = place.doit("sign", f"--import={other}", "log=json")
    assert back.status == 0, back.said
    assert back.event("c10.rollback.complete")[0]["generation"] == place.generation.name
    assert place.generation.name.startswith("000003-")
    assert place.takeoff().status == 0

    # A provision uses a signature that a stopped import has stored.
    place.edit(lambda mission: mission.update(flight_id=None))
    assert place.provision().status == 1
    assert place.doit("sign", f"--export={out}").status == 0
    openssl("pkeyutl", "-sign", "-rawin", "-inkey", key, "-passin", f"file:{secret}", "-in", out, "-out", other)
    shutil.copy(other, place.work / "signing" / "signature")
    told = status_of(place)
    assert (told["signed"], told["next"]) == (True, "doit provision, which publishes it")
    assert place.provision_json().ran == ["manifest", "publish"]
    assert place.takeoff().status == 0


def test_signatures_that_do_not_fit_are_refused(keyed):
    place, key, secret, fingerprint = keyed
    old = place.generation
    assert place.provision().status == 1
    out = place.folder / "cache.pae"
    assert place.doit("sign", f"--export={out}").status == 0
    stranger = place.folder / "stranger.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", stranger)
    stranger.chmod(0o600)
    foreign = place.folder / "foreign.pub.pem"
    openssl("pkey", "-in", stranger, "-pubout", "-out", foreign)
    assert place.doit("sign", f"--key={stranger}", str(out)).status == 0
    signature = out.with_name("cache.pae.sig")
    short = place.folder / "short.sig"
    short.write_bytes(bytes(63))
    for arguments, why in (
        ((f"--import={signature}",), "does not match key"),
        ((f"--import={signature}", f"--public-key={foreign}"), fingerprint),
        ((f"--import={short}",), "64 bytes"),
        ((f"--export={place.mission}",), "is not an earlier export"),
        ((f"--export={out}", f"--key={key}"), "doit help sign"),
    ):
        refused = place.doit("sign", *arguments)
        assert refused.status == 1, arguments
        assert why in refused.sentences
        assert "Traceback" not in refused.said
    assert place.generation == old
    # A file that is no manifest is not signed. A signature by another key is not replaced.
    text = place.folder / "text"
    text.write_bytes(b"DSSEv1 28 application/vnd.in-toto+json 2 {}")
    for path, why in (
        (text, "not hold a valid manifest"),
        (place.mission, "not a file of doit sign --export"),
        (out, "another"),
    ):
        refused = place.doit("sign", f"--key={key}", f"--passphrase-file={secret}", str(path))
        assert refused.status == 1
        assert why in refused.sentences
    # The mission changes between export and import.
    signature.unlink()
    assert place.doit("sign", f"--key={key}", f"--passphrase-file={secret}", str(out)).status == 0
    place.edit(lambda mission: mission.update(flight_id=None))
    moved = place.doit("sign", f"--import={signature}")
    assert moved.status == 1
    assert "the signed statement is outdated" in moved.sentences
    assert place.generation == old


def test_an_export_that_is_too_old_is_refused(keyed):
    place, *_ = keyed
    assert place.provision().status == 1

    def later(days):
        surroundings = wiring.Surroundings.real()
        moved = replace(surroundings, clock=lambda: wiring.wall_clock() + timedelta(days=days))
        return wiring.assemble(load_mission(place.mission, {}), moved, wiring.Options())

    def runtime_gone():
        raise EngineBuildError("no runtime")

    out = place.folder / "cache.pae"
    told = sign.awaited(later(14).job, runtime_gone)
    assert told.problem == "a statement waits for its signature, but cannot be checked: no runtime"
    assert sign.export(later(14), out).event == "c10.signing.exported"
    for days, why in ((16, "more than half of its validity"), (-1, "has not begun")):
        assembly = later(days)
        with pytest.raises(OfflineSigningError, match=why):
            sign.export(assembly, out)
        told = sign.awaited(assembly.job, lambda assembly=assembly: assembly)
        assert why in told.problem
        assert (told.facts, told.next) == ({}, "doit provision")
        with pytest.raises(OfflineSigningError, match=why):
            sign.bring_back(assembly, assembly.session(), out, None)


def test_offline_needs_a_public_key_that_may_sign(keyed):
    place, key, *_ = keyed
    for change, why in (
        ({"signing_key": str(key)}, "is a private key"),
        ({"allowed_operator_fingerprints": ["0" * 64]}, "allowed_operator_fingerprints"),
        ({"signing": "here"}, "is a public key"),
    ):
        before = place.mission.read_text()
        place.edit(lambda mission, change=change: section(mission).update(change))
        done = place.provision()
        assert done.status == 1
        assert why in done.sentences
        place.mission.write_text(before)


def test_a_passphrase_is_asked_for_on_a_terminal_unseen_and_before_anything_is_built(built):
    key = built.folder / "keys" / "mine.pem"
    said, status = on_terminal(built.command("keygen", str(key)), [SECRET, SECRET])
    assert status == 0, said
    assert said.count("Passphrase of the new key:") == said.count("Repeat the passphrase:") == 1
    assert SECRET not in said
    assert built.doit("trust", "add", str(key.with_name("mine.pub.pem"))).status == 0
    built.edit(lambda mission: section(mission).update(signing_key="keys/mine.pem"))
    refused = built.doit("provision", stdin=subprocess.DEVNULL)
    assert refused.status == 1
    assert "PREFLIGHT_SIGNING_PASSPHRASE" in refused.sentences
    said, status = on_terminal(built.command("provision"), ["wrong"])
    assert status == 1
    assert "wrong passphrase" in said
    said, status = on_terminal(built.command("provision"), [SECRET])
    assert status == 0, said
    assert said.count("Passphrase of") == 1
    assert said.index("Passphrase of") < said.index("manifest")
    assert SECRET not in said + b"".join(path.read_bytes() for path in built.work.rglob("*.json")).decode()
    assert built.takeoff().status == 0


def on_terminal(command, answers):
    """Run a program on a new terminal and type the answers. Returns what the terminal showed, and the exit status."""
    leader, follower = os.openpty()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFLIGHT_")}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=follower, stdout=follower, stderr=follower, start_new_session=True
    )
    os.close(follower)
    shown, left = b"", list(answers)
    try:
        while block := os.read(leader, 4096):
            shown += block
            # A prompt ends without a line feed. Input typed before the prompt is lost when the program turns off the
            # echo.
            if left and shown.endswith(b": "):
                os.write(leader, left.pop(0).encode() + b"\n")
    except OSError as error:
        if error.errno != errno.EIO:  # EIO: the last process has closed the terminal
            raise
    finally:
        os.close(leader)
    return shown.decode(), process.wait(timeout=60)


def test_a_mission_that_signs_on_this_machine_has_nothing_to_export(built):
    done = built.doit("sign", f"--export={built.folder / 'x'}")
    assert done.status == 1
    assert "set signing: offline" in done.sentences


# bundle


def test_a_cache_copied_to_a_card_passes_the_stand_alone_verifier(built, python_outside):
    card = built.folder / "card"
    done = built.doit("bundle", str(card), "log=json")
    assert done.status == 0, done.said
    (told,) = done.event("c10.bundle.complete")
    assert told["files"] == told["files_copied"]
    assert told["generation"] == built.generation.name
    moved = card.rename(built.folder / "aircraft")
    verdict = python_outside(
        [sys.executable, "-I", "-m", "takeoff", str(moved / "current"), "--trust", str(built.folder / "trust")]
    )
    assert verdict.status == 0, verdict.said
    subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=moved / "current", check=True)
    damaged = (moved / "current").resolve() / "descriptors.faiss"
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    again = built.doit("bundle", str(moved), f"--generation={built.generation.name}", "log=json")
    (told,) = again.event("c10.bundle.complete")
    assert told["files_copied"] == 1
    third = built.doit("bundle", str(moved))
    assert "files were there already" in third.out
    for arguments, why in (
        ((), "give one DIR"),
        ((str(built.cache / "x"),), "overlaps"),
        ((str(moved), "--generation=99"), "there is no generation 99"),
        ((str(moved), f"--trust={built.folder / 'none'}"), "the verifier refuses the copy"),
    ):
        refused = built.doit("bundle", *arguments)
        assert refused.status == 1
        assert why in refused.sentences
