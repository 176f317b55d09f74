"""``--set key.sub=value``: what the command line changes in a YAML document."""

from __future__ import annotations

from typing import Any

from pipeline.config.yaml_document import YamlDocument, parse_yaml
from pipeline.errors import Problem
from pipeline.validation import quote

__all__ = ["apply_override"]


def apply_override(document: YamlDocument, override: str) -> None:
    """Change one value of a document, in place; what is wrong is added to its problems.

    Args:
        document: its data; mappings that the key passes through are made where they are missing.
        override: ``key.sub=value``; the value is YAML, and a whole number in the key is the index of a list.

    Raises:
        InputError: the value is not YAML.
    """
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    key = ".".join(parts)
    if not equals or not all(parts):
        document.problems.append(Problem(f"--set {override}", quote(override), "key.sub=value, such as tiling.core=512"))
        return
    parsed = parse_yaml(value, f"--set {key}")
    document.problems += parsed.problems
    holder: Any = document.data
    for depth, part in enumerate(parts):
        index = _index(document, holder, parts, depth)
        if index is None:
            return
        if depth == len(parts) - 1:
            holder[index] = parsed.data
        elif isinstance(holder, dict) and holder.get(part) is None:
            holder[index] = {}
            document.sets[".".join(parts[: depth + 1])] = key
        holder = holder[index]
    for written in (document.lines, document.sets):
        for stale in [name for name in written if f"{name}.".startswith(f"{key}.")]:
            del written[stale]
    document.sets[key] = key


def _index(document: YamlDocument, holder: Any, parts: list[str], depth: int) -> str | int | None:
    """Return the index of one part of the key in a mapping or a list; add a problem and return None where it has none."""
    where, part = f"--set {'.'.join(parts)}", parts[depth]
    if isinstance(holder, dict):
        return part
    if not isinstance(holder, list):
        found = f"{quote(holder, with_type=True)} at {'.'.join(parts[:depth])}"
        document.problems.append(Problem(where, found, "a mapping or a list"))
    elif part.isdecimal() and int(part) < len(holder):
        return int(part)
    else:
        expected = f"0 to {len(holder) - 1}" if holder else "no index, as the list is empty"
        document.problems.append(Problem(where, f"index {part!r}", expected))
    return None
