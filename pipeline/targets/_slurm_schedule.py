"""An entry of Slurm's crontab: a small job that submits a script again and again."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import GigasegError, InputError
from pipeline.targets import say
from pipeline.targets._slurm_commands import answered, call

__all__ = ["Entry"]


@dataclass(frozen=True)
class Entry:
    """The entry of a run, which replaces an earlier one of its name.

    Attributes:
        name: of the run's jobs.
        when: five fields, as cron has them.
        script: what is submitted, unless a job of that name waits or runs.
        options: of the small job that submits; None: not given.
    """

    name: str
    when: str
    script: Path
    options: Mapping[str, str | None]

    @property
    def line(self) -> str:
        """The line of the entry that cron understands as well; the path of a script holds no ``%``, which cron takes for a new line."""
        command = f'[ -n "$(squeue --noheader --me --name={self.name})" ] || sbatch {shlex.quote(str(self.script))}'
        return f"{self.when} {command}"

    @property
    def text(self) -> str:
        """The whole entry, with the options of the small job."""
        own = {
            "job-name": f"{self.name}-schedule",
            "time": "5",
            "open-mode": "append",
            "output": f'"{self.script.with_suffix(".cron.log")}"',
        }
        options = {**own, **{name: value for name, value in self.options.items() if value is not None}}
        return "\n".join([self._title, *(f"#SCRON --{name}={value}" for name, value in options.items()), self.line])

    @property
    def _title(self) -> str:
        return f"# {self.name}: gigaseg submit --schedule"

    def add(self) -> str:
        """Add the entry to Slurm's crontab, and return it; where Slurm has none, say so and return the line for cron."""
        others = self._others()
        if others is None:
            say("Slurm's crontab is disabled here; add this line to the crontab of a machine that submits jobs (crontab -e):")
            return self.line
        self._write([*others, *self.text.splitlines()])
        return self.text

    def remove(self) -> str:
        """Remove the entry and return its name; empty where there is none."""
        others = self._others()
        if others is None or others == self._lines():
            return ""
        self._write(others)
        return f"{self.name}-schedule"

    def _others(self) -> list[str] | None:
        """Return the lines of Slurm's crontab without this entry; None where Slurm has no crontab."""
        lines, others, own = self._lines(), [], False
        if lines is None:
            return None
        for line in lines:
            own = own or line == self._title
            if not own:
                others.append(line)
            own = own and line.startswith("#")
        return others

    @staticmethod
    def _lines() -> list[str] | None:
        if shutil.which("scrontab") is None:
            return None
        try:
            return answered(lambda: call("scrontab", "-l")).splitlines()
        except GigasegError as error:
            if isinstance(error, InputError):
                raise
            return [] if "no crontab" in str(error).lower() else None

    @staticmethod
    def _write(lines: list[str]) -> None:
        answered(lambda: call("scrontab", "-", script="".join(f"{line}\n" for line in lines)))
