"""This process on its machine: the signals that it hears, what it tells while it works, how it is told apart from other processes.

Owns: handlers of Ctrl-C and SIGTERM, lines and JSON on stderr, ids of processes. May import: the standard library alone, because
``__main__`` needs it before anything heavy. Never touches: files, images, runs.
"""

from __future__ import annotations

from pipeline.system.events import is_json, record, say, write_json
from pipeline.system.interrupts import handle_signals, remember_interrupts
from pipeline.system.processes import birth_of, boot_id, has_ended, process_space

__all__ = [
    "birth_of",
    "boot_id",
    "handle_signals",
    "has_ended",
    "is_json",
    "process_space",
    "record",
    "remember_interrupts",
    "say",
    "write_json",
]
