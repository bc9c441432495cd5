"""Tile files are hashed by two processes: nothing but the sealed bytes at their place passes, whoever hashes them."""

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
from preflight.commands.tile_hashing import TwoProcesses, doubted

SIZES = [0, 1, 20_000, 2**18 - 1, 2**18, 2**18 + 1, 2**19, 2**19 + 5]


def content_of(number):
    return bytes([number % 251]) * SIZES[number % len(SIZES)]


def stored(root, count):
    """Paths and digests of files in folders of their own."""
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
    os.mknod(path, 0o140644)  # as a listening socket leaves it


def link_folder(path):
    path.parent.rename(path.parent.with_suffix(".moved"))
    path.parent.symlink_to(path.parent.with_suffix(".moved"))


SPOIL = [remove, change, lengthen, make_link, make_folder, make_pipe, make_socket, link_folder]


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(0, 23), st.sampled_from(SPOIL)))
def test_exactly_what_was_spoilt_is_doubted(tmp_path_factory, spoilt):
    root = tmp_path_factory.mktemp("tiles")
    paths, digests = stored(root, 24)
    for number, spoil in spoilt.items():
        spoil(root / paths[number])
    assert doubted(str(root), paths, digests) == sorted(spoilt)


def blocks_of(paths, digests, size):
    """The tiles in blocks."""
    return [(paths[at : at + size], digests[at * 64 : (at + size) * 64]) for at in range(0, len(paths), size)]


@pytest.mark.parametrize("size", [1, 3, 41])
def test_two_processes_find_the_same_as_one(tmp_path, monkeypatch, size):
    monkeypatch.setattr(tile_hashing, "WORTH_A_PROCESS", 1)
    paths, digests = stored(tmp_path, 41)
    for number, spoil in zip(range(0, 40, 5), SPOIL, strict=True):
        spoil(tmp_path / paths[number])
    blocks = blocks_of(paths, digests, size)
    with TwoProcesses(41) as pair:
        for _ in range(2):
            assert list(pair.doubted(str(tmp_path), blocks)) == [doubted(str(tmp_path), *block) for block in blocks]
        assert list(pair.doubted(str(tmp_path), [])) == []


@pytest.fixture
def stopped(monkeypatch):
    """A pair whose second process stands still until the first waits for it, and then gets a signal."""
    monkeypatch.setattr(tile_hashing, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(tile_hashing, "_MOST_SHARES", 8)

    def prepare(pair, number):
        helper, hear = pair._helper, pair._hear
        os.kill(helper.pid, signal.SIGSTOP)

        def signalling(own, *, wait):
            if wait and helper.returncode is None:
                os.kill(helper.pid, number)
            hear(own, wait=wait)

        monkeypatch.setattr(pair, "_hear", signalling)

    return prepare


def test_one_that_answers_nothing_is_waited_for_and_given_no_more_than_it_can_take(tmp_path, monkeypatch, stopped):
    paths, digests = stored(tmp_path, 30)
    with TwoProcesses(30) as pair:
        stopped(pair, signal.SIGCONT)
        asked, ask = [], pair._ask
        monkeypatch.setattr(pair, "_ask", lambda *given: asked.append(ask(*given)) or asked[-1])
        assert list(pair.doubted(str(tmp_path), blocks_of(paths, digests, 1))) == [[]] * 30
    given = [share is not None for share in asked]
    assert given[:8] == [True, True] + [False] * 6
    assert sum(given) > 2


def test_one_that_is_killed_half_way_leaves_nothing_out(tmp_path, caplog, stopped):
    paths, digests = stored(tmp_path, 9)
    (tmp_path / paths[1]).unlink()
    with TwoProcesses(9) as pair:
        stopped(pair, signal.SIGKILL)
        assert list(pair.doubted(str(tmp_path), blocks_of(paths, digests, 1))) == [[], [0], *[[]] * 7]
    assert [record.event for record in caplog.records] == ["tile_hashing_alone"]


def test_more_folders_than_are_held_open(tmp_path):
    paths, digests = stored(tmp_path, 600)
    before = len(list(Path("/proc/self/fd").iterdir()))
    assert doubted(str(tmp_path), paths, digests) == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_paths_out_of_the_ordinary_are_doubted(tmp_path):
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
    assert doubted(str(root), paths, digests * len(paths)) == list(range(len(paths)))
    assert doubted(str(root), ["plain.png"], digests) == []


def test_a_path_without_a_digest_is_doubted(tmp_path):
    paths, digests = stored(tmp_path, 2)
    assert doubted(str(tmp_path), [*paths, "missing.png", paths[0]], digests) == [2, 3]


def test_a_message_and_its_answer(tmp_path):
    paths, digests = stored(tmp_path, 3)
    (tmp_path / paths[1]).unlink()
    asked, answers = io.BytesIO(json.dumps([str(tmp_path), paths, digests]).encode() + b"\n"), io.BytesIO()
    tile_hashing.main(asked, answers)
    assert answers.getvalue() == b"[1]\n"


@pytest.mark.parametrize("program", ["/bin/true", "/nowhere/python"])
def test_without_a_second_process_all_are_still_looked_at(tmp_path, monkeypatch, caplog, program):
    monkeypatch.setattr(tile_hashing, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(tile_hashing.sys, "executable", program)
    paths, digests = stored(tmp_path, 9)
    (tmp_path / paths[1]).unlink()
    (tmp_path / paths[7]).unlink()
    with TwoProcesses(9) as pair:
        for _ in range(2):
            assert list(pair.doubted(str(tmp_path), blocks_of(paths, digests, 2))) == [[1], [], [], [1], []]
    assert [record.event for record in caplog.records] == ["tile_hashing_alone"]


def test_few_tiles_start_no_process(tmp_path, monkeypatch):
    monkeypatch.setattr(tile_hashing.sys, "executable", "/nowhere/python")
    paths, digests = stored(tmp_path, 2)
    with TwoProcesses(2) as pair:
        assert list(pair.doubted(str(tmp_path), [(paths, digests)])) == [[]]
