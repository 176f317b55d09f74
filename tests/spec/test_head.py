"""What a head says before it is joined: addresses, versions and machines that are refused. The head is made up."""

from __future__ import annotations

import socket

import pytest

from pipeline.errors import InputError
from pipeline.scheduling.runners.ray import authenticate

authenticate(None)  # Ray reads how when it is imported, once for this process
module = pytest.importorskip("pipeline.scheduling.runners._head")


@pytest.fixture
def head(monkeypatch):
    """A head that answers at `.address`, with `.versions` and `.nodes` that a test may change."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        made = type("FakeHead", (), {"address": f"127.0.0.1:{server.getsockname()[1]}"})()
        ray, python = module.compute_version_info()
        made.versions = {"ray_version": ray, "python_version": python}
        made.nodes = [{"Alive": True, "NodeManagerAddress": "127.0.0.1", "Resources": {"GPU": 2.0}}, {"Alive": False}]
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(module, "GcsClient", lambda address: address)
        monkeypatch.setattr(module, "get_cluster_metadata", lambda client: made.versions)
        state = type("State", (), {"node_table": lambda self: made.nodes})()
        monkeypatch.setattr(module, "get_state_from_address", lambda address: state)
        yield made


def test_the_gpus_of_living_nodes_are_counted(head):
    """Nothing is joined for it."""
    assert module.look_at(head.address).num_gpus == 2


def test_other_versions_are_named(head):
    """Ray's and Python's, there and here, and what to install."""
    head.versions = {**head.versions, "ray_version": "2.9.0"}
    with pytest.raises(InputError, match=r"found Ray 2\.9\.0 with Python .*; expected Ray .* as on this machine\. Install the same"):
        module.look_at(head.address)


def test_a_machine_without_a_node_is_sent_to_submit(head):
    """A driver needs a node of the cluster on its own machine."""
    head.nodes = [{**head.nodes[0], "NodeManagerAddress": "203.0.113.7"}]
    with pytest.raises(InputError, match=r"a cluster that this machine .* is no part of; expected .*gigaseg submit .* --to ray"):
        module.look_at(head.address)


def test_addresses_of_ray_client_are_refused_without_contact():
    """The way out is named."""
    with pytest.raises(InputError, match="an address of Ray Client.*gigaseg submit"):
        module.look_at("ray://203.0.113.7:10001")


def test_an_address_of_the_jobs_api_is_for_submit():
    """It is called what it is, and the command that takes it is told."""
    with pytest.raises(InputError, match=r"an address of the Jobs API; .*--to ray --address http://h:8265` runs this YAML"):
        module.look_at("http://h:8265")


def test_nothing_that_answers_is_told_with_the_time_and_the_command():
    """And with the name of the setting that the address comes from."""
    with pytest.raises(
        InputError, match=r"compute\.address: found 127\.0\.0\.1:1, where no Ray answers within 10 s: .*ray status --address"
    ):
        module.look_at("127.0.0.1:1")


def test_a_token_that_is_missing_or_wrong_is_told(monkeypatch):
    """Ray's own message has several lines."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    error = module.AuthenticationError("Unauthenticated")
    assert "it asks for a token" in str(module.refused("head:6379", error))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "it refuses the token of this process" in str(module.refused("head:6379", error))
