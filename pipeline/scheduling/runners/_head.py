"""What a Ray cluster says of itself before this process joins it: versions, nodes and GPUs; and whether it still answers."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psutil
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._private.internal_api import get_state_from_address
from ray._private.services import canonicalize_bootstrap_address
from ray._private.utils import check_version_info, compute_version_info
from ray._raylet import GcsClient  # type: ignore[attr-defined]  # its types lack it
from ray.exceptions import AuthenticationError, RayError

from pipeline.errors import InputError, Problem

__all__ = ["Head", "knock", "look_at", "where_from"]

KNOCK_S = 10.0
SUBMIT = "`gigaseg submit CONFIG.yaml --to ray --address http://HEAD:8265`"


@dataclass(frozen=True)
class Head:
    """A cluster that answers.

    Attributes:
        address: host:port of its head.
        nodes: the living nodes, as ``ray.nodes()`` returns them.
    """

    address: str
    nodes: Sequence[Mapping[str, Any]]

    @property
    def num_gpus(self) -> float:
        """GPUs of all living nodes."""
        return float(sum(node["Resources"].get("GPU", 0.0) for node in self.nodes))


def look_at(address: str) -> Head:
    """Ask the head of a cluster what it is, without joining.

    Raises:
        InputError: no Ray answers there, it has another version of Ray or Python, or this machine is no part of it.
    """
    where, _ = where_from(address)
    if "://" in address:
        expected = "host:port of a head, or auto, on a machine of the cluster"
        if address.lower().startswith(("http://", "https://")):
            found, submit = f"{address}, an address of the Jobs API", SUBMIT.replace("http://HEAD:8265", address)
        else:
            found, submit = f"{address}, an address of Ray Client, whose programs run outside the cluster", SUBMIT
        raise InputError(Problem(where, found, expected, f"{submit} runs this YAML on the cluster."))
    try:
        head = canonicalize_bootstrap_address(address)
        if head is None:
            raise ConnectionError("no Ray was started on this machine")
        knock(head, KNOCK_S)
        metadata = get_cluster_metadata(GcsClient(address=head))
        nodes = [node for node in get_state_from_address(head).node_table() if node["Alive"]]
    except (OSError, OverflowError, RuntimeError, ValueError, AttributeError, RayError) as error:
        raise refused(address, error) from error
    _refuse_other_versions(where, address, metadata)
    addresses = {one.address for some in psutil.net_if_addrs().values() for one in some}
    if addresses.isdisjoint(node["NodeManagerAddress"] for node in nodes):
        found = f"{address}, a cluster that this machine ({socket.gethostname()}) is no part of"
        fix = f"{SUBMIT} runs this YAML on the cluster; or let this machine join: ray start --address {address} --num-cpus 0."
        raise InputError(Problem(where, found, "a cluster with a node on this machine", fix))
    return Head(head, nodes)


def refused(address: str, error: BaseException) -> InputError:
    """Return the message for an address where Ray does not answer, or does not let this process in."""
    where, way_out = where_from(address)
    cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if isinstance(error, AuthenticationError):
        cause = "it refuses the token of this process" if os.environ.get("RAY_AUTH_MODE") == "token" else "it asks for a token"
    found = f"{address}, where no Ray answers within {KNOCK_S:g} s: {cause}"
    fix = f"Try `ray status --address {address}` on this machine; RAY_AUTH_MODE and the token must be the same on all machines."
    return InputError(Problem(where, found, "host:port of a head, or auto", " ".join(filter(None, [fix, way_out]))))


def where_from(address: str) -> tuple[str, str]:
    """Return the name of the setting that an address comes from, and how to run without it."""
    if address == os.environ.get("RAY_ADDRESS"):
        return "the environment variable RAY_ADDRESS", "Or `unset RAY_ADDRESS` to run on this machine."
    return "compute.address", ""


def knock(address: str, limit_s: float) -> None:
    """Raise OSError where nothing listens at ``host:port``: Ray itself would try for minutes."""
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if colon and port.isdigit():
        with closing(socket.create_connection((host.strip("[]"), int(port)), limit_s)):
            pass


def _refuse_other_versions(where: str, address: str, metadata: Mapping[str, Any]) -> None:
    """Raise InputError where the head and this process could not exchange blocks, by Ray's own rule."""
    try:
        check_version_info(dict(metadata), "this machine")
    except RuntimeError as error:
        ours, python = compute_version_info()
        found = f"Ray {metadata['ray_version']} with Python {metadata['python_version']} at {address}"
        fix = f"Install the same on every machine: pip install ray=={ours} under Python {python}."
        raise InputError(Problem(where, found, f"Ray {ours} with Python {python}, as on this machine", fix)) from error
