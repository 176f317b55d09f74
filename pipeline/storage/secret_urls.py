"""URLs that hold a secret: a user, a password or a signature."""

from __future__ import annotations

import re

from pipeline.errors import InputError, Problem

__all__ = ["refuse_secrets"]

SECRET = re.compile(
    r"[?&](x-(amz|goog|ms)-[\w-]+|sig|signature|\w*token|awsaccesskeyid|googleaccessid|(\w*[-_])?key|apikey|password|secret)=",
    re.IGNORECASE,
)
"""Parameters that sign a URL or name a user."""


def refuse_secrets(text: str, where: str) -> None:
    """Refuse a URL with a user, a password or a signature, because URLs are written into config.yaml, logs and reports.

    A query of an ``http`` URL is refused whatever it holds, because a token may have any name. The message shows none of it.

    Args:
        text: any text; only a URL is looked at.
        where: what messages call its place, such as ``images.0``.

    Raises:
        InputError: the URL may hold a secret.

    Example:
        >>> refuse_secrets("s3://bucket/a.tif", "images.0")
        >>> refuse_secrets("https://me:hidden@host/a.tif", "images.0")
        Traceback (most recent call last):
        ...
        pipeline.errors.InputError: images.0: found https://host/a.tif with a user name; expected a URL without secrets. Give \
credentials in the environment.
    """
    scheme, colon, rest = text.partition("://")
    if not colon or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return
    server, slash, path = rest.partition("/")
    shown = f"{scheme}://{server.rpartition('@')[2]}{slash}{path}".partition("?")[0].partition("#")[0]
    if "@" in server or SECRET.search(rest):
        found = "a user name" if "@" in server else "a signature or a key"
        raise InputError(Problem(where, f"{shown} with {found}", "a URL without secrets", "Give credentials in the environment."))
    if "?" in rest and scheme.lower() in ("http", "https"):
        raise InputError(
            Problem(where, f"{shown} with a query", "a URL without one, as it may hold a secret", "Leave out the part after `?`.")
        )
