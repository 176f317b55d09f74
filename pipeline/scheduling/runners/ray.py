"""Ray actors, each with a core or a GPU of its own."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pipeline.scheduling.runners import Runner, Work

__all__ = ["Ray"]

# A node that does not answer counts as dead after 8 s; by Ray's own settings after a minute.
HEALTH = {"initial_delay_ms": 1000, "period_ms": 1000, "timeout_ms": 2000, "failure_threshold": 3}


class Ray(Runner):
    """Run on Ray: on this machine when no ``address`` is given, else on that cluster.

    Example::

        runner: ray
    """

    def run(self, work: Work) -> None:
        """Carry out the blocks with actors."""
        authenticate(work.compute.address or os.environ.get("RAY_ADDRESS"))
        from pipeline.scheduling.runners import _pool

        _pool.run(work)


def authenticate(address: str | None) -> None:
    """Say explicitly where to listen and how to authenticate, which Ray reads once, when it is imported.

    A Ray of our own stays on loopback and gets a token that only this run knows, so that nobody else can talk to it. On a
    cluster that is there, a token is used where there is one.
    """
    if address is None:
        for name, value in HEALTH.items():
            os.environ.setdefault(f"RAY_health_check_{name}", str(value))
        # Ray would listen on every interface of a Linux machine; this makes it stay on loopback, as it does elsewhere.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if "RAY_AUTH_MODE" in os.environ:
        return
    if address is None:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    os.environ["RAY_AUTH_MODE"] = "token" if "RAY_AUTH_TOKEN" in os.environ or file.is_file() else "disabled"
