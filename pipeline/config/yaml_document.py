"""A YAML file as plain data, with the line of every key, and what ``--set`` changes in it.

Only a safe subset of YAML is read: plain tags, each key once, keys that are text, and aliases whose expansion stays small.
A date stays the text that was typed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import InputError, Problem
from pipeline.validation import join_keys, quote

__all__ = ["KeyLocations", "YamlDocument", "apply_override", "parse_typed", "parse_yaml", "read_yaml"]

_MAX_BYTES = 8 * 2**20
_MAX_NODES = 200_000  # with aliases followed: a few hundred bytes of nested aliases can stand for 10**9 values
_MAX_DEPTH = 50
_CORE = "tag:yaml.org,2002:"
_TEXT = (f"{_CORE}str", f"{_CORE}timestamp")
_CONSTANTS = ("", "null", "~", "true", "false", "yes", "no", "on", "off")
_BEGINS_WITH_BRACKETS = re.compile(r"\{\w+\}.|\[[^\[\]{}]*\][^\s\[\]{}]")  # `{stem}.png`, `[ab]*.tif`
_PLAIN = (*_TEXT, *(f"{_CORE}{kind}" for kind in ("null", "bool", "int", "float", "map", "seq", "merge")))


@dataclass
class KeyLocations:
    """Where each key of a config was written; any two are equal, so that configs of equal values are."""

    origin: str = field(default="", compare=False)  # the file's name as typed, or what made the config where there is no file
    lines: dict[str, int] = field(default_factory=dict, compare=False)  # line of each key, from 1, by its dotted name (`classes.1.name`)
    sets: dict[str, str] = field(default_factory=dict, compare=False)  # for each key that a `--set` gave, the text left of its `=`
    left_out: set[str] = field(default_factory=set, compare=False)  # keys of default plug-ins that nobody wrote, or chose by a `--set`

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


@dataclass
class YamlDocument:
    """The data of a YAML file or of a mapping, before it is checked; each problem names its place."""

    data: Any
    locations: KeyLocations
    problems: list[Problem] = field(default_factory=list)


def read_yaml(path: Path, origin: str = "") -> YamlDocument:
    """Read a file; refuse one that is unreadable, no YAML, or stands for more than a config can hold. Messages call it ``origin``."""
    origin = origin or str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InputError(Problem(origin, f"no readable file ({error.strerror or error})", "a YAML file")) from error
    if len(raw) > _MAX_BYTES:
        raise InputError(Problem(origin, f"more than {_MAX_BYTES >> 20} MiB", "a YAML file", "List many images in a CSV file."))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(Problem(origin, f"byte {raw[error.start]:#04x} at position {error.start}", "YAML in UTF-8")) from error
    return parse_yaml(text, origin)


def parse_yaml(text: str, origin: str) -> YamlDocument:
    """Parse the text of a YAML file, or of the value of a ``--set``; raises as :func:`read_yaml` does."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            builder = _Builder(loader, origin)
            node = loader.get_single_node()
            builder.document.data = None if node is None else builder.build(node, "", 0)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = Problem(f"{origin}{line}", f"invalid YAML ({error.problem or error.context})", "", _quotes(text, error))
        raise InputError(problem) from error
    except yaml.YAMLError as error:
        raise InputError(Problem(origin, f"invalid YAML ({' '.join(str(error).split())})")) from error
    except RecursionError as error:
        raise InputError(Problem(origin, "lists or mappings nested too deeply", f"at most {_MAX_DEPTH} levels")) from error
    return builder.document


def parse_typed(text: str, origin: str) -> YamlDocument:
    """Parse a value that was typed after ``--set``: YAML where it stands for all that was typed, otherwise the text itself.

    Lists and mappings have brackets. A comment, an alias, ``key: value`` without brackets, and numbers that YAML reads in base 8
    or 60 are text. A tag is refused.

    Raises:
        InputError: brackets or quotes that do not end where the value ends; other problems are those of :func:`parse_yaml`.

    Example:
        >>> [parse_typed(text, "").data for text in ("/x/run #1", "a: b", "*.tif", "{stem}.png", "1:30", "#ff0000")]
        ['/x/run #1', 'a: b', '*.tif', '{stem}.png', '1:30', '#ff0000']
        >>> [parse_typed(text, "").data for text in ("12", "[a, 1]", "{name: x}", "'#1'", "null", "")]
        [12, ['a', 1], {'name': 'x'}, '#1', None, None]
    """
    typed = text.strip()
    as_text = YamlDocument(typed, KeyLocations(origin))
    if typed.startswith(("[", "{", '"', "'")) and not _BEGINS_WITH_BRACKETS.match(typed):
        parsed = parse_yaml(typed, origin)
        node = yaml.compose(typed, yaml.SafeLoader)
        end = node.end_mark.index if node else 0
        if end < len(typed):
            fix = "Put text in quotes of its own, such as '\"[a] #1\"'."
            raise InputError(Problem(origin, f"{quote(typed[end:].strip())} behind {quote(typed[:end])}", "nothing behind it", fix))
        return parsed
    try:
        parsed = parse_yaml(typed, origin)
    except InputError:
        return as_text
    if parsed.problems:
        return parsed if typed.startswith("!") else as_text
    return parsed if _stands_for(parsed.data, typed) else as_text


def _stands_for(data: Any, typed: str) -> bool:
    """Whether a scalar without quotes stands for all that was typed."""
    if isinstance(data, (bool, str)) or data is None:
        return data == typed if isinstance(data, str) else typed.lower() in _CONSTANTS
    if isinstance(data, int):
        return _is(lambda: int(typed, 0) == data)
    return isinstance(data, float) and (typed.lower().lstrip("+-") in (".inf", ".nan") or _is(lambda: float(typed) == data))


def _is(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except ValueError:
        return False


def _quotes(text: str, error: yaml.MarkedYAMLError) -> str:
    """Return advice on quotes where YAML took a glob for an alias, or the ``{stem}`` of a pattern for a mapping."""
    starts = [mark.index for mark in (error.context_mark, error.problem_mark) if mark]
    is_glob = any(text.startswith("*", start) for start in starts)
    is_pattern = any(text[start - 1 : start] == "}" and text[start : start + 1] not in "}]," for start in starts)
    return 'Text that begins with * or { needs quotes, as in "*.png" and "{stem}.png".' if is_glob or is_pattern else ""


class _Builder:
    """Turns YAML nodes into data, notes the lines, and refuses what does not belong in a config."""

    def __init__(self, loader: yaml.SafeLoader, origin: str) -> None:
        self.loader = loader
        self.document = YamlDocument(None, KeyLocations(origin))
        self.origin, self.lines = origin, self.document.locations.lines
        self.num_nodes = 0

    def refuse(self, node: yaml.Node, key: str, found: str, expected: str, fix: str = "") -> None:
        where = f"{self.origin}:{node.start_mark.line + 1}" + (f": {key}" if key else "")
        self.document.problems.append(Problem(where, found, expected, fix))

    def build(self, node: yaml.Node, key: str, depth: int) -> Any:
        self.num_nodes += 1
        if self.num_nodes > _MAX_NODES or depth > _MAX_DEPTH:
            limit = f"at most {_MAX_DEPTH} levels" if depth > _MAX_DEPTH else f"at most {_MAX_NODES} values, aliases followed"
            raise InputError(Problem(f"{self.origin}:{node.start_mark.line + 1}", "more than a config can hold", limit))
        if node.tag not in _PLAIN:
            self.refuse(node, key, f"the tag {node.tag.replace(_CORE, '!!')}", "plain YAML without tags")
            return None
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, key, depth)
        if isinstance(node, yaml.SequenceNode):
            items = []
            for index, item in enumerate(node.value):
                self.lines[join_keys(key, index)] = item.start_mark.line + 1
                items.append(self.build(item, join_keys(key, index), depth + 1))
            return items
        return self.scalar(node, key)

    def scalar(self, node: yaml.Node, key: str) -> Any:
        if node.tag in _TEXT:
            return node.value
        try:
            return self.loader.construct_object(node)
        except (ValueError, AttributeError, KeyError):  # !!int and !!bool with a text, a number of a million digits
            self.refuse(node, key, quote(node.value), f"a value of type {node.tag.replace(_CORE, '')}")
            return None

    def mapping(self, node: yaml.MappingNode, key: str, depth: int) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        own: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for name_node, value_node in sorted(node.value, key=lambda pair: pair[0].tag != f"{_CORE}merge"):
            if name_node.tag == f"{_CORE}merge":
                merged = {**self.merged(value_node, key, depth), **merged}
                continue
            if name_node.tag not in _TEXT or not isinstance(name_node, yaml.ScalarNode):
                name = name_node.value if isinstance(name_node, yaml.ScalarNode) else "a list or a mapping"
                self.refuse(name_node, key, f"the key {name!r}", "keys that are text", "Put it in quotes.")
                continue
            name, line = str(name_node.value), name_node.start_mark.line + 1
            child = join_keys(key, name)
            if name in own:
                self.refuse(name_node, child, f"the key {name!r} a second time (first on line {first_lines[name]})", "each key once")
                continue
            first_lines[name] = self.lines[child] = line
            own[name] = self.build(value_node, child, depth + 1)
        return {**merged, **own}

    def merged(self, node: yaml.Node, key: str, depth: int) -> dict[str, Any]:
        """Return the keys that ``<<`` merges into a mapping; of a list, the first mapping that has a key gives its value."""
        merged: dict[str, Any] = {}
        given = self.build(node, key, depth + 1)
        for mapping in given if isinstance(given, list) else [given]:
            if isinstance(mapping, dict):
                merged = {**mapping, **merged}
            else:
                self.refuse(node, key, f"<<: {quote(mapping)}", "a mapping to merge")
        return merged


def apply_override(document: YamlDocument, override: str) -> None:
    """Apply ``key.sub=value`` to a document, in place; what is wrong is added to its problems.

    The value is read by :func:`parse_typed`, and a whole number in the key is the index of a list. Mappings on the way are made
    where they are missing.
    """
    key, equals, value = override.partition("=")
    parts = key.strip().split(".")
    key = ".".join(parts)
    if not equals or not all(parts):
        document.problems.append(Problem(f"--set {override}", quote(override), "key.sub=value, such as tiling.core=512"))
        return
    parsed = parse_typed(value, f"--set {key}")
    document.problems += parsed.problems
    holder: Any = document.data
    lines, sets = document.locations.lines, document.locations.sets
    for depth, part in enumerate(parts):
        index = _index(document, holder, parts, depth)
        if index is None:
            return
        if depth == len(parts) - 1:
            holder[index] = parsed.data
        elif isinstance(holder, dict) and holder.get(part) is None:
            holder[index] = {}
            sets[".".join(parts[: depth + 1])] = key
        holder = holder[index]
    for written in (lines, sets):
        for stale in [name for name in written if f"{name}.".startswith(f"{key}.")]:
            del written[stale]
    sets[key] = key


def _index(document: YamlDocument, holder: Any, parts: list[str], depth: int) -> str | int | None:
    """Return the index of one part of the key; None where the mapping or list has no such index, which is a problem."""
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
