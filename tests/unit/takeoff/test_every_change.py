"""Every file of a small cache, changed in every way a disk, a person or an attacker changes it: refused, with its class."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import takeoff
from takeoff import errors, keys, manifest, verify
from takeoff.names import ENVELOPE, MANIFEST

SUBJECTS = ["camera.json", "index.faiss", "ENGINE"]
FILES = [
    *SUBJECTS,
    *(f"{name}.sha256" for name in SUBJECTS),
    "manifest.json",
    "manifest.json.sha256",
    "manifest.dsse.json",
    "SHA256SUMS",
]


def codes(result):
    return [(failure.code, failure.file) for failure in result.failures]


def changed_code(name):
    """The class of a file whose bytes are others."""
    if name == "manifest.dsse.json":
        return "envelope"
    return "sidecar" if name == "SHA256SUMS" or name.endswith(".sha256") else "content_hash"


def missing_code(name):
    return "sidecar_missing" if name.endswith(".sha256") else "file_missing"


@pytest.fixture
def named(kit):
    return lambda name: name.replace("ENGINE", kit.ENGINE)


def test_every_file_is_tried(cache, named):
    found = {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()}
    assert found == {named(name) for name in FILES}


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


@pytest.mark.parametrize("name", [name for name in FILES if changed_code(name) == "sidecar"] + ["camera.json"])
def test_every_flipped_byte_of_a_file_the_manifest_determines(cache, check, named, name):
    name = named(name)
    path = cache / name
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(flipped(good, place))
        assert codes(check(cache)) == [(changed_code(name), name)], place
    path.write_bytes(good)
    assert check(cache).outcome == "pass"


def signature_codes(signed, sealed, trust):
    """What the verifier says of these bytes of manifest.json and of the envelope, without the other files."""
    failures = []
    disk = SimpleNamespace(read=lambda name, limit: sealed)
    signer = verify._collect(failures, lambda: verify._check_signature(disk, signed, trust, failures))
    assert failures or signer is not None
    return [(failure.code, failure.file) for failure in failures]


def test_every_flipped_byte_of_the_envelope(cache, trust):
    signed, sealed, keyring = (cache / MANIFEST).read_bytes(), (cache / ENVELOPE).read_bytes(), keys.load_trust(trust)
    assert signature_codes(signed, sealed, keyring) == []
    seen = set()
    for place in range(len(sealed)):
        found = signature_codes(signed, flipped(sealed, place), keyring)
        # Another payload is neither manifest.json nor what the signature is over.
        assert found in (
            [("envelope", ENVELOPE)],
            [("signature", ENVELOPE)],
            [("signature", MANIFEST), ("signature", ENVELOPE)],
            [("key_unknown", ENVELOPE)],
        ), (place, found)
        seen.update(code for code, _ in found)
    assert seen == {"envelope", "signature", "key_unknown"}


def test_every_flipped_byte_of_the_manifest(cache, trust):
    signed, sealed, keyring = (cache / MANIFEST).read_bytes(), (cache / ENVELOPE).read_bytes(), keys.load_trust(trust)
    for place in range(len(signed)):
        other = flipped(signed, place)
        assert signature_codes(other, sealed, keyring) == [("signature", MANIFEST)], place
        with contextlib.suppress(errors.ManifestFormatError, errors.SchemaVersionError):
            assert manifest.decode(other) != manifest.decode(signed)


@pytest.mark.parametrize("name", [MANIFEST, ENVELOPE])
def test_flipped_bytes_in_a_whole_verification(cache, check, name):
    path = cache / name
    good = path.read_bytes()
    for place in range(0, len(good), 37):
        path.write_bytes(flipped(good, place))
        assert codes(check(cache))[0][0] in ("envelope", "signature", "key_unknown"), place
    path.write_bytes(good)
    assert check(cache).outcome == "pass"


def lengths(size):
    return sorted({0, 1, size // 2, size - 1})


@pytest.mark.parametrize("name", FILES)
def test_truncated_and_extended(cache, check, named, name):
    name = named(name)
    path = cache / name
    good = path.read_bytes()
    for data in [good[:length] for length in lengths(len(good))] + [good + b"\n", good + b"\0" * 5000, good + good]:
        path.write_bytes(data)
        if name == "manifest.json":
            assert codes(check(cache)) == [("signature", name), ("manifest_format", name)]
        else:
            assert codes(check(cache)) == [(changed_code(name), name)]


@pytest.mark.parametrize("name", FILES)
def test_removed_and_renamed(cache, check, named, name):
    name = named(name)
    path = cache / name
    path.rename(cache / "renamed")
    if name == "manifest.json":
        with pytest.raises(takeoff.ManifestNotFoundError):
            check(cache)
        return
    assert codes(check(cache)) == [(missing_code(name), name), ("file_unlisted", "renamed")]
    (cache / "renamed").unlink()
    assert codes(check(cache)) == [(missing_code(name), name)]
    # Another case is another name, also for a file system that would find it.
    path.with_name(path.name.swapcase()).write_bytes(b"")
    assert codes(check(cache))[0] == (missing_code(name), name)


def test_swapped_with_every_other(cache, check, named):
    for one, other in itertools.combinations(map(named, FILES), 2):
        a, b = cache / one, cache / other
        first, second = a.read_bytes(), b.read_bytes()
        a.write_bytes(second)
        b.write_bytes(first)
        found = codes(check(cache))
        if MANIFEST in (one, other):
            # What is no manifest determines nothing about the others.
            broken = ("envelope", ENVELOPE) if ENVELOPE in (one, other) else ("signature", MANIFEST)
            assert found == [broken, ("manifest_format", MANIFEST)]
        else:
            assert sorted(found) == sorted((changed_code(name), name) for name in (one, other))
        a.write_bytes(first)
        b.write_bytes(second)
    assert check(cache).outcome == "pass"


def links_to_the_same_bytes(path, aside):
    path.rename(aside)
    path.symlink_to(aside)


def links_to_itself(path, aside):
    path.unlink()
    path.symlink_to(path.name)


def links_to_nothing(path, aside):
    path.unlink()
    path.symlink_to("nothing")


def fifo(path, aside):
    path.unlink()
    os.mkfifo(path)


def directory(path, aside):
    path.unlink()
    path.mkdir()


def directory_with_itself(path, aside):
    path.rename(aside)
    path.mkdir()
    aside.rename(path / path.name)


REPLACED = [links_to_the_same_bytes, links_to_itself, links_to_nothing, fifo, directory, directory_with_itself]


@pytest.mark.parametrize("replace", REPLACED)
@pytest.mark.parametrize("name", FILES)
def test_replaced_by_what_is_no_regular_file(cache, check, tmp_path, named, name, replace):
    name = named(name)
    replace(cache / name, tmp_path / "aside")
    found = codes(check(cache))
    assert found == [("file_kind", name)] or (name == "manifest.json" and found[0] == ("file_kind", name))


def test_a_hard_link_is_as_good_as_a_copy(cache, check, tmp_path):
    """Generations share their unchanged files: what counts is the bytes."""
    path = cache / "camera.json"
    path.rename(tmp_path / "elsewhere")
    path.hardlink_to(tmp_path / "elsewhere")
    assert check(cache).outcome == "pass"


@pytest.mark.parametrize("folder", ["", "engines/"])
@pytest.mark.parametrize("name", ["zz", ".hidden", "a b", "é", "x\ny", "core", "camera.json~", "lost+found"])
def test_added(cache, check, folder, name):
    (cache / f"{folder}{name}").write_bytes(b"")
    shown = f"{folder}{name}".encode("unicode_escape").decode()
    assert codes(check(cache)) == [("file_unlisted", shown)]


def test_a_whole_cache_within_a_cache(cache, check, tmp_path):
    shutil.copytree(cache, tmp_path / "copy")
    (tmp_path / "copy").rename(cache / "copy")
    assert codes(check(cache)) == [("file_unlisted", "copy")]


def test_two_good_caches_mixed(tmp_path, cache, check, private, kit):
    """Each of another generation's files is right there and wrong here."""
    other = kit.write_cache(tmp_path / "other", private, kit.make_manifest(generation=2))
    for name in ("manifest.json", "manifest.dsse.json", "manifest.json.sha256", "SHA256SUMS"):
        good = (cache / name).read_bytes()
        (cache / name).write_bytes((other / name).read_bytes())
        found = codes(check(cache))
        assert found, name
        assert {code for code, _ in found} <= {"signature", "sidecar"}
        (cache / name).write_bytes(good)
    assert check(cache).outcome == check(other).outcome == "pass"


def test_a_warm_reboot_reads_every_byte_again(cache, check, tmp_path):
    """F8: nothing of an earlier pass is kept, and times of files are not believed."""
    floor = tmp_path / "floor"
    assert check(cache, floor=floor).outcome == "pass"
    for name in ("index.faiss", "camera.json", "index.faiss.sha256"):
        path = cache / name
        before, good = path.stat(), path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        after = path.stat()
        assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
        assert codes(check(cache, floor=floor)) == [(changed_code(name), name)]
        path.write_bytes(good)
    assert check(cache, floor=floor).outcome == "pass"


def test_a_warm_reboot_opens_every_file_again(cache, check, monkeypatch, kit):
    opened: list[str] = []
    real = os.open

    def open_(path, *rest, **options):
        opened.append(os.fspath(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "open", open_)
    for _ in range(2):
        opened.clear()
        assert check(cache).outcome == "pass"
        assert {Path(kit.ENGINE).name, "camera.json", "index.faiss", "SHA256SUMS"} <= set(opened)
