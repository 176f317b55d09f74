"""Which nodes of the cluster get actors: those that see the files, can run the recipe, and do not fail again and again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from pipeline.errors import GigasegError, InputError, Problem
from pipeline.scheduling.runners._node_check import NodeReport
from pipeline.system import is_json, say

__all__ = ["START_TRIES", "Nodes", "tell"]

START_TRIES = 3  # deaths of actors on one node, with no receipt between them, after which it is the node that kills them
SHOWN = 8  # problems of a node that are printed


class Nodes:
    """What is known of the nodes.

    Attributes:
        avoided: nodes that get no actors, with the problems that they have.
        hosts: names of the machines, by node.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self.avoided: dict[str, Sequence[Problem | str]] = {}
        self.hosts: dict[str, str] = {}
        self._log = log
        self._hardware: dict[str, str] = {}
        self._deaths: defaultdict[str, set[str]] = defaultdict(set)
        self._unseen: defaultdict[str, set[str]] = defaultdict(set)  # nodes on which a path was missing, by path
        self._for_path: dict[str, str] = {}  # the missing path for which a node is avoided
        self._is_input = True

    def add(self, report: NodeReport) -> None:
        """Note what an actor found on its node; one with problems is avoided."""
        if report.node not in self.hosts:
            self.hosts[report.node] = report.host
            self._log(f"node {self.name(report.node)}: {report.hardware}")
            if self._hardware and report.hardware not in self._hardware.values():
                kinds = ", ".join(dict.fromkeys([*self._hardware.values(), report.hardware]))
                self._log(f"note: hardware of several kinds ({kinds}): classes may differ where two are all but equal")
            self._hardware[report.node] = report.hardware
        if report.problems:
            self.avoid(report.node, report.problems)

    def name(self, node: str) -> str:
        """Return a node's name for people."""
        host = self.hosts.get(node, "")
        return f"{host} ({node[:8]})" if host else node[:8]

    def avoid(self, node: str, problems: Sequence[Problem | str], *, is_input: bool = True) -> None:
        """Start no more actors on a node, and say why; ``is_input``: because of what the user set up."""
        if node in self.avoided:
            return
        self._is_input &= is_input
        self.avoided[node] = problems
        tell(self._log, f"node {self.name(node)} gets no work: {'; '.join(map(str, _first(problems)))}")

    def died(self, node: str, what: str) -> bool:
        """Note that an actor died while it did ``what``; return whether the node has killed so many that it should be avoided."""
        self._deaths[node].add(what)
        return len(self._deaths[node]) >= START_TRIES

    def worked(self, node: str) -> None:
        """Note that a block was done on a node."""
        self._deaths.pop(node, None)

    def may_be_elsewhere(self, paths: Sequence[str], node: str, others: Sequence[str]) -> bool:
        """Note that files are missing on a node, and return whether another node may have them.

        The first node on which a file is missing is avoided. Where it is missing on two, it is the file that is gone, and the
        first node is used again.

        Args:
            paths: what is missing.
            node: where.
            others: nodes that work, or could.
        """
        for path in paths:
            self._unseen[path].add(node)
        if any(len(self._unseen[path]) > 1 for path in paths) or not set(others) - {node}:
            for path in paths:
                for one in [one for one, its_path in self._for_path.items() if its_path == path]:
                    del self._for_path[one]
                    self.avoided.pop(one, None)
                    self._log(f"node {self.name(one)} gets work again: {path} is missing on other nodes as well")
            return False
        self._for_path[node] = paths[0]
        self.avoid(node, [f"{path} is not there" for path in paths])
        return True

    def refusal(self) -> GigasegError:
        """Return the error for a run that no node can do: the problems of every node."""
        named = [
            problem if isinstance(problem, Problem) else f"node {self.name(node)}: {problem}"
            for node, problems in self.avoided.items()
            for problem in _first(problems)
        ]
        return InputError(dict.fromkeys(named)) if self._is_input else GigasegError("\n".join(map(str, dict.fromkeys(named))))


def _first(problems: Sequence[Problem | str]) -> list[Problem | str]:
    more = [f"{len(problems) - SHOWN} more problems"] if len(problems) > SHOWN else []
    return [*problems[:SHOWN], *more]


def tell(log: Callable[[str], None], text: str) -> None:
    """Write a line to the log and to stderr."""
    log(text)
    if not is_json():  # else the log has said it
        say(text)
