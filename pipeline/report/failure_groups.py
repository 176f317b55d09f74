"""Failures grouped by cause: one damaged image is one line, however many of its blocks fail."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import counted

__all__ = ["describe_group", "group_failures"]

SHOWN_IMAGES = 3
NUMBER = re.compile(r"\d+")


def group_failures(failures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Group failures of one phase whose causes differ in nothing but numbers and the name of the image.

    Args:
        failures: ``{"image", "block", "phase", "cause", "attempts"}`` each, as report.json lists them.

    Returns:
        ``{"failures", "unit", "images", "names", "first", "phase", "cause", "attempts"}`` of each group, in the order of their
        first failure. ``unit`` is ``block`` or ``image``; ``images`` is how many there are, and ``names`` the first three of
        them; ``cause`` and ``first`` (``{"image", "block"}``) are those of the first failure; ``attempts`` is the largest.

    Example:
        >>> failure = {"image": "a", "phase": "predict", "attempts": 1}
        >>> rows = [{**failure, "block": f"a:0.0.{n}", "cause": f"a.tif: tile {n} cannot be decoded"} for n in (4, 7)]
        >>> [(one["failures"], one["cause"]) for one in group_failures(rows)]
        [(2, 'a.tif: tile 4 cannot be decoded')]
    """
    groups: dict[tuple[str, str, str], dict[str, Any]] = {}
    images: dict[tuple[str, str, str], dict[str, None]] = {}
    for failure in failures:
        unit = "image" if failure["block"] is None else "block"
        key = (unit, failure["phase"], _without_details(failure["cause"], failure["image"]))
        first = {name: failure[name] for name in ("image", "block")}
        new = {"failures": 0, "unit": unit, "first": first, "phase": failure["phase"], "cause": failure["cause"], "attempts": 0}
        group = groups.setdefault(key, new)
        group["failures"] += 1
        group["attempts"] = max(group["attempts"], failure["attempts"])
        images.setdefault(key, {})[failure["image"]] = None
    return [{**group, "images": len(images[key]), "names": list(images[key])[:SHOWN_IMAGES]} for key, group in groups.items()]


def describe_group(group: Mapping[str, Any]) -> str:
    """Return a group as one line.

    Example:
        >>> failure = {"image": "a", "phase": "predict", "cause": "no memory", "attempts": 3}
        >>> describe_group(group_failures([{**failure, "block": "a:0.0.4"}])[0])
        'predict a:0.0.4 after 3 tries: no memory'
        >>> describe_group(group_failures([{**failure, "block": f"a:0.0.{n}"} for n in (4, 7)])[0])
        'predict 2 blocks of a after 3 tries, first a:0.0.4: no memory'
    """
    cause = "".join(letter if letter.isprintable() else "?" for letter in " ".join(group["cause"].split()))
    tries = f"after {counted(group['attempts'], 'try', 'tries')}"
    first = group["first"]["block"] or group["first"]["image"]
    if group["failures"] == 1:
        return f"{group['phase']} {first} {tries}: {cause}"
    more = ", ..." if group["images"] > len(group["names"]) else ""
    names = f" ({', '.join(group['names'])}{more})"
    images = group["names"][0] if group["images"] == 1 else f"{group['images']} images{names}"
    what = images if group["unit"] == "image" else f"{group['failures']} blocks of {images}"
    return f"{group['phase']} {what} {tries}, first {first}: {cause}"


def _without_details(cause: str, image: str) -> str:
    """Return a cause without the path of its image and without numbers, such as positions."""
    return NUMBER.sub("0", re.sub(rf"\S*{re.escape(image)}\S*", "IMAGE", cause)) if image else NUMBER.sub("0", cause)
