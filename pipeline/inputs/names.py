"""NAME of each image: what its outputs are called, below the output folder.

Names are in Unicode's form NFC, so that files whose names look alike are known to be alike.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import normal_form

__all__ = ["MAX_NAME_BYTES", "NameCandidate", "cut_name", "is_path_too_long", "name_flaw", "resolve_names"]

MAX_PART_BYTES = 255  # of a file or folder, on nearly every file system
MAX_NAME_BYTES = 215  # of the last part of a NAME: its files add a suffix, and those that are not finished 26 bytes more
MAX_PATH_BYTES = 4095  # of a path, on Linux
PATH_MARGIN = 100  # bytes of a path below that of a mask: levels, chunks, unfinished files
HASH_BYTES = 6


@dataclass(frozen=True)
class NameCandidate:
    """The name of an image before collisions are resolved.

    Example:
        >>> NameCandidate("a/b.ome.tif").short([".tif", ".ome.tif"]), NameCandidate("p.zarr", member="A/1/0").short([".zarr"])
        ('a/b', 'p/A/1/0')
    """

    name: str  # of the file, with its suffix, `/` between folders
    fixed: bool = False  # whether the user chose it, so that it stays as it is
    member: str = ""  # which image of a file that holds several

    @property
    def full(self) -> str:
        """The name with its suffix."""
        return self._of(self.name)

    def short(self, suffixes: Sequence[str]) -> str:
        """Return the name without its longest known suffix."""
        last = self.name.rpartition("/")[2].lower()
        known = [] if self.fixed else [suffix for suffix in suffixes if last.endswith(suffix) and last != suffix]
        return self._of(self.name[: len(self.name) - max(map(len, known), default=0)])

    def _of(self, name: str) -> str:
        return normal_form(f"{name}/{self.member}" if self.member else name)


def resolve_names(candidates: Sequence[NameCandidate], suffixes: Sequence[str]) -> list[str]:
    """Return a name for each image, without the suffix unless names then collide.

    Names that collide with their suffix as well stay equal: the caller refuses them.
    """
    names = [candidate.short(suffixes) for candidate in candidates]
    while True:
        # A name that got its suffix back may equal another that lost one, so the names are compared again.
        times = Counter(names)
        resolved = [candidate.full if times[name] > 1 else name for candidate, name in zip(candidates, names, strict=True)]
        if resolved == names:
            return names
        names = resolved


def cut_name(name: str) -> str:
    """Return a name whose last part is short enough for the files of an image: what is cut off is replaced by a hash of all.

    Example:
        >>> cut_name("slides/a"), len(cut_name("a" * 251)), cut_name("a" * 251)[200:]
        ('slides/a', 215, 'aa~8bfe087431e8')
    """
    folder, slash, last = name.rpartition("/")
    data = last.encode(errors="surrogatepass")
    if len(data) <= MAX_NAME_BYTES:
        return name
    end = "~" + hashlib.blake2b(data, digest_size=HASH_BYTES).hexdigest()
    return folder + slash + data[: MAX_NAME_BYTES - len(end)].decode(errors="replace").rstrip("\N{REPLACEMENT CHARACTER}") + end


def is_path_too_long(output: str, name: str) -> bool:
    """Whether the files of an image would have longer paths below a local output folder than the system allows."""
    return len(os.fsencode(f"{output}/masks/{name}.ome.zarr")) + PATH_MARGIN > MAX_PATH_BYTES


def name_flaw(name: str) -> str:
    """Return why a name cannot be a path below the output folder; empty where it can."""
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
    limits = [MAX_PART_BYTES] * (len(parts) - 1) + [MAX_NAME_BYTES]
    for part, limit in zip(parts, limits, strict=True):
        if len(part.encode()) > limit:
            return f"a part of {len(part.encode())} bytes, more than {limit}"
    stores = [part for part in parts[:-1] if part.lower().endswith(".zarr")]
    return f"a folder {stores[0]!r}, which is where a mask may lie" if stores else ""
