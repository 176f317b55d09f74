"""NAME: what an image is called in the output folder."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["NameCandidate", "name_flaw", "resolve_names"]


@dataclass(frozen=True)
class NameCandidate:
    """The name of an image before collisions are resolved.

    Attributes:
        full: with its suffix, ``/`` between folders.
        fixed: whether the user chose it, so that it stays as it is.
    """

    full: str
    fixed: bool = False

    def short(self, suffixes: Sequence[str]) -> str:
        """Return the name without its longest known suffix.

        Example:
            >>> NameCandidate("a/b.ome.tif").short([".tif", ".ome.tif"]), NameCandidate(".tif").short([".tif"])
            ('a/b', '.tif')
        """
        last = self.full.rpartition("/")[2].lower()
        known = [] if self.fixed else [suffix for suffix in suffixes if last.endswith(suffix) and last != suffix]
        return self.full[: len(self.full) - max(map(len, known), default=0)]


def resolve_names(candidates: Sequence[NameCandidate], suffixes: Sequence[str]) -> list[str]:
    """Return a name for each image, without the suffix unless names then collide.

    Names that collide with their suffix as well stay equal: the caller refuses them.

    Example:
        >>> resolve_names([NameCandidate("a.tif"), NameCandidate("a.png"), NameCandidate("b.png")], [".tif", ".png"])
        ['a.tif', 'a.png', 'b']
    """
    names = [candidate.short(suffixes) for candidate in candidates]
    while True:
        # A name that got its suffix back may equal another that lost one, so the names are compared again.
        times = Counter(names)
        resolved = [candidate.full if times[name] > 1 else name for candidate, name in zip(candidates, names, strict=True)]
        if resolved == names:
            return names
        names = resolved


def name_flaw(name: str) -> str:
    """Return why a name cannot be a path below the output folder; empty where it can.

    Example:
        >>> name_flaw("slides/a"), name_flaw("../a"), name_flaw("/a"), name_flaw("a.zarr/b")
        ('', "a part '..'", 'an empty part', "a folder 'a.zarr', which is where a mask may lie")
    """
    parts = name.split("/")
    if not all(parts):
        return "an empty part"
    for part in parts:
        if part in (".", ".."):
            return f"a part {part!r}"
    if "\\" in name:
        return "a backslash"
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        return "a control character or a byte that is not UTF-8"
    stores = [part for part in parts[:-1] if part.lower().endswith(".zarr")]
    return f"a folder {stores[0]!r}, which is where a mask may lie" if stores else ""
