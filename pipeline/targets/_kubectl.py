"""Kubernetes through ``kubectl``, which knows the user's clusters and how to log in to them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from pipeline.errors import GigasegError, InputError, Problem

__all__ = ["UnreachableError", "run_kubectl"]

REQUEST_S, CALL_S = 20, 120.0  # one request; a whole call, which may make several and ask a login helper
SILENT = (
    "connection to the server",
    "unable to connect",
    "no configuration has been provided",
    "i/o timeout",
    "tls handshake",
    "deadline exceeded",
)
REFUSED = ("forbidden", "unauthorized", "must be logged in", "provide credentials")
UNKNOWN_KIND = ("no matches for kind", "doesn't have a resource type", "could not find the requested resource")
UNKNOWN_FIELD = ("unknown field", "strict decoding error")


class UnreachableError(InputError):
    """No API server answers."""


def run_kubectl(arguments: Sequence[str], *, where: str, text: str = "") -> str:
    """Run kubectl and return what it printed.

    Args:
        arguments: of kubectl.
        where: what a message calls the cluster, such as ``namespace science``.
        text: what kubectl reads from its stdin.

    Raises:
        UnreachableError: no cluster answers.
        InputError: there is no kubectl, or the cluster refuses this user, or it has no KubeRay that knows the objects.
        GigasegError: the cluster refused the request for another reason.
    """
    command = ["kubectl", f"--request-timeout={REQUEST_S}s", *arguments]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=CALL_S, check=False)
    except FileNotFoundError as error:
        fix = "Install kubectl, or keep what --dry-run prints and apply it where kubectl is: kubectl apply -f FILE."
        raise InputError(Problem("--to kuberay", "no kubectl on PATH", "", fix)) from error
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(Problem(where, f"no answer within {CALL_S:.0f} s", "", "Try: kubectl cluster-info")) from error
    if done.returncode == 0:
        return done.stdout
    raise _error_of(done.stderr.strip(), where)


def _error_of(text: str, where: str) -> GigasegError:
    """Return the error that tells what kubectl complained about, with the way out."""
    last = text.splitlines()[-1] if text else "kubectl failed without a message"
    words = text.lower()
    if any(one in words for one in REFUSED):
        fix = "Log in, or ask for the right to do this: kubectl auth can-i create rayjobs.ray.io"
        return InputError(Problem(where, last, "a user who may do this", fix))
    if any(one in words for one in UNKNOWN_KIND):
        fix = "Install the KubeRay operator; where it has no RayCronJob (before 1.6), set `cron: plain` in --options."
        return InputError(Problem(where, last, "the custom resource definitions of KubeRay", fix))
    if any(one in words for one in UNKNOWN_FIELD):
        fix = "An older KubeRay lacks what newer ones have: set `auth: null` in --options, or upgrade it."
        return InputError(Problem(where, last, "a KubeRay that knows every field", fix))
    if any(one in words for one in SILENT):
        return UnreachableError(Problem(where, last, "a cluster that answers", "Try: kubectl cluster-info, and `context` in --options."))
    return GigasegError(f"{where}: {last}")
