"""`doit bundle`: copies a published generation to a memory card or disk, from which the aircraft reads it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from preflight.commands.key_management import CommandResult
from preflight.errors import BundleError
from preflight.report.table import size_text
from preflight.store import carry, medium
from preflight.store.cache_layout import CacheLayout
from preflight.store.generations import Generation, Generations
from preflight.store.manifests import WRITTEN, read_manifest
from preflight.trace.digests import DigestCache
from takeoff.errors import HostMismatchError
from takeoff.layout import determined_files
from takeoff.names import ENVELOPE, MANIFEST


def bundle(layout: CacheLayout, name: str, place: Path, trust: Path) -> CommandResult:
    """Copy a generation to another place, verify the copy with the shipped verifier, and make it current there.

    Args:
        layout: the cache root to copy from.
        name: the number or the folder name of the generation; empty for the current one.
        place: the folder to copy to.
        trust: the trust directory of the aircraft.

    Raises:
        BundleError: there is no such generation, the place is unsuitable or too small, or the verifier refuses the
            copy.
    """
    if _overlap(place, layout.root) or _overlap(place, trust):
        raise BundleError(
            f"{place} overlaps {layout.root} or {trust}. Name a card, a mounted disk or a separate folder: the trust directory "
            "must not travel with the cache"
        )
    source = load_source(choose(layout, name).path)
    with carry.open_target(place) as target:
        medium.check_names(target, source.files)
        plan = carry.plan_copy(target, source)
        carry.check_space(target, source, plan, shutil.disk_usage(target.root).free)
        fits: list[bool] = []
        home = carry.copy_generation(target, source, plan, lambda folder: fits.append(judge(folder, trust)))
        removed = carry.prune(target)
    return _result(source, plan, home, target, len(removed), fits=all(fits))


def choose(layout: CacheLayout, name: str) -> Generation:
    """Return the generation with this number or folder name; the current one if `name` is empty. Raises BundleError."""
    generations = Generations(layout, DigestCache(None))
    if not name:
        current = generations.current()
        if current is None:
            raise BundleError(f"{layout.root} has no current generation to copy; run doit provision first")
        return current
    found = [item for item in generations.all() if item.path.name == name or str(item.number) == name.lstrip("0")]
    if len(found) != 1:
        there = ", ".join(item.path.name for item in generations.all()) or "none"
        raise BundleError(
            f"there is no generation {name} in {layout.root}; there are: {there}. Choose one with --generation=NAME"
        )
    return found[0]


def load_source(path: Path) -> carry.SourceGeneration:
    """Return the files of a published generation with hashes and sizes from its manifest. Raises BundleError."""
    file = read_manifest(path)
    manifest = file.manifest
    if manifest is None and file.other_schema is not None:
        raise BundleError(
            f"the manifest of {path.name} {file.fault}. Run doit provision, which publishes the mission in schema {WRITTEN}, "
            "and bundle the new generation. Or bundle this one with the release of preflight that made it"
        )
    if manifest is None:
        raise BundleError(
            f"the manifest of {path.name} {file.fault}. Run doit provision repair=1, and bundle the new generation"
        )
    try:
        sealed = (path / ENVELOPE).read_bytes()
    except OSError as error:
        raise BundleError(
            f"the envelope of {path.name} cannot be read ({error}). Run doit provision repair=1, and bundle the new generation"
        ) from error
    small = {**determined_files(manifest, file.sha256), MANIFEST: file.content, ENVELOPE: sealed}
    files = {name: (digest, manifest.sizes[name]) for name, digest in manifest.subjects.items()}
    files |= {name: (hashlib.sha256(data).hexdigest(), len(data)) for name, data in small.items()}
    return carry.SourceGeneration(path, files)


def judge(folder: Path, trust: Path) -> bool:
    """Verify a copy with the shipped verifier in a separate process.

    The status for engines of another machine is the highest one. So if the verifier returns it, all other checks
    passed.

    Returns:
        Whether the engines are for this machine.

    Raises:
        BundleError: the verifier refuses the copy for another reason.
    """
    command = [sys.executable, "-I", "-m", "takeoff", str(folder), "--trust", str(trust)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in {0, HostMismatchError.exit_status}:
        output = (done.stdout + done.stderr).strip()
        raise BundleError(
            f"the verifier refuses the copy (status {done.returncode}): {output}; it was not made current. Run doit verify: if "
            "that passes, the medium is bad"
        )
    return done.returncode == 0


def _overlap(one: Path, other: Path) -> bool:
    first, second = one.resolve(), other.resolve()
    return first == second or first in second.parents or second in first.parents


def _result(
    source: carry.SourceGeneration, plan: carry.CopyPlan, home: Path, target: CacheLayout, removed: int, *, fits: bool
) -> CommandResult:
    copied = sum(source.files[name][1] for name in plan.copied)
    total = sum(size for _, size in source.files.values())
    if plan.complete:
        done = f"all {len(source.files)} files were there already, {size_text(total)}"
    else:
        done = f"{len(plan.copied)} of {len(source.files)} files copied, {size_text(copied)} of {size_text(total)}"
    text = (
        f"{home.name} is current on {target.root}, read back from the medium and verified: {done}\n"
        f"on the aircraft: python -I -m takeoff {target.current} --trust DIR"
    )
    if not fits:
        text += "\nits engines are for another machine: run the verifier there to check that they fit"
    fields = {
        "generation": home.name,
        "path": str(target.current),
        "fits_this_machine": fits,
        "files": len(source.files),
        "files_copied": len(plan.copied),
        "bytes": total,
        "bytes_copied": copied,
        "generations_removed": removed,
    }
    return CommandResult("c10.bundle.complete", text, fields)
