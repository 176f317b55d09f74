"""The command ``gigaseg``, or ``python -m pipeline``: listens for Ctrl-C, then imports the command line."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from pipeline.system import remember_interrupts

__all__ = ["main"]

INTERRUPTED = 130


def main() -> int:
    """Run one command and return its exit code; one that was interrupted ends here, whatever its threads wait for."""
    try:
        with remember_interrupts():
            from pipeline.cli import main as run_command

            exit_code = run_command()
    except KeyboardInterrupt:
        exit_code = INTERRUPTED
    if exit_code == INTERRUPTED:
        with suppress(OSError):
            sys.stdout.flush()
        os._exit(INTERRUPTED)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
