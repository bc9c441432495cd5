"""Lines for the journal: `<priority>` and one JSON object, on stderr (sd-daemon(3); systemd's SyslogLevelPrefix)."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from typing import TextIO

_ONE_AT_A_TIME = threading.Lock()


def line(priority: int, event: Mapping[str, object]) -> str:
    """One line, ASCII. A line feed inside a value is escaped: nothing can forge a second line."""
    return f"<{priority}>{json.dumps(event, sort_keys=True)}\n"


def write(stream: TextIO, priority: int, event: Mapping[str, object]) -> None:
    """Write one line and flush. Raises OSError or ValueError where the stream is gone."""
    with _ONE_AT_A_TIME:
        stream.write(line(priority, event))
        stream.flush()
