"""Choice of one image in a file that holds several: scenes, series, stage positions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.readers import Member, Reader

__all__ = ["choose_series", "series_members"]


def choose_series(options: Reader, names: Sequence[str], areas: Sequence[int], path: str) -> tuple[int, tuple[str, ...]]:
    """Return the index of the image that ``reader.series`` chooses, and a note if the choice among several was automatic.

    Args:
        options: of the reader.
        names: names of the images in the file's order; at least one.
        areas: pixels in a plane of each image; the largest image is the default, the first of equals.
        path: for messages.

    Raises:
        InputError: no image or several images have this name, or ``all`` was asked of a file of several.
    """
    series = options.series
    if series == "largest" or (series == "all" and len(names) == 1):
        index = max(range(len(names)), key=areas.__getitem__)
        others = f"{len(names)} images: the largest, {names[index]!r}, is read; `reader.series` chooses another, or `all`"
        return index, (others,) if len(names) > 1 else ()
    if isinstance(series, int):
        if 0 <= series < len(names):
            return series, ()
        raise InputError(Problem(path, f"reader.series {series}", f"0..{len(names) - 1}"))
    alike = [index for index, name in enumerate(names) if name.casefold() == series.casefold()]
    found = [index for index in alike if names[index] == series] or alike
    if len(found) != 1:
        fix = "Several images have this name: choose by index." if found else nearest(series, names)
        raise InputError(Problem(path, f"reader.series {series!r}", one_of([*map(repr, names)][:50]), fix))
    return found[0], ()


def series_members(options: Reader, names: Sequence[str], path: str) -> tuple[Member, ...]:
    r"""Return every image of a file with ``series: all``; nothing if the file holds one image, or the options choose one.

    Names become paths in the output folder: they are unique, and none leads out of its folder.

    Example:
        >>> class Any(Reader):
        ...     def open(self, path): ...
        >>> [member.name for member in series_members(Any(series="all"), ["a/../b", "Pos", "Pos", ""], "x.lif")]
        ['a/_/b', 'Pos_1', 'Pos_2', '3']
    """
    if options.series != "all" or len(names) < 2:
        return ()
    safe = [_safe(name) or str(index) for index, name in enumerate(names)]
    times = Counter(name.casefold() for name in safe)
    unique = [f"{name}_{index}" if times[name.casefold()] > 1 else name for index, name in enumerate(safe)]
    return tuple(Member(name, path, {"series": index}) for index, name in enumerate(unique))


def _safe(name: str) -> str:
    """Return a relative path that does not leave its folder."""
    parts = [re.sub(r"[\x00-\x1f\x7f:*?\"<>|]", "_", part).strip() for part in re.split(r"[/\\]+", name)]
    return "/".join("_" if set(part) == {"."} else part for part in parts if part)
