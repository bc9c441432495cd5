"""The published generations of a cache root: `gen/<NNNNNN>-<hash12>/`, immutable, and the links to two of them."""

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
    """Reads and extends the generations of one cache root. Writing needs the build lock."""

    def __init__(self, layout: CacheLayout, digests: DigestCache) -> None:
        self._layout = layout
        self._digests = digests

    def all(self) -> list[Generation]:
        """Every generation on disk, ascending."""
        if not self._layout.generations.is_dir():
            return []
        found = [(path, _NAME.fullmatch(path.name)) for path in self._layout.generations.iterdir()]
        return sorted(
            (Generation(int(match[1]), path) for path, match in found if match and path.is_dir()),
            key=lambda generation: generation.number,
        )

    def current(self) -> Generation | None:
        """The generation `current` points at; None before the first."""
        return self._linked(self._layout.current)

    def previous(self) -> Generation | None:
        """The generation that was current before."""
        return self._linked(self._layout.previous)

    def _linked(self, link: Path) -> Generation | None:
        if not link.is_symlink():
            return None
        target = link.parent / link.readlink()
        match = _NAME.fullmatch(target.name)
        return Generation(int(match[1]), target) if match and target.is_dir() else None

    def next_number(self) -> int:
        """One more than any generation on disk."""
        return max((generation.number for generation in self.all()), default=0) + 1

    def fault(self, generation: Generation, expected: Mapping[str, str]) -> str | None:
        """What is wrong with a generation's files, judged by digests (stat signatures first); None when nothing is."""
        names = _names_below(generation.path)
        if extra := sorted(names - expected.keys()):
            return f"{generation.path.name} holds {extra[0]}, which its manifest does not name"
        for name, digest in expected.items():
            if name not in names:
                return f"{generation.path.name} lacks {name}"
            if self._digests.sha256(generation.path / name) != digest:
                return f"{name} in {generation.path.name} is not what was published"
        return None

    def stage(self, artifacts: Mapping[str, tuple[Path, str]], small: Mapping[str, bytes]) -> Path:
        """Assemble a generation in staging/: artifacts (name -> source in work/, SHA-256) and small files by content.

        A file equal to the current or previous generation's is a link to it; anything else is copied and hashed on the way.
        Nothing in staging shares an inode with work/. What was staged when it fails is removed.

        Raises:
            ManifestWriteError: a source is not what the manifest says it is.
            CacheRootError: the file system refuses.
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
        """Give staging its final name and point `current` at it. content: the manifest hash, whose start is in the name."""
        path = self._layout.generations / f"{number:06d}-{content[:12]}"
        old = self.current()
        try:
            self._layout.generations.mkdir(exist_ok=True)
            atomic.fsync_directory(self._layout.root)
            if old is not None and old.path == path:
                raise CacheRootError(f"{path} is current already and is never replaced; run doit provision again")
            if path.exists():
                # Renamed by a run that was killed before the flip: never pointed at by anyone.
                atomic.remove_tree(path)
            atomic.rename_directory(staging, path)
            if old is not None:
                atomic.replace_symlink(self._layout.previous, f"gen/{old.path.name}")
            atomic.replace_symlink(self._layout.current, f"gen/{path.name}")
        except OSError as error:
            raise CacheRootError(f"{path} cannot be published ({error}); run doit provision again") from error
        return Generation(number, path)

    def adopt(self, generation: Generation, digests: Mapping[str, str]) -> None:
        """Remember the digests of files the verifier has just hashed (linking gave them new times)."""
        for name, digest in digests.items():
            self._digests.adopt(generation.path / name, digest)

    def surplus(self, keep: int) -> list[Generation]:
        """The oldest generations beyond `keep`; never the current or the previous one."""
        protected = {generation.path for generation in (self.current(), self.previous()) if generation is not None}
        return [generation for generation in self.all()[:-keep] if generation.path not in protected]

    def prune(self, keep: int) -> list[Generation]:
        """Remove the surplus."""
        removed = self.surplus(keep)
        for generation in removed:
            atomic.remove_tree(generation.path)
        return removed

    def sweep(self) -> None:
        """Remove what killed runs left: half-assembled generations and temporary files, and nothing else. Needs the lock.

        Raises:
            CacheRootError: a link or folder stands where the other must be; nothing was removed.
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
                raise CacheRootError(f"{folder} is a symbolic link, which could lead anywhere; make it a folder")
        for link in (self._layout.current, self._layout.previous):
            if link.is_dir() and not link.is_symlink():
                raise CacheRootError(
                    f"{link} is a folder where a link must be: this cache root was copied without its links; "
                    f"remove {link} (gen/ holds the same), then run doit provision"
                )


def coverage_walk(directory: Path, expected: Iterable[str]) -> None:
    """Prove that a directory holds exactly the expected files (names relative to it).

    Raises:
        ManifestCoverageError: names every file too many and too few.
    """
    names, wanted = _names_below(directory), set(expected)
    faults = [f"{name} is in no manifest" for name in sorted(names - wanted)]
    faults += [f"{name} is missing" for name in sorted(wanted - names)]
    if faults:
        raise ManifestCoverageError(f"{directory}: " + "; ".join(faults) + "; run doit provision again")


def _names_below(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
