"""What happens while a command works, told to people as text on stderr, or to log collectors as JSON where ``--log-json`` asks for it.

One object a line, with the names that Loki, Datadog and journald's readers know; what an event is about stands in fields of its own::

    {"timestamp": "2026-11-30T07:45:20.567+00:00", "level": "warning", "event": "block quarantined",
     "message": "quarantine predict s1:0.6.14 after 1 try: ...", "image": "s1", "block": "s1:0.6.14", "phase": "predict", ...}
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import datetime
from typing import Any, TextIO

__all__ = ["is_json", "record", "say", "write_json"]

LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
logger = logging.getLogger("gigaseg")


class _JsonLines(logging.Formatter):
    """Formats records of this and of every other library as one line of JSON each."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        line = {
            "timestamp": datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": fields.get("event", "log"),
            "message": record.getMessage(),
            **fields,
        }
        if record.name != logger.name:
            line["logger"] = record.name
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Handler(logging.StreamHandler[TextIO]):
    """Marks the handler of this module among others of the root logger."""


def write_json() -> None:
    """Write JSON on stderr from now on, warnings of Python and records of other libraries included."""
    if is_json():
        return
    handler = _Handler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.getLogger().addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.captureWarnings(True)


def is_json() -> bool:
    """Return whether JSON is written instead of text."""
    return any(isinstance(handler, _Handler) for handler in logging.getLogger().handlers)


def say(message: str, *, event: str = "note", level: str = "info", **fields: Any) -> None:
    """Tell people a line on stderr; where JSON is written, an object."""
    if is_json():
        record(message, event=event, level=level, **fields)
    else:
        sys.stderr.write(f"{message}\n")
        sys.stderr.flush()


def record(message: str, *, event: str = "log", level: str = "info", **fields: Any) -> None:
    """Write an object where JSON is written, and nothing elsewhere: what log.txt says to people.

    Args:
        message: for people.
        event: what happened, in a few words that do not change.
        level: info, warning or error.
        fields: what it happened to, such as ``image``, ``block``, ``phase`` and ``attempts``.
    """
    if is_json():
        logger.log(LEVELS[level], "%s", message, extra={"fields": {"event": event, **fields}})
