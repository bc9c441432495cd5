"""Writes lines for systemd's journal to stderr: `<priority>` and one JSON object (sd-daemon(3), SyslogLevelPrefix)."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import TextIO

_WRITE_LOCK = threading.Lock()


def line(priority: int, event: Mapping[str, object]) -> str:
    """Returns one ASCII line. Line feeds inside values are escaped, so that no value can forge a second line."""
    return f"<{priority}>{json.dumps(event, sort_keys=True)}\n"


def write(stream: TextIO, priority: int, event: Mapping[str, object]) -> None:
    """Writes one line and flushes the stream. Raises OSError or ValueError if the stream is closed or broken."""
    with _WRITE_LOCK:
        stream.write(line(priority, event))
        stream.flush()
