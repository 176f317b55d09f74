"""Every error that gigaseg raises on purpose, and how each ends the command.

The tree::

    GigasegError              exit 1   the run could not go on
    ├── InputError            exit 2   the user's input is wrong: every problem, in one message
    ├── StoreError            exit 1   the output cannot be written (full disk, lost store)
    ├── LeaseLost             exit 1   another process took the run over
    └── BlockError            (none)   one block cannot be done; it is quarantined and the others go on
        └── TruthError        (none)   truth holds a value outside the classes

A problem says where it is, what was found there, what is allowed and the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "BlockError",
    "GigasegError",
    "InputError",
    "LockLost",
    "Problem",
    "StoreError",
    "TruthError",
    "lines_of",
    "nearest",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the user's input.

    Attributes:
        where: file and line, YAML key or path, as in ``run.yaml:4: tiling.core``.
        found: what is there.
        allowed: what may be there; empty where the way out says it all.
        fix: the way out: the nearest valid name, a command to type.

    Example:
        >>> print(Problem("run.yaml:3: model.name", "'treshold'", "histogram, unet", "Did you mean 'histogram'?"))
        run.yaml:3: model.name: found 'treshold'; allowed: histogram, unet. Did you mean 'histogram'?
    """

    where: str
    found: str
    allowed: str = ""
    fix: str = ""

    def __str__(self) -> str:
        """Return the problem as one line."""
        text = f"{self.where}: found {self.found}"
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        return f"{text}. {self.fix}".rstrip() if self.fix else text


class GigasegError(Exception):
    """The run could not go on."""

    exit_code = 1


class InputError(GigasegError):
    """The user's input is wrong; carries every problem found, not only the first.

    Args:
        problems: one or more problems; a plain string stands for a problem that needs no parts.
    """

    exit_code = 2

    def __init__(self, problems: Problem | str | Iterable[Problem | str]) -> None:
        listed = [problems] if isinstance(problems, (Problem, str)) else list(problems)
        self.problems: tuple[Problem | str, ...] = tuple(listed)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[Problem | str, ...]]]:
        """Travel between processes with the problems, not only their text."""
        return type(self), (self.problems,)


class StoreError(GigasegError):
    """The output cannot be written: the disk is full or the store is gone."""


class LockLost(GigasegError):
    """Another process holds this run now."""


class BlockError(GigasegError):
    """One block cannot be done, however often it is tried."""


class TruthError(BlockError):
    """Truth holds a value that belongs to no class.

    Args:
        value: the value as read, or the colour.
        y: row of its first position in the image, pixels.
        x: column of its first position in the image, pixels.
    """

    def __init__(self, value: float | tuple[int, ...], y: int, x: int) -> None:
        super().__init__(f"truth value {value} at (y={y}, x={x}) belongs to no class")
        self.value, self.y, self.x = value, y, x

    def __reduce__(self) -> tuple[type[TruthError], tuple[float | tuple[int, ...], int, int]]:
        """Travel between processes with the position."""
        return type(self), (self.value, self.y, self.x)


def lines_of(error: BaseException) -> list[str]:
    """Return what a user is told of an error that ended the command, without a traceback: every problem, then its notes.

    Example:
        >>> lines_of(InputError(["one", "two"])), lines_of(KeyError("x"))[0]
        (['one', 'two'], "unexpected KeyError: 'x'")
    """
    lines = [str(error)]
    if isinstance(error, InputError):
        lines = [str(problem) for problem in error.problems]
    elif not isinstance(error, GigasegError):
        lines = [f"unexpected {type(error).__name__}: {error}", "`gigaseg --debug ...` shows the traceback."]
    return [*lines, *getattr(error, "__notes__", ())]


def nearest(word: str, words: Sequence[str]) -> str:
    """Return the way out for a misspelt name: the closest valid one, or nothing.

    Example:
        >>> nearest("treshold", ["threshold", "unet"])
        "Did you mean 'threshold'?"
        >>> nearest("zzz", ["threshold", "unet"])
        ''
    """
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else ""
