"""Print the card of a model: what it is for, what it is not for, how good it is and how sure that is."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from pipeline.errors import printable
from pipeline.models.bundle_files import card_parts, score_tables
from pipeline.web import in_bytes

__all__ = ["in_words", "print_card"]

MARGIN = 12  # width of the headings, characters
NARROWEST, WIDEST = 60, 110  # lines, characters


def print_card(name: str, card: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Print a card in lines that fit the terminal.

    Args:
        name: of the model, as the user wrote it.
        card: by the keys of ``model.yaml``.
        facts: of the network and its files, by name.
    """
    width = min(max(shutil.get_terminal_size().columns, NARROWEST), WIDEST)
    print(f"{printable(name)}\n")
    for before, text in _lines(card, facts):
        fill = textwrap.TextWrapper(width, before, " " * len(before), break_on_hyphens=False, break_long_words=False)
        print(fill.fill(text) or before.rstrip())


def _lines(card: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what stands before each text and the text, of any length, whose further lines begin below its first one."""
    parts = {part.word: part.entries for part in card_parts(card)}
    for word in ("For", "Not for", "Finds", "Takes", "Scale"):
        yield from _part(word, parts.pop(word, ()))
    for number, table in enumerate(score_tables(card)):
        yield f"{'' if number else 'Scores':<{MARGIN}}", printable(table.title)
        values, intervals = (max(len(row[column]) for row in table.rows) for column in (1, 2))
        for what, value, interval in table.rows:
            between = f"{printable(interval):<{intervals}}  " if intervals else ""
            yield f"{'':<{MARGIN}}  {printable(value):<{values}}  {between}", printable(what)
        if table.note:
            yield f"{'':<{MARGIN}}  ", printable(table.note)
    for word, entries in parts.items():
        yield from _part(word, entries)
    yield from _part("Examples", [f"{one['file']}: {one.get('caption', '')}" for one in card.get("examples", ())])
    yield "", ""
    for key, value in facts.items():
        yield f"{key:<{MARGIN}}", printable(in_bytes(value) if key == "bytes" else in_words(value))


def _part(word: str, entries: tuple[str, ...] | list[str]) -> Iterator[tuple[str, str]]:
    for number, entry in enumerate(entries):
        yield f"{'' if number else word:<{MARGIN}}{'- ' if len(entries) > 1 else ''}", printable(entry)


def in_words(value: Any) -> str:
    """Return a fact as text for people; a mapping as in the YAML."""
    if isinstance(value, dict):
        return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).strip()
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)
