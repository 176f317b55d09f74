"""Values after ``--set``: what was typed is what is meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import load_config
from pipeline.config.yaml_document import parse_typed
from pipeline.errors import InputError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=20) | st.floats(-1e6, 1e6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=3),
    max_leaves=8,
)
CONSTANTS = {
    "null": None,
    "~": None,
    "": None,
    **dict.fromkeys(("true", "yes", "on"), True),
    **dict.fromkeys(("false", "no", "off"), False),
}


@given(st.text(st.sampled_from("ab01 /.:#*&!%@`|>-?,'\"[]{}=~_\t"), max_size=12))
def test_a_value_is_text_unless_yaml_reads_all_of_it(typed):
    """Text stays as typed; a number is what Python reads too; lists, mappings and quotes have their marks; the rest is refused."""
    try:
        parsed = parse_typed(typed, "--set output")
    except InputError:
        assert typed.strip()[0] in "[{'\""
        return
    if parsed.problems:
        assert typed.strip()[0] in "![{"
        return
    data, text = parsed.data, typed.strip()
    if isinstance(data, bool) or data is None:
        assert CONSTANTS[text.lower()] is data
    elif isinstance(data, (int, float)):
        assert data == (int(text, 0) if isinstance(data, int) else float(text))
    elif isinstance(data, str):
        assert data == text or text[0] in "'\""
    else:
        assert text[0] + text[-1] in ("[]", "{}")


@given(PLAIN)
def test_a_value_in_brackets_or_quotes_is_yaml(value):
    """What YAML or JSON writes on one line is read back."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip()
    assert parse_typed(text, "").data == value
    if not isinstance(value, float):  # JSON's 1e-07 is text in YAML 1.1
        text = json.dumps(value, ensure_ascii=False)
        assert not text.isprintable() or "e-" in text or parse_typed(text, "").data == value


@pytest.mark.parametrize("name", ["run #1", "run: 1", "%run", "@run", "*run", "&run", "run #", "- run", "? run", "| run", "#run", "a\tb"])
def test_an_output_folder_is_the_one_that_was_typed(tmp_path, monkeypatch, name):
    """Letters that mean something in YAML are letters of the folder's name, with a path in front and without."""
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("images: [a.tif]\nmodel: histogram\noutput: out\n")
    Path("a.tif").touch()
    for output in (name, f"{tmp_path}/x/{name}"):
        assert load_config(Path("c.yaml"), [f"output={output}"]).output == str(tmp_path / output)
