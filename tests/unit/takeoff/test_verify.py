"""A good cache passes; each way to spoil one is refused with its own class, and all failures come at once."""

from __future__ import annotations

import datetime
import hashlib
import os
import socket
import threading
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

import takeoff
from takeoff import digest, errors, keys, manifest, names, policy, verify


def codes(result):
    return [(failure.code, failure.file) for failure in result.failures]


def test_a_good_cache_passes(cache, check, kit, private):
    result = check(cache)
    assert result.fail_reasons == ()
    assert (result.outcome, result.exit_status, result.manifest_hash_match) == ("pass", 0, True)
    assert result.per_artifact_hash_match == {Path(name): True for name in kit.CONTENT}
    assert result.takeoff_origin == (0.348, 32.59, 1190.0)
    assert result.flight_id == UUID("0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10")
    assert result.signer == keys.fingerprint(private.public_key().public_bytes_raw())
    result.raise_for_failure()


def test_no_takeoff_origin_and_no_flight(tmp_path, private, check, kit):
    made = kit.make_manifest()
    made = kit.make_manifest(identity=made.identity._replace(takeoff_origin=None, flight_id=None))
    result = check(kit.write_cache(tmp_path / "c", private, made))
    assert (result.outcome, result.takeoff_origin, result.flight_id) == ("pass", None, None)


def test_the_path_may_be_the_manifest_or_a_link_to_the_cache(cache, check, tmp_path, monkeypatch):
    (tmp_path / "current").symlink_to(cache)
    assert check(cache / "manifest.json").outcome == "pass"
    assert check(tmp_path / "current").root == str(cache)
    monkeypatch.chdir(cache)
    assert check("manifest.json").outcome == "pass"


def test_only_an_absent_manifest_raises(cache, check, tmp_path):
    (cache / "manifest.json").unlink()
    for path in (cache, tmp_path / "nowhere", tmp_path / "trust" / "operator.pem"):
        with pytest.raises(takeoff.ManifestNotFoundError):
            check(path)


def test_a_failed_cache_gives_no_origin_flight_or_bytes(cache, check):
    (cache / "camera.json").write_bytes(b"{}")
    result = check(cache)
    assert (result.outcome, result.takeoff_origin, result.flight_id, result.cache) == ("fail", None, None, None)
    assert result.per_artifact_hash_match[Path("camera.json")] is False
    assert result.per_artifact_hash_match[Path("index.faiss")] is True
    with pytest.raises(takeoff.ContentHashMismatchError, match="has 2 bytes, not 12") as caught:
        result.raise_for_failure()
    assert caught.value.failures == result.failures


FILES = ["camera.json", "index.faiss", "manifest.json", "manifest.dsse.json", "SHA256SUMS", "camera.json.sha256"]


def test_same_size_other_bytes(cache, check):
    path = cache / "index.faiss"
    path.write_bytes(path.read_bytes()[::-1])
    assert codes(check(cache)) == [("content_hash", "index.faiss")]


def test_missing_and_renamed_files(cache, check, kit):
    (cache / "camera.json").rename(cache / "Camera.json")
    (cache / "index.faiss.sha256").unlink()
    (cache / "SHA256SUMS").unlink()
    (cache / "manifest.dsse.json").unlink()
    (cache / kit.ENGINE).unlink()
    assert codes(check(cache)) == [
        ("file_missing", "SHA256SUMS"),
        ("file_missing", "camera.json"),
        ("file_missing", kit.ENGINE),
        ("file_missing", "manifest.dsse.json"),
        ("sidecar_missing", "index.faiss.sha256"),
        ("file_unlisted", "Camera.json"),
    ]


def test_a_missing_folder_and_unlisted_things(cache, check, kit, tmp_path):
    (cache / "engines").rename(tmp_path / "elsewhere")
    (cache / ".hidden").write_bytes(b"")
    (cache / "empty").mkdir()
    (cache / "empty" / "deep").mkdir()
    (cache / "bad\udcff").write_bytes(b"")
    unlisted = [file for code, file in codes(check(cache)) if code == "file_unlisted"]
    assert unlisted == [".hidden", "bad\\udcff", "empty"]


def _symlink(path, aside):
    path.rename(aside)
    path.symlink_to(aside)


def _socket(path, aside):
    path.rename(aside)
    folder = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_socket_is_no_file(cache, check, tmp_path, name):
    _socket(cache / name, tmp_path / "aside")
    assert ("file_kind", name) in codes(check(cache))


def test_a_linked_folder_is_not_followed(cache, check, tmp_path, kit):
    _symlink(cache / "engines", tmp_path / "aside")
    assert {("file_kind", kit.ENGINE), ("file_unlisted", "engines")} <= set(codes(check(cache)))


def test_a_file_in_place_of_a_folder(cache, check, tmp_path, kit):
    (cache / "engines").rename(tmp_path / "aside")
    (cache / "engines").write_bytes(b"")
    assert {("file_kind", kit.ENGINE), ("file_unlisted", "engines")} <= set(codes(check(cache)))


def test_an_unreadable_file(cache, check, monkeypatch, kit):
    """EIO from the disk, as a failing card gives it."""
    real_open, real_readv = os.open, os.readv
    bad: set[int] = set()

    def open_(path, flags, *rest, **options):
        if path == "index.faiss":
            raise PermissionError(13, "Permission denied")
        descriptor = real_open(path, flags, *rest, **options)
        if path == "camera.json":
            bad.add(descriptor)
        return descriptor

    def readv(descriptor, buffers):
        if descriptor in bad:
            bad.remove(descriptor)
            raise OSError(5, "Input/output error")
        return real_readv(descriptor, buffers)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "readv", readv)
    assert codes(check(cache)) == [("file_unreadable", "camera.json"), ("file_unreadable", "index.faiss")]


def test_a_read_error_in_a_sidecar(cache, check, monkeypatch):
    real = os.fdopen

    class Failing:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *exc):
            self.file.close()

        def read(self, size):
            raise OSError(5, "Input/output error")

    def fdopen(descriptor, *rest, **options):
        file = real(descriptor, *rest, **options)
        return Failing(file) if Path(f"/proc/self/fd/{descriptor}").resolve().name == "index.faiss.sha256" else file

    monkeypatch.setattr(os, "fdopen", fdopen)
    assert codes(check(cache)) == [("file_unreadable", "index.faiss.sha256")]


def test_a_folder_that_cannot_be_listed(cache, check, monkeypatch):
    real = os.scandir

    def scandir(folder):
        if Path(f"/proc/self/fd/{folder}").resolve() == cache:
            raise OSError(5, "Input/output error")
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    assert codes(check(cache)) == [("file_unreadable", ".")]


# Signatures and trust


def test_an_unknown_key(cache, check, kit):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    other = Ed25519PrivateKey.generate()
    (cache / "manifest.dsse.json").write_bytes(kit.sign(other, (cache / "manifest.json").read_bytes()))
    result = check(cache)
    assert codes(result) == [("key_unknown", "manifest.dsse.json")]
    assert result.signer is None


def test_a_revoked_key_is_refused_though_it_is_trusted(cache, check, trust, private):
    fingerprint = keys.fingerprint(private.public_key().public_bytes_raw())
    (trust / "revoked").write_text(f"# lost in the field\n\n{fingerprint.upper()}  # 2026-03-01\n")
    assert codes(check(cache)) == [("key_revoked", "manifest.dsse.json")]


def test_a_signature_over_other_bytes(cache, check, private, kit):
    (cache / "manifest.dsse.json").write_bytes(kit.sign(private, b"{}"))
    result = check(cache)
    assert codes(result) == [("signature", "manifest.json")]


def test_everything_wrong_is_reported_at_once_and_the_lowest_status_returned(cache, check, trust):
    (trust / "operator.pem").unlink()
    (cache / "camera.json").write_bytes(b"")
    (cache / "index.faiss.sha256").unlink()
    (cache / "new").write_bytes(b"")
    result = check(cache, now=lambda: 0)
    assert [code for code, _ in codes(result)] == [
        "trust",
        "sidecar_missing",
        "file_unlisted",
        "content_hash",
        "not_yet_valid",
    ]
    assert result.exit_status == 20
    with pytest.raises(errors.TrustError):
        result.raise_for_failure()


def test_trust_and_floor_inside_the_cache_are_refused(cache, check, trust, kit):
    made = cache / "trust"
    trust.rename(made)
    result = check(cache, trust=made, floor=cache / "floor")
    assert {("trust", str(made)), ("floor", str(cache / "floor"))} <= set(codes(result))


def test_a_manifest_whose_identity_does_not_hash_to_its_manifest_hash(tmp_path, private, check, kit):
    result = check(kit.write_cache(tmp_path / "c", private, kit.make_manifest(manifest_hash="ab" * 32)))
    assert codes(result) == [("manifest_hash", "manifest.json")]
    assert result.manifest_hash_match is False


def test_a_manifest_that_does_not_decode(tmp_path, private, check, kit):
    made = kit.make_manifest()
    data = manifest.encode(made).replace(b'"1.1"', b'"1.2"')
    result = check(kit.write_cache(tmp_path / "c", private, made, data))
    assert codes(result) == [("schema_version", "manifest.json")]
    assert result.manifest is None


# Policy


def test_a_dev_cache_needs_allow_dev(tmp_path, private, check, kit, trust):
    root = kit.write_cache(tmp_path / "c", private, kit.make_manifest(signing_mode="dev"))
    assert codes(check(root)) == [("dev_signed", "manifest.json")]
    (trust / "allow_dev").write_bytes(b"")
    assert check(root).outcome == "pass"


def test_the_clock_may_be_a_datetime_but_not_a_naive_one(cache, check, kit):
    aware = datetime.datetime.fromtimestamp(kit.NOW, datetime.timezone.utc)
    assert check(cache, now=lambda: aware).outcome == "pass"
    with pytest.raises(ValueError, match="time zone"):
        check(cache, now=lambda: aware.replace(tzinfo=None))


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(-1, "not_yet_valid"), (0, None), (30 * 86_400, None), (30 * 86_400 + 1, "expired")],
)
def test_the_validity_window_includes_both_ends(cache, check, kit, shift, expected):
    result = check(cache, now=lambda: kit.NOW - kit.DAY + shift)
    assert [code for code, _ in codes(result)] == ([expected] if expected else [])


def test_the_expected_flight(cache, check):
    assert check(cache, expect=policy.Expectations("0B6CF8C6-3a0e-4a55-9b0e-0a2a2a6d7f10")).outcome == "pass"
    other = policy.Expectations("11111111-3a0e-4a55-9b0e-0a2a2a6d7f10")
    result = check(cache, expect=other)
    assert codes(result) == [("flight", "manifest.json")]
    assert "is for flight 0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10, not 11111111" in result.fail_reasons[0]


def test_an_expected_flight_and_a_cache_for_none(tmp_path, private, check, kit):
    made = kit.make_manifest(identity=kit.make_manifest().identity._replace(flight_id=None))
    root = kit.write_cache(tmp_path / "c", private, made)
    result = check(root, expect=policy.Expectations("0b6cf8c6-3a0e-4a55-9b0e-0a2a2a6d7f10"))
    assert codes(result) == [("flight", "manifest.json")]
    assert "is for flight none, not 0b6cf8c6" in result.fail_reasons[0]


@pytest.mark.parametrize(
    ("position", "inside"),
    [
        ((0.346, 32.588), True),
        ((0.352, 32.6), True),
        ((0.3459, 32.59), False),
        ((0.3521, 32.59), False),
        ((0.35, 32.5879), False),
        ((0.35, 32.6001), False),
        ((float("nan"), 32.59), False),
    ],
)
def test_the_expected_position(cache, check, position, inside):
    result = check(cache, expect=policy.Expectations(None, position))
    assert codes(result) == ([] if inside else [("position", "manifest.json")])


def test_the_floor_moves_only_when_everything_passed(cache, check, tmp_path, kit, private):
    floor = tmp_path / "floor.json"
    (cache / "extra").write_bytes(b"")
    assert check(cache, floor=floor).outcome == "fail"
    assert not floor.exists()
    (cache / "extra").unlink()
    assert check(cache, floor=floor).outcome == "pass"
    moved = floor.read_bytes()
    assert moved == b'{"issued_at":%d,"last_seen":%d}' % (kit.NOW - kit.DAY, kit.NOW)
    before = floor.stat()
    assert check(cache, floor=floor).outcome == "pass"
    assert floor.stat().st_ino == before.st_ino  # nothing changed, nothing written
    old = kit.write_cache(tmp_path / "old", private, kit.make_manifest(issued_at=kit.NOW - kit.DAY - 1))
    assert codes(check(old, floor=floor)) == [("rollback", "manifest.json")]
    assert floor.read_bytes() == moved


def test_a_clock_behind_the_last_time_seen_is_not_trusted(cache, check, tmp_path, kit):
    floor = tmp_path / "floor.json"
    assert check(cache, floor=floor).outcome == "pass"
    result = check(cache, floor=floor, now=lambda: kit.NOW - 1)
    assert [code for code, _ in codes(result)] == ["clock_untrusted"]


def test_a_cache_issued_ahead_of_the_clock_passes_again(tmp_path, private, check, kit):
    """Several builds within one second, or a workstation whose clock was wrong."""
    floor = tmp_path / "floor.json"
    root = kit.write_cache(tmp_path / "c", private, kit.make_manifest(issued_at=kit.NOW + kit.DAY))
    for later in (0, 0, 1, kit.DAY):
        assert check(root, floor=floor, now=lambda later=later: kit.NOW + later).outcome == "pass"
    result = check(root, floor=floor, now=lambda: kit.NOW + kit.DAY - 1)
    assert [code for code, _ in codes(result)] == ["clock_untrusted"]


moments = st.integers(0, 40)


@given(moments, moments, st.none() | st.builds(policy.Floor, moments, moments), moments, moments)
def test_what_passed_passes_again_with_a_later_clock(kit, issued_at, valid_until, floor, now, later):
    made = kit.make_manifest(issued_at=issued_at, valid_from=0, valid_until=valid_until)

    def judge(floor, now):
        found = policy.check(made, now=now, floor=floor, expect=policy.Expectations(), allow_dev=False)
        return [failure.code for failure in found]

    first = judge(floor, now)
    assert ("clock_untrusted" in first) == (floor is not None and now < floor.last_seen)
    assert ("rollback" in first) == (floor is not None and issued_at < floor.issued_at)
    if not first:
        moved = policy.raise_floor(floor, made, now)
        assert judge(moved, now + later) == (["expired"] if now + later > valid_until else [])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"17",
        b'{"issued_at":1}',
        b'{"issued_at":1,"last_seen":1,"more":1}',
        b'{"issued_at":true,"last_seen":1}',
        b'{"issued_at":1,"last_seen":"1"}',
        b'{"issued_at":1,"last_seen":1}\n',
        b" " * 2000,
    ],
)
def test_a_damaged_floor_refuses_and_stays(cache, check, tmp_path, content):
    floor = tmp_path / "floor.json"
    floor.write_bytes(content)
    assert codes(check(cache, floor=floor)) == [("floor", str(floor))]
    assert floor.read_bytes() == content


def test_a_floor_that_cannot_be_read_or_moved_refuses(cache, check, tmp_path):
    (tmp_path / "folder").mkdir()
    assert codes(check(cache, floor=tmp_path / "folder")) == [("floor", str(tmp_path / "folder"))]
    absent = tmp_path / "absent" / "floor.json"
    assert codes(check(cache, floor=absent)) == [("floor", str(absent))]


# Modes


def test_a_mode_is_chosen_explicitly(trust):
    with pytest.raises(ValueError, match="tile store"):
        takeoff.ManifestVerifier(trust=trust, now=lambda: 0, mode="operator")
    with pytest.raises(ValueError, match="not one of"):
        takeoff.ManifestVerifier(trust=trust, now=lambda: 0, mode="Airborne")


def test_operator_mode_recomputes_the_aggregate(cache, check, kit):
    assert check(cache, mode="operator", tiles=reversed(kit.TILES)).outcome == "pass"
    assert (
        check(cache, mode="operator", tiles=lambda made: kit.TILES[: made.identity.corpus.tile_count]).exit_status == 0
    )
    for tiles in (kit.TILES[:1], [], [*kit.TILES, (20, 1.0, 1.0, "oam", "cc" * 32)], [kit.TILES[0]] * 2):
        assert codes(check(cache, mode="operator", tiles=tiles)) == [("tile_drift", "manifest.json")]


def test_airborne_mode_ignores_tiles(cache, check):
    assert check(cache, tiles=[]).outcome == "pass"


def test_one_verifier_judges_many_times(cache, trust, kit):
    verifier = takeoff.ManifestVerifier(
        trust=trust, now=lambda: kit.NOW, mode="operator", tiles=lambda made: iter(kit.TILES)
    )
    assert [verifier.verify_manifest(cache).outcome for _ in range(2)] == ["pass", "pass"]


# Verified bytes


def test_a_verified_cache_hands_out_what_was_hashed(cache, check, kit):
    verified = check(cache).cache
    assert verified.read_bytes("camera.json") == kit.CONTENT["camera.json"]
    with verified.open(kit.ENGINE) as file:
        # Swapped after opening: the descriptor still gives the verified bytes.
        (cache / "other").write_bytes(b"evil")
        (cache / "other").replace(cache / kit.ENGINE)
        assert file.read() == kit.CONTENT[kit.ENGINE]
    for take in (verified.open, verified.read_bytes):
        with pytest.raises(takeoff.ContentHashMismatchError):
            take(kit.ENGINE)
        with pytest.raises(KeyError):
            take("manifest.json")


def test_a_file_that_changes_while_it_is_read(cache, check, monkeypatch):
    verified = check(cache).cache
    real = digest.sha256_descriptor

    def then_written(descriptor):
        result = real(descriptor)
        (cache / "camera.json").write_bytes(b"evil")
        return result

    monkeypatch.setattr(digest, "sha256_descriptor", then_written)
    with pytest.raises(takeoff.ContentHashMismatchError):
        verified.read_bytes("camera.json")


# Digest


def test_the_largest_comes_first_and_two_threads_work():
    order: list[str] = []
    meet = threading.Barrier(2, timeout=30)

    def work(name: str) -> digest.Steps[str]:
        order.append(name)
        if name in ("a", "b"):
            meet.wait()  # passes only when two threads are here at once
        yield 1
        return name * 2

    assert digest.largest_first({"c": 1, "a": 300, "b": 200}, work) == {"a": "aa", "b": "bb", "c": "cc"}
    assert sorted(order[:2]) == ["a", "b"]
    assert digest.largest_first({}, work) == {}


@pytest.mark.parametrize(
    "sizes", [{"a": 4, "b": 4, "c": 4}, {"a": 6, "b": 2, "c": 2, "d": 2}, {"a": 5, "b": 4, "c": 3}]
)
def test_two_threads_share_the_work_to_its_end(sizes):
    """Of three equal files none is left to one thread: each step waits until both threads have one."""
    meet = threading.Barrier(2, timeout=30)

    def work(name: str) -> digest.Steps[int]:
        for _ in range(sizes[name]):
            meet.wait()
            yield 1
        return sizes[name]

    assert digest.largest_first(sizes, work) == sizes


def test_few_files_lie_open_at_once():
    """Those larger than 1/64 of all alone can be laid down, and one small file in each thread's hands."""
    open_now: set[str] = set()
    most = 0

    def work(name: str) -> digest.Steps[None]:
        nonlocal most
        open_now.add(name)
        most = max(most, len(open_now))
        yield from [1] * sizes[name]
        open_now.discard(name)

    for sizes in ({str(number): 70 for number in range(60)}, {str(number): 8 for number in range(1000)}):
        most = 0
        digest.largest_first(sizes, work)
        assert not open_now
        assert most <= 65
    assert most <= 2  # of a thousand equal files none is laid down


def test_what_the_work_raises_is_raised_in_whichever_thread():
    caller = threading.get_ident()
    meet = threading.Barrier(2, timeout=30)

    def work(helper_fails: bool) -> digest.Steps[None]:
        meet.wait()
        if (threading.get_ident() != caller) == helper_fails:
            raise LookupError("here")
        yield 1

    for helper_fails in (True, False):
        with pytest.raises(LookupError):
            digest.largest_first({"a": 1, "b": 1}, lambda _, fails=helper_fails: work(fails))


def test_an_index_error_of_the_work_is_not_taken_for_the_end():
    def work(name: str) -> digest.Steps[str]:
        yield 1
        return name[5]

    with pytest.raises(IndexError):
        digest.largest_first({"a": 1, "b": 1}, work)


def test_after_a_failure_no_more_work_is_begun():
    caller = threading.get_ident()
    helpers: list[threading.Thread] = []
    begun = threading.Event()
    done: list[str] = []

    def work(name: str) -> digest.Steps[None]:
        if threading.get_ident() != caller:
            helpers.append(threading.current_thread())
            begun.set()
            raise LookupError(name)
        assert begun.wait(30)
        helpers[0].join()
        done.append(name)
        yield 1

    with pytest.raises(LookupError):
        digest.largest_first({"a": 3, "b": 2, "c": 1}, work)
    assert len(done) <= 1  # of the two that the helper left


def test_a_large_file_is_read_to_its_end(tmp_path):
    data = bytes(range(256)) * 4096
    (tmp_path / "f").write_bytes(data)
    with (tmp_path / "f").open("rb") as file:
        assert digest.sha256_descriptor(file.fileno()) == hashlib.sha256(data).hexdigest()
        file.seek(0)
        assert list(digest.sha256_steps(file.fileno())) == [digest.CHUNK_BYTES] * 4  # it can be laid down after each


@pytest.mark.parametrize("more", [1, digest.CHUNK_BYTES, 50 * 2**30])
def test_a_file_that_grows_while_it_is_read_has_another_digest_soon(tmp_path, more):
    data = bytes(range(256)) * 4096
    path = tmp_path / "f"
    path.write_bytes(data)
    with path.open("rb") as file:
        steps = digest.sha256_steps(file.fileno())
        read = next(steps)
        os.truncate(path, len(data) + more)
        with pytest.raises(StopIteration) as ended:  # noqa: PT012 - the last of them raises
            while True:
                read += next(steps)
    assert len(data) < read <= len(data) + digest.CHUNK_BYTES
    assert ended.value.value != hashlib.sha256(data).hexdigest()


# The package's face


def test_the_package_names_are_lazy_and_exact():
    assert {name: getattr(takeoff, name).__name__ for name in takeoff.__all__} == {
        name: name for name in takeoff.__all__
    }
    assert takeoff.verify_manifest is verify.verify_manifest
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = takeoff.nothing_such
    assert names.MANIFEST == "manifest.json"


def test_each_class_of_failure_has_its_own_status_code_and_a_short_text():
    kinds = errors.VerificationError.__subclasses__()
    assert len({kind.exit_status for kind in kinds}) == len({kind.code for kind in kinds}) == len(kinds)
    for kind in kinds:
        assert 16 <= kind.exit_status < 64
        assert len(kind.statustext.encode("ascii")) <= 50
        assert kind.statustext.startswith("CACHE REFUSED: ")
    assert str(errors.TrustError("is empty")) == "[trust] is empty"


def test_each_class_of_failure_has_its_own_remedy():
    """`doit provision` is named where it mends something, and nowhere else."""
    kinds = {kind.code: kind for kind in errors.VerificationError.__subclasses__()}
    for kind in kinds.values():
        assert kind.remedy.isascii()
        assert 0 < len(kind.remedy) <= 120
        assert kind.remedy == kind.remedy.strip("; ")
    not_mended = {"crashed", "timeout", "usage", "trust", "key_unknown", "dev_signed", "clock_untrusted", "rollback"}
    not_mended |= {"floor", "flight", "position", "host"}
    assert {code for code, kind in kinds.items() if "doit provision" not in kind.remedy} == not_mended
    assert all(
        "trust directory" in kinds[code].remedy for code in ("trust", "key_revoked", "key_unknown", "dev_signed")
    )
    assert all("clock" in kinds[code].remedy for code in ("clock_untrusted", "not_yet_valid", "expired"))
    assert all("another mission's cache" in kinds[code].remedy for code in ("flight", "position"))


def test_the_document_lists_every_status():
    document = (Path(__file__).parents[3] / "docs" / "manifest-format.md").read_text()
    for kind in errors.VerificationError.__subclasses__():
        text = kind.statustext.removeprefix("CACHE REFUSED: ")
        assert (
            f"| {kind.exit_status} | `{kind.code}` | {text} | {kind.__doc__.splitlines()[0]} | {kind.remedy} |"
            in document
        )


def test_the_verifier_can_be_read_in_one_sitting(lines_of_code):
    modules = list(Path(verify.__file__).parent.glob("*.py"))
    assert len(modules) >= 15
    assert sum(lines_of_code(module.read_text()) for module in modules) <= 1225
