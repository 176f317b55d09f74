"""The example in a plug-in's docstring, and the options that it builds the plug-in with."""

from __future__ import annotations

import inspect
import textwrap

import pytest
import yaml

from pipeline.errors import InputError
from pipeline.plugins import build, find


def example_in(kind, name):
    """The YAML that the docstring's example shows."""
    _, found, example = inspect.cleandoc(find(kind, name).__doc__).partition("Example::\n")
    assert found, "the docstring shows no example"
    return yaml.safe_load(textwrap.dedent(example))


def check_options(kind, key, name):
    """An unknown option is refused by its name, and every option has a description."""
    with pytest.raises(InputError) as refused:
        build(kind, {**example_in(kind, name)[key], "no_such_option": 1}, key)
    assert [problem.where for problem in refused.value.problems] == [f"{key}.no_such_option"]
    assert all(option.description for option in find(kind, name).model_fields.values())
