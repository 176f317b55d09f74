"""Azure's own emulator of Blob Storage on loopback, where it is installed: ``npm install azurite``, and its folder on the PATH."""

from __future__ import annotations

import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

__all__ = ["CONTAINER", "azure_server"]

CONTAINER = "gigaseg-tests"
ACCOUNT = "devstoreaccount1"  # known to everybody, as its key
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2021-08-06"
START_S = 30.0


@contextmanager
def azure_server() -> Iterator[dict[str, str]]:
    """Run Azurite with an empty container inside the ``with`` block; gives the environment with which programs use it.

    Raises:
        FileNotFoundError: it is not installed.
    """
    program = shutil.which("azurite-blob")
    if program is None:
        raise FileNotFoundError("azurite-blob")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--silent", "--skipApiVersionCheck", "--inMemoryPersistence", "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        endpoint = f"http://127.0.0.1:{port}/{ACCOUNT}"
        _make_container(endpoint)
        yield {
            "AZURE_STORAGE_ENDPOINT": endpoint,
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_ALLOW_HTTP": "true",
        }
    finally:
        process.kill()
        process.wait(30)


def _make_container(endpoint: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(_signed(endpoint), timeout=5).close()  # noqa: S310 - its own address
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def _signed(endpoint: str) -> urllib.request.Request:
    """The request that makes the container, signed with the account's key."""
    now = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    lines = ["PUT", *[""] * 11, f"x-ms-date:{now}", f"x-ms-version:{VERSION}", f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}", "restype:container"]
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()).decode()
    headers = {"x-ms-date": now, "x-ms-version": VERSION, "Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Length": "0"}
    return urllib.request.Request(f"{endpoint}/{CONTAINER}?restype=container", method="PUT", headers=headers)  # noqa: S310 - as above
