"""`doit new TEMPLATE`: a mission file to begin with."""

from __future__ import annotations

from pathlib import Path

from preflight.errors import CommandLineError
from preflight.store.atomic import atomic_write

# Built where it lies, by `doit provision` without a mission; its paths lead out of the templates' folder.
_NOT_COPIED = "demo"


def templates(folder: Path) -> tuple[str, ...]:
    """The names `doit new` takes: the mission files of the templates' folder."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml") if path.stem != _NOT_COPIED))


def new_mission(template: str, folder: Path, target: Path) -> None:
    """Copy a template to `target`, which must not be there.

    Raises:
        CommandLineError: there is no such template, or the target is there or cannot be written; nothing was changed.
    """
    known = templates(folder)
    if template not in known:
        raise CommandLineError(f"{template!r} is no template; there are {', '.join(known)}")
    content = (folder / f"{template}.yaml").read_bytes()
    if target.exists() or target.is_symlink():
        # Also a link whose target is gone is somebody's mission.
        raise CommandLineError(f"{target} is there already and was not changed; move it away first")
    try:
        atomic_write(target, content)
    except OSError as error:
        raise CommandLineError(f"{target} cannot be written ({error.strerror})") from error
