"""Keys of two YAMLs that differ: what was changed from one run, or one training, to the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["differing_settings", "setting_text"]


def differing_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return ``{"key", "a", "b"}`` of each key whose values differ, in the order of ``first``; None where one of them has no such key.

    Keys of mappings are joined by dots; lists are compared as a whole.

    Example:
        >>> differing_settings({"crop": 256, "loss": {"name": "dice"}}, {"crop": 256, "loss": {"name": "focal", "gamma": 2}})
        [{'key': 'loss.name', 'a': 'dice', 'b': 'focal'}, {'key': 'loss.gamma', 'a': None, 'b': 2}]
    """
    values_a, values_b = (dict(_leaves(config)) for config in (first, second))
    keys = [*values_a, *(key for key in values_b if key not in values_a)]
    pairs = ((key, values_a.get(key), values_b.get(key)) for key in keys)
    return [{"key": key, "a": a, "b": b} for key, a, b in pairs if a != b]


def setting_text(value: Any) -> str:
    """Return a value as a YAML has it, on one line; line breaks of texts are escaped.

    Example:
        >>> setting_text([0.5, 2]), setting_text(None), setting_text({"name": "dice"}), setting_text("cosine")
        ('[0.5, 2]', 'null', '{name: dice}', 'cosine')
    """
    import yaml

    class OneLine(yaml.SafeDumper):
        """Escapes line breaks of texts."""

    def quoted_if_needed(dumper: OneLine, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if len(f"{text}.".splitlines()) > 1 else None)

    OneLine.add_representer(str, quoted_if_needed)
    text = yaml.dump(value, Dumper=OneLine, default_flow_style=True, width=2**30, sort_keys=False, allow_unicode=True)
    return str(text).removesuffix("...\n").strip()


def _leaves(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, name)
        else:
            yield name, value
