"""The published generations of a cache root: immutable folders `gen/<NNNNNN>-<hash12>/`, and links to two of them."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preflight.errors import CacheRootError, ManifestCoverageError, ManifestWriteError
from preflight.store import atomic
from preflight.store.cache_layout import CacheLayout
from preflight.trace.digests import DigestCache

_NAME = re.compile(r"(\d{6,})-([0-9a-f]{12})")
_STAGED = re.compile(r"[0-9a-f]{32}")
FILE_MODE = 0o444


@dataclass(frozen=True, slots=True)
class Generation:
    """One published generation."""

    number: int
    path: Path


class Generations:
    """Reads, publishes and removes the generations of one cache root. Changes require the build lock."""

    def __init__(self, layout: CacheLayout, digests: DigestCache) -> None:
        self._layout = layout
        self._digests = digests

    def all(self) -> list[Generation]:
        """Returns every generation on disk, in ascending order of their numbers."""
        if not self._layout.generations.is_dir():
            return []
        matches = [(path, _NAME.fullmatch(path.name)) for path in self._layout.generations.iterdir()]
        return sorted(
            (Generation(int(match[1]), path) for path, match in matches if match and path.is_dir()),
            key=lambda generation: generation.number,
        )

    def current(self) -> Generation | None:
        """Returns the generation that the link `current` names, or None."""
        return self._linked(self._layout.current)

    def previous(self) -> Generation | None:
        """Returns the generation that the link `previous` names, or None."""
        return self._linked(self._layout.previous)

    def _linked(self, link: Path) -> Generation | None:
        if not link.is_symlink():
            return None
        target = link.parent / link.readlink()
        match = _NAME.fullmatch(target.name)
        return Generation(int(match[1]), target) if match and target.is_dir() else None

    def next_number(self) -> int:
        """Returns the highest generation number on disk plus one."""
        return max((generation.number for generation in self.all()), default=0) + 1

    def fault(self, generation: Generation, expected: Mapping[str, str]) -> str | None:
        """Compares the files of a generation with expected digests.

        Args:
            generation: the generation to check.
            expected: file name relative to the generation -> SHA-256.

        Returns:
            The first difference as a sentence, or None. Only files with an unknown stat signature are hashed.
        """
        names = _names_below(generation.path)
        if extra := sorted(names - expected.keys()):
            return f"{generation.path.name} holds {extra[0]}, which its manifest does not name"
        for name, digest in expected.items():
            if name not in names:
                return f"{generation.path.name} lacks {name}"
            if self._digests.sha256(generation.path / name) != digest:
                return f"{name} in {generation.path.name} differs from the published file"
        return None

    def stage(self, artifacts: Mapping[str, tuple[Path, str]], small: Mapping[str, bytes]) -> Path:
        """Assembles a generation in a new folder of staging/.

        If the current or the previous generation has an equal file, the new file is a hard link to it. Any other file
        is copied, and hashed while it is copied. No file in staging shares an inode with work/. The folder is removed
        if an error occurs.

        Args:
            artifacts: name -> (source in work/, SHA-256).
            small: name -> content, for files that do not lie in work/.

        Returns:
            The folder.

        Raises:
            ManifestWriteError: the bytes of a source differ from its SHA-256.
            CacheRootError: the file system reports an error.
        """
        staging = self._layout.staging / uuid.uuid4().hex
        published = [generation.path for generation in (self.current(), self.previous()) if generation is not None]
        try:
            self._assemble(staging, artifacts, small, published)
        except BaseException as error:
            if staging.exists():
                atomic.remove_tree(staging)
            if isinstance(error, OSError):
                raise CacheRootError(
                    f"{staging}: {error.strerror}; free space or repair the file system of {self._layout.root}, "
                    "then run doit provision again (the last good cache is untouched)"
                ) from error
            raise
        return staging

    def _assemble(
        self,
        staging: Path,
        artifacts: Mapping[str, tuple[Path, str]],
        small: Mapping[str, bytes],
        published: Sequence[Path],
    ) -> None:
        staging.mkdir(parents=True)
        for name, (source, digest) in artifacts.items():
            self._place(staging / name, source, digest, [path / name for path in published])
        for name, content in small.items():
            atomic.atomic_write(staging / name, content, mode=FILE_MODE)
        for directory in sorted({path.parent for path in staging.rglob("*")} | {staging}, reverse=True):
            atomic.fsync_directory(directory)
        atomic.fsync_directory(self._layout.staging)

    def _place(self, target: Path, source: Path, digest: str, published: Sequence[Path]) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        for candidate in published:
            if candidate.is_file() and self._digests.sha256(candidate) == digest:
                atomic.link_or_copy(candidate, target, mode=FILE_MODE)
                return
        if atomic.copy_hashed(source, target, mode=FILE_MODE) != digest:
            raise ManifestWriteError(f"{source} changed after the manifest was signed; run doit provision again")

    def publish(self, staging: Path, number: int, content: str) -> Generation:
        """Renames a staged generation to its final name and points `current` at it. `previous` gets the old target.

        Args:
            staging: the folder that `stage` returned.
            number: the number of the generation.
            content: the manifest hash. Its first 12 digits become part of the name.

        Returns:
            The published generation.

        Raises:
            CacheRootError: the generation is already current, or the file system reports an error.
        """
        path = self._layout.generations / f"{number:06d}-{content[:12]}"
        old = self.current()
        try:
            self._layout.generations.mkdir(exist_ok=True)
            atomic.fsync_directory(self._layout.root)
            if old is not None and old.path == path:
                raise CacheRootError(f"{path} is already current and must not be replaced: run doit provision again")
            if path.exists():
                # A run renamed it and was killed before it changed the links. So no link has ever pointed at it.
                atomic.remove_tree(path)
            atomic.rename_directory(staging, path)
            if old is not None:
                atomic.replace_symlink(self._layout.previous, f"gen/{old.path.name}")
            atomic.replace_symlink(self._layout.current, f"gen/{path.name}")
        except OSError as error:
            raise CacheRootError(f"{path} cannot be published ({error}); run doit provision again") from error
        return Generation(number, path)

    def adopt(self, generation: Generation, digests: Mapping[str, str]) -> None:
        """Stores the digests of files that the verifier has just hashed: their links have new times.

        digests: name relative to the generation -> SHA-256. Raises OSError.
        """
        for name, digest in digests.items():
            self._digests.adopt(generation.path / name, digest)

    def surplus(self, keep: int) -> list[Generation]:
        """Returns all generations except the newest `keep`, the current and the previous one."""
        protected = {generation.path for generation in (self.current(), self.previous()) if generation is not None}
        return [generation for generation in self.all()[:-keep] if generation.path not in protected]

    def prune(self, keep: int) -> list[Generation]:
        """Removes the generations that `surplus` returns, and returns them. Raises OSError."""
        removed = self.surplus(keep)
        for generation in removed:
            atomic.remove_tree(generation.path)
        return removed

    def sweep(self) -> None:
        """Removes the staged generations and temporary files that killed runs left. Requires the build lock.

        Raises:
            CacheRootError: a link is in the place of a folder, or a folder in the place of a link. Nothing was removed.
        """
        self._check_kinds()
        if self._layout.staging.is_dir():
            for path in self._layout.staging.iterdir():
                if _STAGED.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                    atomic.remove_tree(path)
            atomic.sweep_temporaries(self._layout.staging)
        if self._layout.work.is_dir():
            atomic.sweep_temporaries(self._layout.work)
        for path in self._layout.root.glob(f"{atomic.TEMPORARY_PREFIX}*"):
            atomic.remove_file(path)

    def _check_kinds(self) -> None:
        for folder in (self._layout.work, self._layout.staging, self._layout.generations):
            if folder.is_symlink():
                raise CacheRootError(f"{folder} is a symbolic link, which is not followed: replace it by a folder")
        for link in (self._layout.current, self._layout.previous):
            if link.is_dir() and not link.is_symlink():
                raise CacheRootError(
                    f"{link} is a folder where a link must be: this cache root was copied without its links. "
                    f"Remove {link} (gen/ holds the same files), then run doit provision"
                )


def coverage_walk(directory: Path, expected: Iterable[str]) -> None:
    """Checks that a directory holds exactly the expected files. expected: names relative to the directory.

    Raises:
        ManifestCoverageError: a file is missing or unexpected. The message names every such file.
    """
    names, required = _names_below(directory), set(expected)
    faults = [f"{name} is not in the manifest" for name in sorted(names - required)]
    faults += [f"{name} is missing" for name in sorted(required - names)]
    if faults:
        raise ManifestCoverageError(f"{directory}: " + "; ".join(faults) + "; run doit provision again")


def _names_below(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
