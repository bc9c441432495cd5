"""The file of the rollback floor: `{"issued_at":N,"last_seen":N}` in canonical JSON, outside every cache."""

# ruff: noqa: PTH100, PTH105, PTH118, PTH123 - descriptors and start-up time: no pathlib here
from __future__ import annotations

import os

from takeoff import canonical
from takeoff.errors import FloorError, ManifestFormatError
from takeoff.policy import Floor
from takeoff.schema import integer, record

_FLOOR = record(Floor, {"issued_at": integer(0), "last_seen": integer(0)})


def read_floor(path: str) -> Floor | None:
    """Returns the floor, or None if no cache was accepted yet. Raises FloorError."""
    try:
        with open(path, "rb") as file:
            data = file.read(1024)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FloorError(f"the rollback floor cannot be read: {error.strerror}", path) from error
    try:
        floor: Floor = _FLOOR(canonical.decode(data, 1023), "floor")
    except ManifestFormatError as error:
        raise FloorError(f"the rollback floor is malformed: {error.message}", path) from error
    return floor


def write_floor(path: str, floor: Floor) -> None:
    """Replaces the floor atomically and durably. Raises FloorError."""
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".{name}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(canonical.encode(floor._asdict()))
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, os.path.join(folder, name))
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise FloorError(f"the rollback floor cannot be written: {error.strerror}", path) from error
