"""A Ray of our own is nobody else's: it listens on loopback alone."""

from __future__ import annotations

import ipaddress
from contextlib import suppress

import psutil

from tests.faults.scene import Scene, has_rows, started, wait_for


def listening(command):
    """Addresses that any process of the command listens on."""
    found = set()
    for pid in command.tree():
        with suppress(psutil.Error):
            found |= {one.laddr.ip for one in psutil.Process(pid).net_connections(kind="inet") if one.status == psutil.CONN_LISTEN}
    return found


def test_nothing_listens_beyond_this_machine(tmp_path):
    """While actors work, every socket that waits for callers is bound to loopback."""
    scene = Scene(tmp_path, images=2, seconds=0.2, compute={"runner": "ray", "actors": 1})
    with started("run", scene.yaml("out")) as command:
        wait_for(has_rows(command, scene.root / "out", 2), lambda: command.told)
        addresses = listening(command)
        assert command.wait().code == 0
    assert addresses, "a control: Ray does listen"
    for address in addresses:
        mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None) or ipaddress.ip_address(address)
        assert mapped.is_loopback, addresses
