"""Which keys of two YAMLs differ."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.setting_differences import differing_settings, setting_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("abc: {}#'\"", max_size=6) | st.lists(st.integers(), max_size=3),
    lambda inner: st.dictionaries(st.text("xyz", min_size=1, max_size=2), inner, max_size=3),
    max_leaves=8,
)
CONFIGS = st.dictionaries(st.text("abc", min_size=1, max_size=2), VALUES, max_size=4)


@given(CONFIGS, CONFIGS)
def test_nothing_differs_exactly_where_values_are_equal(first, second):
    """A config has no difference from itself; exchanged sides exchange the values; every difference is one."""
    assert differing_settings(first, first) == []
    found = {row["key"]: (row["a"], row["b"]) for row in differing_settings(first, second)}
    exchanged = {row["key"]: (row["b"], row["a"]) for row in differing_settings(second, first)}
    assert found == exchanged
    assert all(a != b for a, b in found.values())


@given(VALUES)
def test_a_value_is_one_line_of_yaml(value):
    """What is shown is read back as the value."""
    text = setting_text(value)
    assert "\n" not in text
    assert yaml.safe_load(text) == value


def test_text_of_several_lines_is_one():
    """A citation of several lines takes one."""
    assert "\n" not in setting_text({"citation": "one\ntwo\n"})
