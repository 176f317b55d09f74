"""How a command ends: its exit code, and the messages of an error."""

from __future__ import annotations

import os
import traceback
from typing import NoReturn

import typer

from pipeline.errors import GigasegError, lines_of
from pipeline.system import is_json, say

__all__ = ["done", "explain"]


def done(exit_code: int) -> NoReturn:
    """End the command with the exit code of its workflow."""
    raise typer.Exit(exit_code)


def explain(error: Exception) -> int:
    """Print an error on stderr, with GIGASEG_DEBUG as a traceback, and return its exit code."""
    is_debug = os.environ.get("GIGASEG_DEBUG", "0") not in ("", "0")
    exit_code = error.exit_code if isinstance(error, GigasegError) else 1
    if is_debug:
        say("".join(traceback.format_exception(error)).rstrip(), event="error", level="error", exit_code=exit_code)
    for line in () if is_debug else lines_of(error):
        say(line if is_json() else f"gigaseg: {line}", event="error", level="error", exit_code=exit_code)
    return exit_code
