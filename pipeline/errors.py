"""Every error that gigaseg raises on purpose, and how each ends the command.

The tree::

    GigasegError              exit 1   the run could not go on
    ├── InputError            exit 2   the user's input is wrong: every problem, in one message
    │   └── AlreadyRunning    exit 4   a live process holds the run
    ├── StoreError            exit 1   the output cannot be written (full disk, lost store)
    ├── LockLost              exit 1   another process took the run over
    └── BlockError            (none)   one block cannot be done; it is quarantined and the others go on
        └── TruthError        (none)   truth holds a value outside the classes

A :class:`Problem` says where the mistake is, what was found there, what was expected, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = [
    "AlreadyRunning",
    "BlockError",
    "GigasegError",
    "InputError",
    "LockLost",
    "Problem",
    "StoreError",
    "TruthError",
    "cause_of",
    "counted",
    "lines_of",
    "nearest",
    "one_of",
    "printable",
]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in the user's input.

    Example:
        >>> print(Problem("run.yaml:3: model.name", "'treshold'", "histogram or unet", "Did you mean 'histogram'?"))
        run.yaml:3: model.name: found 'treshold'; expected histogram or unet. Did you mean 'histogram'?
        >>> print(Problem("run.yaml:5: model.classes", None, "a whole number"))
        run.yaml:5: model.classes is missing; expected a whole number
    """

    where: str  # file and line, YAML key or path, as in `run.yaml:4: tiling.core`
    found: str | None  # what is there; None: the key is missing
    expected: str = ""  # what may be there; empty where `fix` says enough
    fix: str = ""  # what to do, as a sentence: the nearest valid name, a command to type

    def __str__(self) -> str:
        """Return the problem as one line."""
        text = f"{self.where} is missing" if self.found is None else f"{self.where}: found {self.found}"
        if self.expected:
            text += f"; expected {self.expected}"
        return f"{text}. {self.fix}" if self.fix else text


class GigasegError(Exception):
    """The run could not go on."""

    exit_code = 1


class InputError(GigasegError):
    """The user's input is wrong; holds every problem. A string is a message that names its place itself."""

    exit_code = 2

    def __init__(self, problems: Problem | str | Iterable[Problem | str]) -> None:
        self.problems: tuple[Problem | str, ...] = (problems,) if isinstance(problems, (Problem, str)) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[Problem | str, ...]]]:
        """Pickle the problems rather than their text."""
        return type(self), (self.problems,)


class AlreadyRunning(InputError):
    """A live process holds the output folder."""

    exit_code = 4


class StoreError(GigasegError):
    """The output cannot be written: the disk is full, or the store cannot be reached."""


class LockLost(GigasegError):
    """Another process holds this run now."""


class BlockError(GigasegError):
    """One block cannot be done, however often it is tried."""


class TruthError(BlockError):
    """The truth holds a value, or a colour, that belongs to no class; first at row y and column x of the image."""

    def __init__(self, value: float | tuple[int, ...], y: int, x: int) -> None:
        super().__init__(f"truth value {value} at (y={y}, x={x}) belongs to no class")
        self.value, self.y, self.x = value, y, x

    def __reduce__(self) -> tuple[type[TruthError], tuple[float | tuple[int, ...], int, int]]:
        """Pickle the value and its position."""
        return type(self), (self.value, self.y, self.x)


def lines_of(error: BaseException) -> list[str]:
    """Return the lines that the command prints for an error that ended it: every problem, then the notes, no traceback.

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


def cause_of(error: BaseException) -> str:
    """Return why something failed; an error that nobody foresaw, as of the decoder of a damaged file, is named by its kind.

    Example:
        >>> cause_of(BlockError("no memory")), cause_of(KeyError("x"))
        ('no memory', "KeyError: 'x'")
    """
    return str(error) if isinstance(error, (GigasegError, OSError)) else f"{type(error).__name__}: {error}"


def nearest(word: str, words: Sequence[str]) -> str:
    """Return a question that offers the closest valid name; an empty text where none is close.

    Example:
        >>> nearest("treshold", ["threshold", "unet"]), nearest("zzz", ["threshold", "unet"])
        ("Did you mean 'threshold'?", '')
    """
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else ""


def one_of(names: Sequence[str]) -> str:
    """Return the choices as a message lists them.

    Example:
        >>> one_of(["crop", "linear", "gaussian"]), one_of(["serial"])
        ('crop, linear or gaussian', 'serial')
    """
    return " or ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(number: int, one: str, many: str = "") -> str:
    """Return a number of things.

    Example:
        >>> counted(1, "failure"), counted(2, "failure"), counted(3, "try", "tries")
        ('1 failure', '2 failures', '3 tries')
    """
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def printable(text: str) -> str:
    r"""Return a line with ``?`` for what a terminal obeys instead of showing it: names in files of others may hold such codes.

    Example:
        >>> printable("cell \x1b[2J")
        'cell ?[2J'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in text)
