"""What the options of the Slurm target may be. Each goes into a script, so each is checked before it is written anywhere."""

from __future__ import annotations

import re
import shlex
from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.errors import Problem
from pipeline.validation import Expected, problems_error

__all__ = ["BATCH_OPTIONS", "Amount", "BatchLine", "Folder", "Name", "ShellLine", "TimeLimit", "check_folder", "seconds_of"]

_TIMES = (
    r"(?P<minutes>\d+)(:(?P<seconds>[0-5]?\d))?",
    r"(?P<hours>\d+):(?P<minutes>[0-5]?\d):(?P<seconds>[0-5]?\d)",
    r"(?P<days>\d+)-(?P<hours>\d+)(:(?P<minutes>[0-5]?\d)(:(?P<seconds>[0-5]?\d))?)?",
)
_SECONDS = {"days": 86400, "hours": 3600, "minutes": 60, "seconds": 1}
_OPTION = "one option of sbatch, such as '--constraint=a100'"
TIME_WORDS = "a time limit in quotes ('HH:MM:SS', 'D-HH:MM:SS' or 'MINUTES')"

BATCH_OPTIONS = {
    "account": "account",
    "array": "array",
    "cpus-per-task": "cpus_per_node",
    "gres": "gpus_per_node",
    "gpus-per-node": "gpus_per_node",
    "mem": "memory",
    "nodes": "nodes",
    "output": "log_folder",
    "partition": "partition",
    "qos": "qos",
    "signal": "grace",
    "time": "time",
}
"""Options of sbatch that an option of the target sets."""
_OURS = ("job-name", "error", "open-mode", "requeue", "no-requeue", "no-kill", "ntasks", "ntasks-per-node", "wrap", "parsable", "wait")
_SHORT = {"A": "account", "a": "array", "c": "cpus-per-task", "N": "nodes", "o": "output", "p": "partition", "q": "qos", "t": "time"}
_WHOLE = ("gpus",)
"""Options of sbatch that begin as one above does, and are no abbreviation of it."""
_SHORT |= {"J": "job-name", "e": "error", "n": "ntasks", "k": "no-kill", "W": "wait"}


def seconds_of(limit: str) -> int | None:
    """Return the seconds of a time limit; None where there is no limit; raise ValueError where it is none of Slurm's forms.

    Example:
        >>> seconds_of("90"), seconds_of("1:30"), seconds_of("08:00:00"), seconds_of("2-12"), seconds_of("UNLIMITED")
        (5400, 90, 28800, 216000, None)
    """
    if limit.upper() in ("UNLIMITED", "INFINITE"):
        return None
    for form in _TIMES:
        if match := re.fullmatch(form, limit, re.ASCII):
            return sum(int(number or 0) * _SECONDS[unit] for unit, number in match.groupdict().items())
    raise ValueError(TIME_WORDS)


def _time_limit(text: str) -> str:
    if seconds_of(text) == 0:
        raise ValueError(TIME_WORDS)
    return text


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("one line without control characters")
    return text


def _shell_line(text: str) -> str:
    if not text.replace("\t", " ").isprintable():
        raise ValueError("one line of bash in each item")
    return text


def check_folder(text: str) -> str:
    """Return the path of a folder that stands in a line for sbatch as it is; raise ValueError where sbatch would read it otherwise."""
    if re.search(r'[\\"%]', _line(text)):
        raise ValueError("a folder whose path holds no quotation mark, backslash or '%', which mean something to sbatch")
    return text


def _batch_line(text: str) -> str:
    """Return an option for sbatch without ``#SBATCH``.

    sbatch takes an abbreviation for the whole name, and several options from one line: neither may set what gigaseg sets.
    """
    option = _line(text).removeprefix("#SBATCH").strip()
    match = re.fullmatch(r"(--([a-z][a-z0-9-]*)|-([A-Za-z]))([= ].*)?", option)
    if not match or not _is_one(option):
        raise ValueError(_OPTION)
    name = match[2] or _SHORT.get(match[3], match[3])
    if "export".startswith(name) and "=" in (match[4] or "")[1:]:
        fix = "Set the variable where you submit: sbatch passes it on. The script must hold no value of it."
        raise problems_error([Problem("", f"--{name} with a value", "names of variables", fix)])
    if name not in (*BATCH_OPTIONS, *_OURS, *_WHOLE):
        name = next((whole for whole in (*BATCH_OPTIONS, *_OURS) if whole.startswith(name)), name)
    if name in BATCH_OPTIONS:
        raise ValueError(f"the option `{BATCH_OPTIONS[name]}` instead")
    if name in _OURS:
        raise ValueError(f"an option that gigaseg does not set: the script needs its own --{name}")
    return option


def _is_one(option: str) -> bool:
    """Whether a line holds one option with at most one value, as sbatch splits it."""
    try:
        first, *rest = shlex.split(option)
    except ValueError:
        return False
    return not rest or (len(rest) == 1 and "=" not in first and not rest[0].startswith("-"))


_NAME = "names of letters, digits, '_', '-' and '.' (one, or several as in 'gpu,long')"
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.,@+-]*\z"), Expected(_NAME)]
"""Name of a partition, an account or a quality of service, or several."""
Amount = Annotated[str, Field(pattern=r"^[1-9][0-9]*([KMGT](iB)?)?\z"), Expected("an amount of memory (as in '64G')")]
TimeLimit = Annotated[str, AfterValidator(_time_limit), Expected(TIME_WORDS)]
BatchLine = Annotated[str, AfterValidator(_batch_line), Expected(_OPTION)]
ShellLine = Annotated[str, AfterValidator(_shell_line), Expected("one line of bash")]
Folder = Annotated[str, AfterValidator(check_folder), Expected("a folder")]
