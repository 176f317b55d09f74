"""Write a ready, commented YAML to start from."""

from __future__ import annotations

from pathlib import Path

import yaml

from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.training import is_training

__all__ = ["init", "kinds"]

FOLDER = Path(__file__).parent  # of the ready YAMLs, ``KIND.yaml`` each


def kinds() -> list[str]:
    """Return the names of the ready YAMLs."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def init(kind: str, folder: Path) -> int:
    """Copy a ready YAML, one of :func:`kinds`, into a folder; an existing file is never replaced. Returns 0.

    Raises:
        InputError: there is no such kind, or the file exists.
    """
    if kind not in kinds():
        raise InputError(Problem("init", repr(kind), one_of(kinds()), nearest(kind, kinds())))
    target = folder / f"{kind}.yaml"
    text = (FOLDER / target.name).read_text(encoding="utf-8")
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(Problem(str(target), "a file that is there already", "", "Move it away or change folder.")) from None
    command = "train" if is_training(yaml.safe_load(text)) else "run"
    print(f"{target}\nEdit it, then: gigaseg {command} {target.name}")
    return 0
