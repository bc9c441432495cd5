"""`doit new TEMPLATE`: creates a mission file from a template."""

from __future__ import annotations

from pathlib import Path

from preflight.errors import CommandLineError
from preflight.store.atomic import atomic_write

# `doit provision` without a mission builds the demo where it is. Its relative paths would be wrong in a copy.
_NOT_COPIED = "demo"


def templates(folder: Path) -> tuple[str, ...]:
    """Return the template names that `doit new` accepts: the mission files in `folder`, without the demo."""
    return tuple(sorted(path.stem for path in folder.glob("*.yaml") if path.stem != _NOT_COPIED))


def new_mission(template: str, folder: Path, target: Path) -> None:
    """Copy a template to a new file.

    Args:
        template: the template's name, without `.yaml`.
        folder: the folder of the templates.
        target: the file to create.

    Raises:
        CommandLineError: the template does not exist, or the target exists or cannot be written. Nothing was changed.
    """
    known = templates(folder)
    if template not in known:
        raise CommandLineError(f"{template!r} is no template; choose one of {', '.join(known)}")
    content = (folder / f"{template}.yaml").read_bytes()
    if target.exists() or target.is_symlink():
        # A link whose target is missing may be somebody's mission as well.
        raise CommandLineError(f"{target} exists already and was not changed. Move it away, or give another name")
    try:
        atomic_write(target, content)
    except OSError as error:
        raise CommandLineError(
            f"{target} cannot be written ({error.strerror}). Name a file in a writable folder"
        ) from error
