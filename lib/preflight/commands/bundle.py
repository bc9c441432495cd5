"""`doit bundle`: a published generation on a card, as the aircraft will read it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from preflight.commands.key_management import Said
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


def bundle(layout: CacheLayout, name: str, place: Path, trust: Path) -> Said:
    """Copy a generation to a place, judge it there with the verifier that flies, and make it current.

    name: the generation's number or folder name; empty for the current one. trust: whom the aircraft trusts.

    Raises:
        BundleError: nothing to carry, a place that is not fit or too small, or a copy that is refused.
    """
    if _overlap(place, layout.root) or _overlap(place, trust):
        raise BundleError(
            f"{place} overlaps {layout.root} or {trust}; name a card, a mounted disk or a folder of its own: keys travel apart"
        )
    source = load_source(choose(layout, name).path)
    with carry.open_target(place) as target:
        medium.check_names(target, source.files)
        plan = carry.plan_copy(target, source)
        carry.check_space(target, source, plan, shutil.disk_usage(target.root).free)
        fits: list[bool] = []
        home = carry.copy_generation(target, source, plan, lambda folder: fits.append(judge(folder, trust)))
        removed = carry.prune(target)
    return _said(source, plan, home, target, len(removed), fits=all(fits))


def choose(layout: CacheLayout, name: str) -> Generation:
    """The generation meant. Raises BundleError."""
    generations = Generations(layout, DigestCache(None))
    if not name:
        current = generations.current()
        if current is None:
            raise BundleError(f"{layout.root} has no current generation to copy; run doit provision first")
        return current
    found = [item for item in generations.all() if item.path.name == name or str(item.number) == name.lstrip("0")]
    if len(found) != 1:
        there = ", ".join(item.path.name for item in generations.all()) or "none"
        raise BundleError(f"--generation={name} names no generation of {layout.root}; there are: {there}")
    return found[0]


def load_source(path: Path) -> carry.SourceGeneration:
    """The files of a published generation as its manifest has them. Raises BundleError."""
    file = read_manifest(path)
    manifest = file.manifest
    if manifest is None and file.other_schema is not None:
        raise BundleError(
            f"the manifest of {path.name} {file.fault}: run doit provision, which publishes the mission in schema "
            f"{WRITTEN}, and bundle that; or bundle this one with the release of preflight that made it"
        )
    if manifest is None:
        raise BundleError(
            f"the manifest of {path.name} {file.fault}: run doit provision repair=1, and bundle what that publishes"
        )
    try:
        sealed = (path / ENVELOPE).read_bytes()
    except OSError as error:
        raise BundleError(
            f"the envelope of {path.name} cannot be read ({error}): run doit provision repair=1, and bundle what that publishes"
        ) from error
    small = {**determined_files(manifest, file.sha256), MANIFEST: file.content, ENVELOPE: sealed}
    files = {name: (digest, manifest.sizes[name]) for name, digest in manifest.subjects.items()}
    files |= {name: (hashlib.sha256(data).hexdigest(), len(data)) for name, data in small.items()}
    return carry.SourceGeneration(path, files)


def judge(folder: Path, trust: Path) -> bool:
    """Let the shipped verifier judge a copy in a process of its own; returns whether its engines are for this machine.

    Where they are for another, everything else was verified: that status is the highest there is. Raises BundleError.
    """
    command = [sys.executable, "-I", "-m", "takeoff", str(folder), "--trust", str(trust)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in {0, HostMismatchError.exit_status}:
        said = (done.stdout + done.stderr).strip()
        raise BundleError(
            f"the verifier refuses the copy (status {done.returncode}): {said}; it was not made current. Run doit verify: where "
            "that passes, the medium is bad"
        )
    return done.returncode == 0


def _overlap(one: Path, other: Path) -> bool:
    first, second = one.resolve(), other.resolve()
    return first == second or first in second.parents or second in first.parents


def _said(
    source: carry.SourceGeneration, plan: carry.CopyPlan, home: Path, target: CacheLayout, removed: int, *, fits: bool
) -> Said:
    copied = sum(source.files[name][1] for name in plan.copied)
    total = sum(size for _, size in source.files.values())
    if plan.complete:
        done = f"nothing differed of {len(source.files)} files, {size_text(total)}"
    else:
        done = f"{len(plan.copied)} of {len(source.files)} files copied, {size_text(copied)} of {size_text(total)}"
    text = (
        f"{home.name} is current on {target.root}, read back from the medium and verified: {done}\n"
        f"on the aircraft: python -I -m takeoff {target.current} --trust DIR"
    )
    if not fits:
        text += "\nits engines are for another machine than this one: only there can be verified that they fit"
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
    return Said("bundled", text, fields)
