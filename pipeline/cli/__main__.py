"""``python -m pipeline.cli``: the command line without the listener for Ctrl-C that ``python -m pipeline`` starts first."""

from __future__ import annotations

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main())
