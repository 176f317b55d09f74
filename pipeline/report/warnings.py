"""Warnings of images, which say why a mask is to be treated with care, grouped by what they say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.errors import counted, printable
from pipeline.inputs import first_of

__all__ = ["warning_lines"]

NAMED = 3  # images that a line names


def warning_lines(report: Mapping[str, Any], most: int) -> list[str]:
    """Return a line for each warning, with the images that it is about, those of most images first.

    Args:
        report: the content of report.json.
        most: lines, at most; one more says of how many images there are other warnings.

    Example:
        >>> unlike = "unlike what nuclei was trained on (colour): treat its mask with care"
        >>> for line in warning_lines({"per_image": [{"name": name, "warnings": [unlike]} for name in "abcde"]}, 3):
        ...     print(line)
        a, b, c and 2 more: unlike what nuclei was trained on (colour): treat their masks with care
    """
    images: dict[str, list[str]] = {}
    for image in report["per_image"]:
        for warning in image.get("warnings", ()):
            images.setdefault(warning, []).append(printable(image["name"]))
    ranked = sorted(images, key=lambda warning: -len(images[warning]))
    lines = [f"{first_of(images[one], NAMED)}: {_plural(one) if len(images[one]) > 1 else one}" for one in ranked[:most]]
    if others := {name for one in ranked[most:] for name in images[one]}:
        lines.append(f"other warnings: {counted(len(others), 'image')}, see report/per_image.csv")
    return lines


def _plural(warning: str) -> str:
    return warning.replace("treat its mask", "treat their masks")
