"""Log output: JSON lines for programs, or warnings as plain lines for people.

A log record carries the name of its event in `event` and the values in `fields` (parameter `extra` of `logging`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TextIO

LEVELS = {logging.WARNING: "WARN", logging.CRITICAL: "ERROR"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line with a JSON object: time, level, logger, event, message and the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record."""
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
    """Asks for the stream at each record, because doit replaces sys.stdout while a task runs."""

    def __init__(self, stream: Callable[[], TextIO]) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        stream = self._stream()
        stream.write(self.format(record) + "\n")
        stream.flush()


def log_to(stream: Callable[[], TextIO], *, as_json: bool) -> None:
    """Send the records of the `c10_provisioning` loggers to a stream, in place of any earlier stream.

    Args:
        stream: returns the stream. It is called for each record.
        as_json: write all records as JSON lines. Otherwise write only warnings, as plain text. Errors are left out of
            the plain text because the failing task prints them.
    """
    root = logging.getLogger("c10_provisioning")
    handler = _Stream(stream)
    if as_json:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("   warning: %(message)s"))
        handler.addFilter(lambda record: record.levelno == logging.WARNING)
    root.handlers = [handler]
    root.setLevel(logging.DEBUG)
    root.propagate = False
