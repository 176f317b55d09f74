"""A real object store on loopback: SeaweedFS, with a bucket, a user who may do all in it and one who may only read."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BUCKET", "Server", "environment", "s3_server"]

BUCKET = "gigaseg-tests"
KEY, SECRET = "AKIAGIGASEGTESTS0001", "writer-secret-3f9c1e7a55"  # random: tests look for them in what is written
ADMIN_KEY, ADMIN_SECRET = "AKIAGIGASEGTESTS0000", "admin-secret-5d7e9a1c33"
READ_KEY, READ_SECRET = "AKIAGIGASEGTESTS0002", "reader-secret-8b2d4c6f01"
START_S = 60.0


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        endpoint: its address, ``http://127.0.0.1:PORT``.
        files: address below which a web server shows the files of each bucket.
        log: what it says.
    """

    endpoint: str
    files: str
    log: Path


def environment(endpoint: str, *, key: str = KEY, secret: str = SECRET) -> dict[str, str]:
    """Return the environment variables with which programs use the server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
    }


@contextmanager
def s3_server() -> Iterator[Server]:
    """Run SeaweedFS inside the ``with`` block, in a folder and on ports of its own."""
    folder = Path(tempfile.mkdtemp(prefix="gs-s3-"))
    services = ("master", "volume", "filer", "s3")
    ports = dict(zip([f"{name}{kind}" for name in services for kind in (".port", ".port.grpc")], _free_ports(8), strict=True))
    users = [
        _user("admin", ADMIN_KEY, ADMIN_SECRET, "Admin"),
        _user("writer", KEY, SECRET, "Read", "List", "Write", "Tagging"),
        _user("reader", READ_KEY, READ_SECRET, "Read", "List"),
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": users}))
    command = [
        str(Path(sys.executable).with_name("weed")),
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=16",
        "-s3",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={folder}/s3.json",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=folder, start_new_session=True)
    try:
        endpoint = f"http://127.0.0.1:{ports['s3.port']}"
        _make_bucket(process, endpoint, log)
        yield Server(endpoint, f"http://127.0.0.1:{ports['filer.port']}/buckets", log)
    finally:
        process.kill()
        process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _user(name: str, key: str, secret: str, *actions: str) -> dict[str, object]:
    return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _make_bucket(process: subprocess.Popen[bytes], endpoint: str, log: Path) -> None:
    """Make the bucket as soon as the server answers; raises RuntimeError with the end of its log where it does not."""
    import obstore
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    options = {"client_options": {"allow_http": True}, "retry_config": {"max_retries": 0}}
    store = S3Store(BUCKET, endpoint=endpoint, access_key_id=ADMIN_KEY, secret_access_key=ADMIN_SECRET, **options)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            obstore.put(store, "made", b"")  # for an administrator, the server makes the bucket
            obstore.delete(store, "made")
        except BaseError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"{endpoint}: the server has not started:\n{log.read_text(errors='replace')[-2000:]}")
