"""Where each key was written: file and line, or the ``--set`` that gave it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["KeyLocations"]


@dataclass(frozen=True)
class KeyLocations:
    """Where each key of a config was written.

    Attributes:
        origin: the file's name as typed, or what made the config where there is no file.
        lines: line of each key, from 1, by its dotted name (``classes.1.name``).
        sets: for each key that a ``--set`` gave, the text left of its ``=``.
    """

    origin: str = ""
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)
    sets: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __eq__(self, other: object) -> bool:
        """Return True: configs of equal values are equal wherever these were written."""
        return isinstance(other, KeyLocations)

    __hash__ = None  # type: ignore[assignment]

    def where(self, key: str) -> str:
        """Return what a message calls a key; a key that was not written has the line of the mapping around it.

        Example:
            >>> locations = KeyLocations("run.yaml", {"tiling": 3, "tiling.core": 4}, {"model": "model"})
            >>> locations.where("tiling.core"), locations.where("tiling.halo")
            ('run.yaml:4: tiling.core', 'run.yaml:3: tiling.halo')
            >>> locations.where("output"), locations.where("model"), locations.where("model.name")
            ('run.yaml: output', '--set model', '--set model: model.name')
        """
        for written in _key_and_parents(key):
            if written in self.sets:
                typed = f"--set {self.sets[written]}"
                return typed if f"{self.sets[written]}.".startswith(f"{key}.") else f"{typed}: {key}"
            if written in self.lines:
                return f"{self.origin}:{self.lines[written]}: {key}"
        return ": ".join(part for part in (self.origin, key) if part)

    def is_from_command_line(self, key: str) -> bool:
        """Whether a ``--set`` gave the value."""
        return any(written in self.sets for written in _key_and_parents(key))

    def line(self, key: str) -> int:
        """Return the line of a key, or of the mapping around it; 0 where there is none."""
        return next((self.lines[written] for written in _key_and_parents(key) if written in self.lines), 0)


def _key_and_parents(key: str) -> Iterator[str]:
    while key:
        yield key
        key = re.sub(r"(^|[.:])[^.:]*$", "", key)
