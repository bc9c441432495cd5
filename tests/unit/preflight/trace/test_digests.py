from __future__ import annotations

import hashlib
import os
import sqlite3

import pytest

from preflight.trace import digests
from preflight.trace.digests import CHUNK, SETTLE_NS, DigestCache, hash_file, signature

LONG_AGO_NS = 10**9
NULLED = """CREATE TABLE n AS SELECT NULL AS device, inode, size, mtime_ns, ctime_ns, sha256 FROM digests;
DROP TABLE digests; ALTER TABLE n RENAME TO digests"""


def hashes(cache, path):
    """Returns how many files the cache hashes for this query."""
    before = cache.hashed_files
    cache.sha256(path)
    return cache.hashed_files - before


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class FakeClock:
    """A fake clock and a fake sleep. Each sleep advances the clock."""

    def __init__(self, now):
        self.now = now
        self.slept = []

    def wall_ns(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += int(seconds * 1e9)


@pytest.fixture
def database(tmp_path):
    return tmp_path / "work" / "digests.db"


@pytest.fixture
def open_cache(database):
    """Opens the cache as a later run does, long after every file was written."""

    def open_(**options):
        return DigestCache(database, **{"wall_ns": lambda: 1 << 62, **options})

    return open_


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    return path


def test_hash_file_reads_every_byte(tmp_path):
    for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK):
        content = os.urandom(size)
        (tmp_path / "x").write_bytes(content)
        assert hash_file(tmp_path / "x") == sha256(content)


def test_a_missing_file_raises(open_cache, tmp_path):
    for read in (open_cache().sha256, hash_file, signature):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "none")


def test_a_file_is_hashed_once_in_a_run_and_not_again_in_the_next(open_cache, file):
    cache = open_cache()
    assert cache.sha256(file) == cache.sha256(file) == sha256(b"one")
    assert (cache.hashed_files, cache.hashed_bytes) == (1, 3)
    cache.flush()
    later = open_cache()
    assert later.sha256(file) == sha256(b"one")
    assert later.hashed_files == 0


def test_an_edit_of_equal_size_with_restored_mtime_is_detected(open_cache, file):
    cache = open_cache()
    cache.sha256(file)
    cache.flush()
    before = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    later = open_cache()
    assert later.sha256(file) == sha256(b"two")
    assert later.hashed_files == 1


def test_replacing_the_file_by_another_is_detected(open_cache, file, tmp_path):
    cache = open_cache()
    cache.sha256(file)
    other = tmp_path / "other"
    other.write_bytes(b"two")
    other.replace(file)
    assert cache.sha256(file) == sha256(b"two")


def test_a_touched_file_is_hashed_once_more(open_cache, file):
    first = open_cache()
    first.sha256(file)
    first.flush()
    os.utime(file, ns=(LONG_AGO_NS, LONG_AGO_NS))
    second = open_cache()
    second.sha256(file)
    second.flush()
    third = open_cache()
    third.sha256(file)
    assert (second.hashed_files, third.hashed_files) == (1, 0)


def test_a_link_to_a_file_shares_its_digest(open_cache, file, tmp_path):
    cache = open_cache()
    cache.sha256(file)
    (tmp_path / "link").symlink_to(file)
    cache.sha256(tmp_path / "link")
    assert cache.hashed_files == 1


def test_reading_digests_writes_nothing(open_cache, database, file):
    open_cache().sha256(file)
    assert not database.parent.exists()
    open_cache().flush()
    assert not database.parent.exists()


def test_a_cache_without_a_database_works_in_memory(file):
    cache = DigestCache(None, wall_ns=lambda: 1 << 62)
    assert cache.sha256(file) == sha256(b"one")
    cache.flush()
    assert hashes(cache, file) == 0


def test_a_deleted_database_means_hashing_once_more(open_cache, database, file):
    cache = open_cache()
    cache.sha256(file)
    cache.flush()
    database.unlink()
    later = open_cache()
    assert later.sha256(file) == sha256(b"one")
    assert later.hashed_files == 1
    later.flush()
    assert hashes(open_cache(), file) == 0


@pytest.mark.parametrize("damage", ["text", "empty", "half", "a page of zeros", "other table", "cut"])
def test_a_damaged_database_means_hashing_once_more_and_is_replaced(open_cache, database, file, damage):
    cache = open_cache()
    cache.sha256(file)
    cache.flush()
    content = database.read_bytes()
    if damage == "other table":
        database.unlink()
        connection = sqlite3.connect(database)
        connection.execute("CREATE TABLE other (a)")
        connection.close()
    else:
        database.write_bytes(
            {
                "text": b"this is not a database" * 100,
                "empty": b"",
                "half": content[: len(content) // 2],
                "a page of zeros": content[:100] + bytes(4096) + content[4196:],
                "cut": content[:50],
            }[damage]
        )
    later = open_cache()
    assert later.sha256(file) == sha256(b"one")
    assert later.hashed_files == 1
    later.flush()
    last = open_cache()
    assert last.sha256(file) == sha256(b"one")
    assert last.hashed_files == 0


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE digests SET size = 'three'",
        NULLED,
        "UPDATE digests SET mtime_ns = 1.5",
        "UPDATE digests SET sha256 = 'short'",
        "UPDATE digests SET sha256 = CAST(x'ff' AS TEXT)",
        "DROP TABLE digests; CREATE TABLE digests (a)",
        "DROP TABLE digests; CREATE TABLE digests (a, b, c, d, e, f)",
        "DROP TABLE digests; CREATE VIEW digests AS SELECT 1 AS device",
        "CREATE TRIGGER no BEFORE INSERT ON digests BEGIN SELECT RAISE(ABORT, 'no'); END; UPDATE digests SET size = 0",
    ],
)
def test_a_database_with_foreign_content_is_replaced(open_cache, database, file, tmp_path, damage):
    kept = tmp_path / "kept"
    kept.write_bytes(b"kept")
    cache = open_cache()
    cache.sha256(kept)
    cache.sha256(file)
    cache.flush()
    connection = sqlite3.connect(database)
    connection.executescript(damage)
    connection.close()
    file.write_bytes(b"two")
    later = open_cache()
    assert later.sha256(file) == sha256(b"two")
    later.flush()
    last = open_cache()
    assert hashes(last, file) == 0
    assert last.sha256(kept) == sha256(b"kept")


def test_a_locked_database_raises_os_error_and_is_not_replaced(monkeypatch, open_cache, database, file):
    cache = open_cache()
    cache.sha256(file)
    cache.flush()
    file.write_bytes(b"two")
    later = open_cache()
    later.sha256(file)
    connect = sqlite3.connect
    monkeypatch.setattr(digests.sqlite3, "connect", lambda *path, **more: connect(*path, **{**more, "timeout": 0}))
    holder = connect(database)
    try:
        holder.execute("BEGIN IMMEDIATE")
        inode = database.stat().st_ino
        with pytest.raises(OSError, match="locked"):
            later.flush()
        assert database.stat().st_ino == inode
    finally:
        holder.close()


def test_a_database_that_cannot_be_written_raises_os_error(database, file):
    database.mkdir(parents=True)
    cache = DigestCache(database, wall_ns=lambda: 1 << 62)
    cache.sha256(file)
    with pytest.raises(OSError, match=r"digests\.db"):
        cache.flush()


@pytest.mark.parametrize("name", ["a?b", "a#b", "100%25", "a b"])
def test_a_folder_with_url_characters_in_its_name_can_hold_the_cache(tmp_path, file, name):
    database = tmp_path / name / "digests.db"
    cache = DigestCache(database, wall_ns=lambda: 1 << 62)
    cache.sha256(file)
    cache.flush()
    assert hashes(DigestCache(database), file) == 0


def test_distrust_hashes_every_file_once_more_and_keeps_the_new_digests(open_cache, file):
    cache = open_cache()
    cache.sha256(file)
    cache.flush()
    repairing = open_cache()
    repairing.distrust()
    assert repairing.sha256(file) == repairing.sha256(file) == sha256(b"one")
    assert repairing.hashed_files == 1
    assert hashes(repairing, file) == 0
    repairing.flush()
    assert repairing.sha256(file) == sha256(b"one")
    assert repairing.hashed_files == 1


def test_distrust_finds_a_change_that_did_not_change_the_signature(open_cache, database, file):
    """Such as a bit that the disk flipped."""
    cache = open_cache()
    cache.adopt(file, sha256(b"the earlier content"))
    cache.flush()
    assert open_cache().sha256(file) == sha256(b"the earlier content")
    repairing = open_cache()
    repairing.distrust()
    assert repairing.sha256(file) == sha256(b"one")
    repairing.flush()
    assert open_cache().sha256(file) == sha256(b"one")


def test_an_adopted_digest_is_used_until_the_file_changes(open_cache, file):
    cache = open_cache()
    cache.adopt(file, "f" * 64)
    assert cache.sha256(file) == "f" * 64
    assert cache.hashed_files == 0
    file.write_bytes(b"other")
    assert cache.sha256(file) == sha256(b"other")


def test_a_file_that_changes_while_it_is_hashed_is_hashed_again(monkeypatch, file):
    contents = [b"two", b"three"]

    def hash_and_change(path):
        digest = hash_file(path)
        if contents:
            path.write_bytes(contents.pop(0))
        return digest

    monkeypatch.setattr(digests, "hash_file", hash_and_change)
    clock = FakeClock(1 << 62)
    cache = DigestCache(None, wall_ns=clock.wall_ns, sleep=clock.sleep)
    assert cache.sha256(file) == sha256(b"three")
    assert cache.hashed_files == 3


@pytest.mark.parametrize(("age_ns", "sleeps"), [(0, 1), (SETTLE_NS - 1, 1), (SETTLE_NS, 0), (10**12, 0), (-1, 0)])
def test_a_file_just_written_is_hashed_only_after_a_clock_tick(file, age_ns, sleeps):
    clock = FakeClock(file.stat().st_ctime_ns + age_ns)
    cache = DigestCache(None, wall_ns=clock.wall_ns, sleep=clock.sleep)
    assert cache.sha256(file) == sha256(b"one")
    assert clock.slept == [SETTLE_NS / 1e9] * sleeps


def test_hashing_again_after_a_change_also_waits_for_a_clock_tick(monkeypatch, file):
    """The second hashing starts only after the tick of the change has passed."""
    clock = FakeClock(1 << 62)

    def hash_and_change(path):
        digest = hash_file(path)
        if clock.now == 1 << 62:
            path.write_bytes(b"two")
            clock.now = path.stat().st_ctime_ns
        return digest

    monkeypatch.setattr(digests, "hash_file", hash_and_change)
    cache = DigestCache(None, wall_ns=clock.wall_ns, sleep=clock.sleep)
    assert cache.sha256(file) == sha256(b"two")
    assert clock.slept == [SETTLE_NS / 1e9]


def test_device_and_inode_numbers_above_63_bits_are_stored(monkeypatch, open_cache, file):
    huge = ((1 << 64) - 1, (1 << 63) + 5, 3, 1, 1)
    monkeypatch.setattr(digests, "signature", lambda path: huge)
    cache = open_cache()
    cache.sha256(file)
    cache.flush()
    assert hashes(open_cache(), file) == 0
