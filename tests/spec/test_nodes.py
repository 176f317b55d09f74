"""Which nodes get actors, and what is said of those that do not."""

from __future__ import annotations

import pytest

from pipeline.scheduling.runners.ray import authenticate

authenticate(None)  # Ray reads how when it is imported, once for this process
module = pytest.importorskip("pipeline.scheduling.runners._nodes")
from pipeline.scheduling.runners._node_check import NodeReport  # noqa: E402 - after authenticate, as above

GOOD, BAD = "a" * 56, "b" * 56


@pytest.fixture
def nodes():
    """Nodes with a log."""
    lines = []
    made = module.Nodes(lines.append)
    made.lines = lines
    return made


def test_a_node_with_problems_is_named_and_avoided(nodes, capsys):
    """In the log and on stderr, once, with each file that it does not see; the refusal has every problem of every node."""
    nodes.add(NodeReport(GOOD, "good", "Xeon"))
    report = NodeReport(BAD, "bad", "Xeon", ("/data is not there", "/truth is not there"))
    nodes.add(report)
    nodes.add(report)
    assert list(nodes.avoided) == [BAD]
    line = "node bad (bbbbbbbb) gets no work: /data is not there; /truth is not there"
    assert nodes.lines.count(line) == 1
    assert capsys.readouterr().err == f"{line}\n"
    assert str(nodes.refusal()) == "node bad (bbbbbbbb): /data is not there\nnode bad (bbbbbbbb): /truth is not there"


def test_many_problems_are_counted(nodes, capsys):
    """The line stays readable."""
    nodes.avoid(BAD, [f"problem {number}" for number in range(20)])
    assert capsys.readouterr().err.endswith("problem 7; 12 more problems\n")


def test_hardware_of_several_kinds_is_told(nodes):
    """Once for each kind: results of different kinds of GPUs may differ in the last bits."""
    for node, hardware in (("1", "A100"), ("2", "A100"), ("3", "H100"), ("4", "H100")):
        nodes.add(NodeReport(node, "host", hardware))
    assert [line for line in nodes.lines if line.startswith("note")] == [
        "note: hardware of several kinds (A100, H100): classes may differ where two are all but equal"
    ]


def test_three_deaths_without_a_receipt_are_the_nodes(nodes):
    """Deaths with one and the same block count once, as the block may be to blame; a receipt clears them."""
    assert not any(nodes.died(BAD, "a:0.0.0") for _ in range(5))
    assert not nodes.died(BAD, "a:0.0.1")
    nodes.worked(BAD)
    assert [nodes.died(BAD, f"start of actor {number}") for number in range(3)] == [False, False, True]


def test_a_file_that_one_node_misses_may_be_elsewhere(nodes):
    """The node is avoided; a second node that misses the file shows that it is gone, and the first one is used again."""
    assert nodes.may_be_elsewhere(["/data/a.tif"], BAD, [GOOD])
    assert nodes.avoided == {BAD: ["/data/a.tif is not there"]}
    assert not nodes.may_be_elsewhere(["/data/a.tif"], GOOD, ["other"])
    assert nodes.avoided == {}
    assert not nodes.may_be_elsewhere(["/data/a.tif"], BAD, ["other"]), "of all blocks of the image"
    assert nodes.avoided == {}


def test_with_no_other_node_it_is_the_file(nodes):
    """Where nobody else could look, nobody is asked."""
    assert not nodes.may_be_elsewhere(["/data/a.tif"], BAD, [BAD])
    assert nodes.avoided == {}
