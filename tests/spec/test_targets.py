"""Submissions: one name a run, a config that a machine of the cluster can run, options from a YAML and from flags."""

from __future__ import annotations

import inspect
import logging
import re
import textwrap

import pytest
import yaml

from pipeline.config import config_from_mapping, load_config
from pipeline.errors import InputError
from pipeline.plugins import available, build, find
from pipeline.targets import CRON, Submission, Target
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


@pytest.mark.parametrize(
    ("name", "flags", "told"),
    [
        (
            "ray",
            {"address": "127.0.0.1:8265"},
            "--to ray --address: found '127.0.0.1:8265'; expected an address of the Jobs API, http://HEAD:8265",
        ),
        ("ray", {"address": "ray://head:10001"}, "--to ray --address: found 'ray://head:10001'"),
        ("ray", {"address": "http://user:word@head:8265"}, "--address: found"),
        ("slurm", {"gpus_per_node": -1}, "--to slurm --gpus-per-node: found -1"),
        ("kuberay", {"image": "gigaseg:$(id)"}, "--to kuberay --image: found 'gigaseg:$(id)'; expected a container image"),
        ("slurm", {}, "options.yaml:2: memory: found 'lots'"),
        (
            "kuberay",
            {"image": None},
            "gigaseg:1.0. Set it by --image or in --options.",
        ),
    ],
)
def test_a_message_names_the_flag_or_the_line_that_gave_the_option(name, flags, told, tmp_path):
    """A flag as it was typed, else the line of the YAML; a value that stands nowhere says where it may stand."""
    (tmp_path / "options.yaml").write_text("# Slurm's\nmemory: lots\n")
    with pytest.raises(InputError) as refused:
        target_of(name, flags, tmp_path / "options.yaml")
    assert any(told in str(problem) for problem in refused.value.problems)


def test_where_no_cluster_answers_one_line_says_so(tmp_path):
    """The message names the address, and Ray's own progress messages are off."""
    with pytest.raises(InputError, match=r"--address: found http://127\.0\.0\.1:9, where no Jobs API answers"):
        target_of("ray", {"address": "http://127.0.0.1:9"}, None).submit(submission(tmp_path))
    assert not logging.getLogger("ray.dashboard.modules.dashboard_sdk").isEnabledFor(logging.INFO)


def test_an_option_that_needs_no_yaml_is_asked_for_by_its_flag():
    """Without --options the message names the target."""
    with pytest.raises(InputError, match=r"--to kuberay: image is missing; .* Set it by --image"):
        target_of("kuberay", {"image": None}, None)


def test_a_yaml_of_options_does_not_name_the_target(tmp_path):
    """A second name would be ignored."""
    (tmp_path / "options.yaml").write_text("name: slurm\n")
    with pytest.raises(InputError, match=r"options\.yaml:1: name: found unknown key 'name'"):
        target_of("ray", {}, tmp_path / "options.yaml")


@pytest.mark.parametrize("schedule", ["0 2 * * *", "*/15 0-6,22 1,15 JAN-MAR mon-fri", "59 23 31 12 7", "@daily"])
def test_a_schedule_is_what_cron_reads(schedule):
    """Numbers, ranges, steps, lists and names."""
    assert re.fullmatch(CRON, schedule)


@pytest.mark.parametrize(
    "schedule", ["60 2 * * *", "0 24 * * *", "0 2 0 * *", "0 2 * 13 *", "0 2 * * 8", "* * * *", "daily", "*/0 * * * *", "0 2 * * *\n"]
)
def test_a_schedule_that_never_comes_is_refused(schedule):
    """Numbers outside their field, too few fields."""
    with pytest.raises(InputError, match="schedule"):
        target_of("slurm", {"schedule": schedule}, None)
    assert not re.fullmatch(CRON, schedule)


def test_one_thing_at_a_time():
    """Two actions are refused by their flags."""
    assert (only_one({"wait": False}), only_one({"dry_run": True, "wait": False})) == ("submit", "dry_run")
    with pytest.raises(InputError, match="--dry-run and --stop"):
        only_one({"dry_run": True, "stop": True})
