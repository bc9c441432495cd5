"""Hashes many small tile files with SHA-256, in two processes.

Two threads are no faster than one here. Hashing 20 kB takes 11 microseconds, and each system call around it hands the
interpreter's lock to the other thread. The second process runs this file as its program. So the file imports the
standard library only.
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

log = logging.getLogger("c10_provisioning.verify")

Tiles = tuple[Sequence[str], str]
"""Paths and digests, as `unverified` takes them."""

MIN_TILES_FOR_PROCESS = 2_000  # for this many tiles, starting a process costs about as much as it saves

_BUFFER = 256 * 1024  # bytes
_MAX_FOLDERS = 256  # open at a time; the tile store has as many
_DIGITS = 64
_PIPE = 1 << 20  # bytes
_MAX_PENDING = 2  # blocks that the second process has received and not answered
_MAX_BLOCKS = 64  # in memory, if the second process is slow
# O_NONBLOCK: if the path is a named pipe, do not wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def unverified(folder: str, paths: Sequence[str], digests: str) -> list[int]:
    """Hash files and return the positions in `paths` of those that it could not verify, in ascending order.

    A file is verified if it is a regular file, lies at exactly this path, and has this SHA-256. A symbolic link or a
    file that cannot be read is not verified, and neither is any other unusual case. The caller must examine these files
    itself.

    Args:
        folder: an absolute path that contains no symbolic link.
        paths: the files, relative to the folder.
        digests: 64 lower-case hex digits for each path, concatenated.
    """
    with _Folders(folder) as folders:
        return folders.unverified(paths, digests)


class _Folders:
    """The folders of the files. Opens each one and checks its location once, not once for each file."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._open: dict[str, int] = {}
        self._buffer = memoryview(bytearray(_BUFFER))

    def __enter__(self) -> _Folders:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def unverified(self, paths: Sequence[str], digests: str) -> list[int]:
        """Hash files of this folder, as the function of this name does."""
        found = []
        for number, path in enumerate(paths):
            try:
                digest = self.sha256(path, self._buffer)
            except (OSError, ValueError):  # ValueError: a null byte in the path
                digest = ""
            if not digest or digest != digests[number * _DIGITS : (number + 1) * _DIGITS]:
                found.append(number)
        return found

    def sha256(self, path: str, buffer: memoryview) -> str:
        """Return the hash as hex digits, or "" if this is no regular file or its size changes.

        Raises OSError, ValueError.
        """
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
            # If the last read did not fill the buffer, it reached the end of the file. If it did, the file may be
            # longer.
            return digest.hexdigest() if total == status.st_size and not (count == _BUFFER and os.read(file, 1)) else ""
        finally:
            os.close(file)

    def _enter(self, folder: str) -> int:
        if len(self._open) >= _MAX_FOLDERS:
            self._close()
        place = f"{self._root}/{folder}" if folder else self._root
        handle = os.open(place, _FOLDER)
        if os.readlink(f"/proc/self/fd/{handle}") != place:  # noqa: PTH115 - pathlib would be one more import
            os.close(handle)
            raise OSError(f"{place} is reached through a symbolic link")
        self._open[folder] = handle
        return handle

    def _close(self) -> None:
        for handle in self._open.values():
            os.close(handle)
        self._open.clear()


class _Block:
    """A block of tiles, and which of them are not verified; None until the second process has answered."""

    def __init__(self, tiles: Tiles, found: list[int] | None = None) -> None:
        self.tiles = tiles
        self.found = found


class TwoProcesses:
    """Runs `unverified` in this process and a second one. Use it as a context manager: it ends the second process."""

    def __init__(self, tiles: int) -> None:
        """Prepare; start nothing. tiles: how many there are to hash. For fewer than 2,000, no second process starts."""
        self._tiles = tiles
        self._helper: Popen[bytes] | None = None
        self._pending: deque[_Block] = deque()
        self._received = b""

    def __enter__(self) -> TwoProcesses:
        if self._tiles >= MIN_TILES_FOR_PROCESS:
            self._start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def unverified(self, folder: str, blocks: Iterable[Tiles]) -> Iterator[list[int]]:
        """Hash blocks of files, and yield for each block, in order, what the function `unverified` returns for it.

        The process that is free takes the next block. If the second process fails, this one hashes the blocks without
        an answer, and logs a warning.

        Args:
            folder: an absolute path that contains no symbolic link.
            blocks: the paths and digests of each block, at most some hundred kilobytes.
        """
        blocks_in_order: deque[_Block] = deque()
        with _Folders(folder) as own:
            for tiles in blocks:
                self._receive(own, wait=len(blocks_in_order) >= _MAX_BLOCKS)
                blocks_in_order.append(self._send(folder, tiles) or _Block(tiles, own.unverified(*tiles)))
                yield from _take_finished(blocks_in_order)
            while self._pending:
                self._receive(own, wait=True)
            yield from _take_finished(blocks_in_order)

    def _start(self) -> None:
        import fcntl  # noqa: PLC0415 - the second process does not need it
        import subprocess  # noqa: PLC0415 - as above

        command = [sys.executable, "-I", "-S", __file__]
        try:
            # The helper gets its own session: only this process handles an interrupt at the terminal.
            self._helper = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
            # The pipe must hold all pending blocks. Otherwise this process would wait until the helper starts to read.
            # The kernel may refuse this size.
            with suppress(OSError):
                fcntl.fcntl(self._helper.stdin or -1, fcntl.F_SETPIPE_SZ, _PIPE)
        except OSError as error:
            _warn(f"the second process to hash tile files cannot be started ({error})")

    def _send(self, folder: str, tiles: Tiles) -> _Block | None:
        """Give a block to the second process. Return None if it has enough to do or does not run."""
        if self._helper is None or self._helper.stdin is None or len(self._pending) >= _MAX_PENDING:
            return None
        block = _Block(tiles)
        self._pending.append(block)
        # If the helper has ended, `_receive` notices it.
        with suppress(OSError):
            _write(self._helper.stdin, [folder, *tiles])
        return block

    def _receive(self, own: _Folders, *, wait: bool) -> None:
        """Read the answers that have arrived. With `wait`, wait for one if a block is pending."""
        while self._pending and self._helper and self._helper.stdout:
            if not wait and not select.select([self._helper.stdout], [], [], 0)[0]:
                return
            wait = False
            received = os.read(self._helper.stdout.fileno(), _BUFFER)
            *lines, self._received = (self._received + received).split(b"\n")
            for line in lines:
                self._pending.popleft().found = json.loads(line)
            if not received:
                self._end()
                _warn("the second process to hash tile files ended early")
                while self._pending:
                    block = self._pending.popleft()
                    block.found = own.unverified(*block.tiles)

    def _end(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            helper.kill()
            with suppress(OSError):  # requests that it did not read
                helper.communicate()  # closes the pipes and waits


def _take_finished(blocks: deque[_Block]) -> Iterator[list[int]]:
    """Remove the finished blocks from the front, and yield the result of each."""
    while blocks and (found := blocks[0].found) is not None:
        blocks.popleft()
        yield found


def _warn(what: str) -> None:
    text = f"{what}: this process hashes all of them, which takes longer. The verdict is the same, so there is nothing to do"
    log.warning(text, extra={"event": "c10.verify.one_process", "fields": {}})


def _write(pipe: IO[bytes], message: object) -> None:
    pipe.write(json.dumps(message).encode() + b"\n")
    pipe.flush()


def main(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Run the second process: read the arguments of `unverified` as a line of JSON, write its result as one."""
    with ExitStack() as stack:
        folders: dict[str, _Folders] = {}
        for line in requests:
            folder, paths, digests = json.loads(line)
            if folder not in folders:
                folders[folder] = stack.enter_context(_Folders(folder))
            _write(answers, folders[folder].unverified(paths, digests))


if __name__ == "__main__":
    main(sys.stdin.buffer, sys.stdout.buffer)
