"""SHA-256 of many small tile files, by two processes.

Two threads take as long as one here: 20 kB are hashed in 11 microseconds, and each of the system calls around that hands the
interpreter's lock to the other thread. This file is also the second process's program: it imports the standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import select
import stat
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subprocess import Popen
    from typing import IO

log = logging.getLogger("preflight.verify")

Tiles = tuple[Sequence[str], str]
"""Paths and digests, as `doubted` takes them."""

WORTH_A_PROCESS = 2_000  # tiles: starting it costs about what it saves on so many

_BUFFER = 256 * 1024
_MOST_FOLDERS = 256  # held open at a time: as many as the tile store has
_DIGITS = 64
_PIPE = 1 << 20
_AHEAD = 2  # blocks that the second process was given and has not answered for
_MOST_SHARES = 64  # in memory, should it be slow
# O_NONBLOCK: not to wait for a writer where somebody put a pipe.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def doubted(folder: str, paths: Sequence[str], digests: str) -> list[int]:
    """Which of `paths` are not, beyond doubt, regular files at that very place with these SHA-256; by number, ascending.

    folder: absolute, with no symbolic link in it. digests: 64 lower-case hex digits a path, one after the other. Everything
    out of the ordinary counts as doubted, a symbolic link and a file that cannot be read among it: the caller must look again.
    """
    with _Folders(folder) as folders:
        return folders.doubted(paths, digests)


class _Folders:
    """The folders of the files, each opened and asked where it lies once, not once a file."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._open: dict[str, int] = {}
        self._buffer = memoryview(bytearray(_BUFFER))

    def __enter__(self) -> _Folders:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def doubted(self, paths: Sequence[str], digests: str) -> list[int]:
        """As the function."""
        found = []
        for number, path in enumerate(paths):
            try:
                digest = self.sha256(path, self._buffer)
            except (OSError, ValueError):  # ValueError: a zero byte in the path
                digest = ""
            if not digest or digest != digests[number * _DIGITS : (number + 1) * _DIGITS]:
                found.append(number)
        return found

    def sha256(self, path: str, buffer: memoryview) -> str:
        """Hex digits; none for what is no regular file, or changes its size. Raises OSError, ValueError."""
        folder, _, name = path.rpartition("/")
        handle = self._open.get(folder)
        file = os.open(name, _FILE, dir_fd=self._enter(folder) if handle is None else handle)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                return ""
            total = count = os.readv(file, (buffer,))
            digest = hashlib.sha256(buffer[:count])
            while count and total < status.st_size:
                count = os.readv(file, (buffer,))
                digest.update(buffer[:count])
                total += count
            # A buffer that was not filled ended at the end of the file; one that was may have more behind it.
            return digest.hexdigest() if total == status.st_size and not (count == _BUFFER and os.read(file, 1)) else ""
        finally:
            os.close(file)

    def _enter(self, folder: str) -> int:
        if len(self._open) >= _MOST_FOLDERS:
            self._close()
        place = f"{self._root}/{folder}" if folder else self._root
        handle = os.open(place, _FOLDER)
        if os.readlink(f"/proc/self/fd/{handle}") != place:  # noqa: PTH115 - imports nothing
            os.close(handle)
            raise OSError(f"{place} lies elsewhere")
        self._open[folder] = handle
        return handle

    def _close(self) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()


class _Share:
    """Some of the tiles, and which of them are doubted, once that is known."""

    def __init__(self, tiles: Tiles, found: list[int] | None = None) -> None:
        self.tiles = tiles
        self.found = found


class TwoProcesses:
    """`doubted` by this process and a second one, which lives as long as the block that this is entered with.

    tiles: how many there are to hash; too few get no second process.
    """

    def __init__(self, tiles: int) -> None:
        self._tiles = tiles
        self._helper: Popen[bytes] | None = None
        self._asked: deque[_Share] = deque()
        self._said = b""

    def __enter__(self) -> TwoProcesses:
        if self._tiles >= WORTH_A_PROCESS:
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def doubted(self, folder: str, blocks: Iterable[Tiles]) -> Iterator[list[int]]:
        """The doubted of each block, in their order; each as the function's paths and digests, some hundred kilobytes at most.

        Whichever process is free takes the next block. What a second process that fails has not answered for is hashed by
        this one; a warning says so.
        """
        shares: deque[_Share] = deque()
        with _Folders(folder) as own:
            for tiles in blocks:
                self._hear(own, wait=len(shares) >= _MOST_SHARES)
                shares.append(self._ask(folder, tiles) or _Share(tiles, own.doubted(*tiles)))
                yield from _known(shares)
            while self._asked:
                self._hear(own, wait=True)
            yield from _known(shares)

    def _start(self) -> None:
        import fcntl  # noqa: PLC0415 - the second process has no use for these
        import subprocess  # noqa: PLC0415 - as above

        command = [sys.executable, "-I", "-S", __file__]
        try:
            # A session of its own: an interrupt at the terminal is the first process's to answer.
            self._helper = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            # What is asked ahead fits: otherwise the first would wait until the second has begun. It may be more than allowed.
            with suppress(OSError):
                fcntl.fcntl(self._helper.stdin or -1, fcntl.F_SETPIPE_SZ, _PIPE)
        except OSError as error:
            _warn(f"no second process to hash tile files could be started ({error})")

    def _ask(self, folder: str, tiles: Tiles) -> _Share | None:
        """The second process's share; None where it has enough to do, or there is none."""
        if self._helper is None or self._helper.stdin is None or len(self._asked) >= _AHEAD:
            return None
        share = _Share(tiles)
        self._asked.append(share)
        # One that ended is met where its answer is awaited.
        with suppress(OSError):
            _send(self._helper.stdin, [folder, *tiles])
        return share

    def _hear(self, own: _Folders, *, wait: bool) -> None:
        """Take the answers that are there; wait for one if told, and if any is due."""
        while self._asked and self._helper and self._helper.stdout:
            if not wait and not select.select([self._helper.stdout], [], [], 0)[0]:
                return
            wait = False
            said = os.read(self._helper.stdout.fileno(), _BUFFER)
            *lines, self._said = (self._said + said).split(b"\n")
            for line in lines:
                self._asked.popleft().found = json.loads(line)
            if not said:
                self._end()
                _warn("the second process that hashes tile files ended early")
                while self._asked:
                    share = self._asked.popleft()
                    share.found = own.doubted(*share.tiles)

    def _end(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.kill()
            with suppress(OSError):  # what it was still asked
                helper.communicate()  # closes the pipes and waits


def _known(shares: deque[_Share]) -> Iterator[list[int]]:
    """What is known of the first shares, which are taken away."""
    while shares and (found := shares[0].found) is not None:
        shares.popleft()
        yield found


def _warn(what: str) -> None:
    text = f"{what}: this one hashes all of them, which takes longer; the verdict is the same"
    log.warning(text, extra={"event": "tile_hashing_alone", "fields": {}})


def _send(pipe: IO[bytes], message: object) -> None:
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()


def main(asked: IO[bytes], answers: IO[bytes]) -> None:
    """The second process: one JSON line in, what `doubted` takes, and one out, the numbers that it gives."""
    with ExitStack() as stack:
        held: dict[str, _Folders] = {}
        for line in asked:
            folder, paths, digests = json.loads(line)
            if folder not in held:
                held[folder] = stack.enter_context(_Folders(folder))
            _send(answers, held[folder].doubted(paths, digests))


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
