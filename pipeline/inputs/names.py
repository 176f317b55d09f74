"""NAME of each image: the relative path of its outputs, without suffix.

Names are in Unicode's form NFC, so that names that look alike are equal.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config import normal_form

__all__ = ["MAX_NAME_BYTES", "SHORT", "NameCandidate", "cut_name", "is_path_too_long", "long_part", "name_flaw", "resolve_names"]

MAX_PART_BYTES = 255  # of a file or folder, on nearly every file system
MAX_NAME_BYTES = 215  # of the last part of a NAME: files add a suffix, unfinished files 26 bytes more
MAX_PATH_BYTES = 4095  # of a path, on Linux
PATH_MARGIN = 450  # bytes for the folder in which a mask is made, and paths inside it: levels, chunks, unfinished files
HASH_BYTES = 6
SHORT = f"parts of at most {MAX_PART_BYTES} bytes, the last one of {MAX_NAME_BYTES}, and paths of at most {MAX_PATH_BYTES}"


@dataclass(frozen=True)
class NameCandidate:
    """The name of an image before collisions are resolved.

    Example:
        >>> NameCandidate("a/b.ome.tif").short([".tif", ".ome.tif"]), NameCandidate("p.zarr", member="A/1/0").short([".zarr"])
        ('a/b', 'p/A/1/0')
    """

    name: str  # of the file, with its suffix, `/` between folders
    fixed: bool = False  # whether the user chose it: it is never changed
    member: str = ""  # the image in a file that holds several

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
    """Return a name for each image; the suffix is cut unless names would collide.

    Names that collide with suffixes too stay equal: the caller refuses them.
    """
    names = [candidate.short(suffixes) for candidate in candidates]
    while True:
        # A name that got its suffix back may equal another one that lost its suffix, so names are compared again.
        times = Counter(names)
        resolved = [candidate.full if times[name] > 1 else name for candidate, name in zip(candidates, names, strict=True)]
        if resolved == names:
            return names
        names = resolved


def cut_name(name: str) -> str:
    """Return a name whose last part leaves room for suffixes; a hash of the whole part replaces its cut end.

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
    """Whether an image's files below a local output folder would exceed the system's path length."""
    return len(os.fsencode(f"{output}/masks/{name}.ome.zarr")) + PATH_MARGIN > MAX_PATH_BYTES


def long_part(name: str) -> str:
    """Return which part of a name is too long for a file system; empty if none is.

    Example:
        >>> long_part("slides/a"), long_part("é" * 125), long_part("é" * 125 + "/a")
        ('', 'a part of 250 bytes, more than 215', '')
    """
    *folders, last = name.split("/")
    for part, limit in (*((folder, MAX_PART_BYTES) for folder in folders), (last, MAX_NAME_BYTES)):
        size = len(part.encode(errors="surrogatepass"))
        if size > limit:
            return f"a part of {size} bytes, more than {limit}"
    return ""


def name_flaw(name: str) -> str:
    """Return why a name cannot be a path below the output folder, whatever its length; empty if it can."""
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
    return f"a folder {stores[0]!r}, whose name may be that of a mask" if stores else ""
