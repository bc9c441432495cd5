"""Log output: JSON lines for programs, a few plain lines for people.

Every event carries its name in `event` and its values in `fields` (see `logging`'s `extra`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TextIO

LEVELS = {logging.WARNING: "WARN", logging.CRITICAL: "ERROR"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, event, message, and the event's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """As `logging.Formatter.format`."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": LEVELS.get(record.levelno, record.levelname),
            "logger": record.name,
            "event": getattr(record, "event", "message"),
            "message": record.getMessage(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Stream(logging.Handler):
    """Writes to whatever the stream is now: doit swaps sys.stdout while a task runs."""

    def __init__(self, stream: Callable[[], TextIO]) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        stream = self._stream()
        stream.write(self.format(record) + "\n")
        stream.flush()


def log_to(stream: Callable[[], TextIO], *, as_json: bool) -> None:
    """Send the `preflight` loggers to a stream: everything as JSON lines, or warnings alone for people.

    Errors are not repeated for people: who fails a task says why.
    """
    root = logging.getLogger("preflight")
    handler = _Stream(stream)
    if as_json:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("   warning: %(message)s"))
        handler.addFilter(lambda record: record.levelno == logging.WARNING)
    root.handlers = [handler]
    root.setLevel(logging.DEBUG)
    root.propagate = False
