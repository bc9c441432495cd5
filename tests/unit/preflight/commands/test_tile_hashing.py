"""Two processes hash tile files.

Either of them accepts only a regular file with the signed content at its exact path.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preflight.commands import tile_hashing
from preflight.commands.tile_hashing import TwoProcesses, unverified

SIZES = [0, 1, 20_000, 2**18 - 1, 2**18, 2**18 + 1, 2**19, 2**19 + 5]


def content_of(number):
    return bytes([number % 251]) * SIZES[number % len(SIZES)]


def stored(root, count):
    """Write files, each in its own folder. Return their paths and digests."""
    paths = [f"objects/{number:03}/{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content_of(number))
    return paths, "".join(hashlib.sha256(content_of(number)).hexdigest() for number in range(count))


def remove(path):
    path.unlink()


def change(path):
    content = bytearray(path.read_bytes() or b"x")
    content[-1] ^= 1
    path.write_bytes(content)


def lengthen(path):
    with path.open("ab") as file:
        file.write(b"\0")


def make_link(path):
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def make_folder(path):
    path.unlink()
    path.mkdir()


def make_pipe(path):
    path.unlink()
    os.mkfifo(path)


def make_socket(path):
    path.unlink()
    os.mknod(path, 0o140644)  # a socket, like the one that a listening program leaves behind


def link_folder(path):
    path.parent.rename(path.parent.with_suffix(".moved"))
    path.parent.symlink_to(path.parent.with_suffix(".moved"))


SPOIL = [remove, change, lengthen, make_link, make_folder, make_pipe, make_socket, link_folder]


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(0, 23), st.sampled_from(SPOIL)))
def test_exactly_the_spoilt_files_are_unverified(tmp_path_factory, spoilt):
    root = tmp_path_factory.mktemp("tiles")
    paths, digests = stored(root, 24)
    for number, spoil in spoilt.items():
        spoil(root / paths[number])
    assert unverified(str(root), paths, digests) == sorted(spoilt)


def blocks_of(paths, digests, size):
    """Divide the tiles into blocks of this size."""
    return [(paths[at : at + size], digests[at * 64 : (at + size) * 64]) for at in range(0, len(paths), size)]


@pytest.mark.parametrize("size", [1, 3, 41])
def test_two_processes_find_the_same_as_one(tmp_path, monkeypatch, size):
    monkeypatch.setattr(tile_hashing, "MIN_TILES_FOR_PROCESS", 1)
    paths, digests = stored(tmp_path, 41)
    for number, spoil in zip(range(0, 40, 5), SPOIL, strict=True):
        spoil(tmp_path / paths[number])
    blocks = blocks_of(paths, digests, size)
    with TwoProcesses(41) as pair:
        for _ in range(2):
            assert list(pair.unverified(str(tmp_path), blocks)) == [
                unverified(str(tmp_path), *block) for block in blocks
            ]
        assert list(pair.unverified(str(tmp_path), [])) == []


@pytest.fixture
def stopped(monkeypatch):
    """Stop the second process until the first one waits for it; then send it the given signal."""
    monkeypatch.setattr(tile_hashing, "MIN_TILES_FOR_PROCESS", 1)
    monkeypatch.setattr(tile_hashing, "_MAX_BLOCKS", 8)

    def prepare(pair, number):
        helper, receive = pair._helper, pair._receive
        os.kill(helper.pid, signal.SIGSTOP)

        def signalling(own, *, wait):
            if wait and helper.returncode is None:
                os.kill(helper.pid, number)
            receive(own, wait=wait)

        monkeypatch.setattr(pair, "_receive", signalling)

    return prepare


def test_a_stopped_second_process_gets_two_blocks_and_the_first_one_waits_for_it(tmp_path, monkeypatch, stopped):
    paths, digests = stored(tmp_path, 30)
    with TwoProcesses(30) as pair:
        stopped(pair, signal.SIGCONT)
        sent, send = [], pair._send
        monkeypatch.setattr(pair, "_send", lambda *given: sent.append(send(*given)) or sent[-1])
        assert list(pair.unverified(str(tmp_path), blocks_of(paths, digests, 1))) == [[]] * 30
    given = [block is not None for block in sent]
    assert given[:8] == [True, True] + [False] * 6
    assert sum(given) > 2


def test_if_the_second_process_is_killed_the_first_hashes_its_blocks(tmp_path, caplog, stopped):
    paths, digests = stored(tmp_path, 9)
    (tmp_path / paths[1]).unlink()
    with TwoProcesses(9) as pair:
        stopped(pair, signal.SIGKILL)
        assert list(pair.unverified(str(tmp_path), blocks_of(paths, digests, 1))) == [[], [0], *[[]] * 7]
    assert [record.event for record in caplog.records] == ["c10.verify.one_process"]


def test_more_folders_than_may_be_open_at_a_time(tmp_path):
    paths, digests = stored(tmp_path, 600)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert unverified(str(tmp_path), paths, digests) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_unusual_paths_are_unverified(tmp_path):
    (_, digests), root = stored(tmp_path / "tiles", 1), tmp_path / "tiles"
    (tmp_path / "outside.png").write_bytes(b"")
    (root / "plain.png").write_bytes(b"")
    paths = [
        "../outside.png",
        "objects//000/0.png",
        "./plain.png",
        "",
        "plain.png/",
        "a\0b",
        f"{root}/plain.png",
        "objects",
    ]
    assert unverified(str(root), paths, digests * len(paths)) == list(range(len(paths)))
    assert unverified(str(root), ["plain.png"], digests) == []


def test_a_path_without_a_digest_is_unverified(tmp_path):
    paths, digests = stored(tmp_path, 2)
    assert unverified(str(tmp_path), [*paths, "missing.png", paths[0]], digests) == [2, 3]


def test_the_second_process_answers_a_request_with_one_line(tmp_path):
    paths, digests = stored(tmp_path, 3)
    (tmp_path / paths[1]).unlink()
    requests, answers = io.BytesIO(json.dumps([str(tmp_path), paths, digests]).encode() + b"\n"), io.BytesIO()
    tile_hashing.main(requests, answers)
    assert answers.getvalue() == b"[1]\n"


@pytest.mark.parametrize("program", ["/bin/true", "/nowhere/python"])
def test_if_no_second_process_runs_the_first_hashes_all_files(tmp_path, monkeypatch, caplog, program):
    monkeypatch.setattr(tile_hashing, "MIN_TILES_FOR_PROCESS", 1)
    monkeypatch.setattr(tile_hashing.sys, "executable", program)
    paths, digests = stored(tmp_path, 9)
    (tmp_path / paths[1]).unlink()
    (tmp_path / paths[7]).unlink()
    with TwoProcesses(9) as pair:
        for _ in range(2):
            assert list(pair.unverified(str(tmp_path), blocks_of(paths, digests, 2))) == [[1], [], [], [1], []]
    assert [record.event for record in caplog.records] == ["c10.verify.one_process"]


def test_few_tiles_start_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(tile_hashing.sys, "executable", "/nowhere/python")
    paths, digests = stored(tmp_path, 2)
    with TwoProcesses(2) as pair:
        assert list(pair.unverified(str(tmp_path), [(paths, digests)])) == [[]]
