"""Submissions: one name a run, a config that a machine of the cluster can run, options from a YAML and from flags."""

from __future__ import annotations

import inspect
import textwrap

import pytest
import yaml

from pipeline.config import config_from_mapping, load_config
from pipeline.errors import InputError
from pipeline.plugins import available, build, find
from pipeline.targets import Submission, Target
from workflows.submit import only_one, target_of

RUN = {"images": ["sample:nuclei"], "model": {"name": "histogram", "classes": 2}, "output": "out"}


def submission(tmp_path, **changes):
    return Submission(config_from_mapping({**RUN, **changes}, tmp_path), "ray")


def test_a_run_has_one_name(tmp_path):
    """The same output folder gives the same name, whatever else changes; another one gives another."""
    names = [submission(tmp_path, **one).name for one in ({}, {"normalize": "zscore"}, {"output": "other"})]
    assert names[0] == names[1] != names[2]
    assert all(name.replace("-", "").isalnum() and name.islower() and len(name) < 50 for name in names)


def test_the_yaml_of_a_submission_is_the_run(tmp_path):
    """Its paths are absolute, it loads, and it has the target's runner where the YAML has `auto`."""
    (tmp_path / "sent.yaml").write_text(submission(tmp_path).yaml)
    sent = load_config(tmp_path / "sent.yaml")
    assert (sent.output, sent.compute.runner) == (str(tmp_path / "out"), "ray")
    assert yaml.safe_load(submission(tmp_path, compute={"runner": "serial"}).yaml)["compute"]["runner"] == "serial"


@pytest.mark.parametrize("name", available("targets"))
def test_every_target_shows_what_it_would_send_without_contacting_anything(name, tmp_path):
    """The text holds the whole run, its output folder included. A target with options that must be set shows them in its docstring."""
    example = inspect.cleandoc(find("targets", name).__doc__).partition("Example::\n")[2]
    target = build("targets", {**(yaml.safe_load(textwrap.dedent(example)) or {}), "name": name}, "--to")
    assert isinstance(target, Target)
    assert "/data/out" in target.render(Submission(submission(tmp_path, output="/data/out").config, target.runner))


def test_flags_come_before_the_yaml_of_options(tmp_path):
    """A flag that was given wins; one that was not leaves the YAML's value."""
    (tmp_path / "ray.yaml").write_text("address: http://from-yaml:8265")
    addresses = [target_of("ray", {"address": flag}, tmp_path / "ray.yaml").address for flag in (None, "http://flag:8265")]
    assert addresses == ["http://from-yaml:8265", "http://flag:8265"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [("rey", {}, "--to: found 'rey'"), ("ray", {"partition": "p"}, "partition"), ("ray", {"address": 7}, "address")],
)
def test_what_a_target_does_not_know_is_named(name, options, words):
    """A wrong name, another target's flag, a value of another type."""
    with pytest.raises(InputError, match=words):
        target_of(name, options, None)


def test_one_thing_at_a_time():
    """Two actions are refused by their flags."""
    assert (only_one({"wait": False}), only_one({"dry_run": True, "wait": False})) == ("submit", "dry_run")
    with pytest.raises(InputError, match="--dry-run and --stop"):
        only_one({"dry_run": True, "stop": True})
