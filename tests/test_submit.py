"""Submitting through the Jobs API of a real Ray head, with token authentication on loopback."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline.errors import InputError
from pipeline.targets import _patience
from pipeline.targets import ray as ray_target

PYTHON_BIN = Path(sys.executable).parent
GIGASEG = PYTHON_BIN / "gigaseg"
START_S = 90


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str, token: str) -> bool:
    request = urllib.request.Request(f"{url}/api/version", headers={"Authorization": f"Bearer {token}"})  # noqa: S310 - loopback
    try:
        with urllib.request.urlopen(request, timeout=2):  # noqa: S310 - loopback
            return True
    except (OSError, urllib.error.URLError):
        return False


@pytest.fixture(scope="module")
def head():
    """A Ray head with a token."""
    with started_head() as started:
        yield started


@contextmanager
def started_head(**changes):
    """A Ray head of its own: temporary folder, home, ports and token; everything it started is ended. Gives its URL and environment."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="gs", ignore_cleanup_errors=True))
        token, port = secrets.token_hex(32), free_port()
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "HOME": folder, "RAY_TMPDIR": folder, **changes}
        environment = {**{name: value for name, value in os.environ.items() if not name.startswith("RAY_")}, **own}
        ports = [f"--port={free_port()}", f"--dashboard-port={port}", "--node-ip-address=127.0.0.1"]
        size = ["--num-cpus=2", "--num-gpus=0", "--object-store-memory=100000000", f"--temp-dir={folder}"]
        log = stack.enter_context(Path(folder, "head.log").open("wb"))
        process = subprocess.Popen(
            [PYTHON_BIN / "ray", "start", "--head", "--block", *ports, *size], env=environment, stdout=log, stderr=log
        )
        stack.callback(end_family, process)
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + START_S
        while not answers(url, token):
            if time.monotonic() > deadline or process.poll() is not None:
                pytest.fail(f"Ray did not start: {Path(folder, 'head.log').read_text()[-2000:]}")
            time.sleep(0.5)
        yield url, environment


def end_family(process):
    """Kill a process and everything that it started."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for one in family:
        one.kill()
    psutil.wait_procs(family, timeout=10)
    process.wait(10)


def submit(head, folder, *arguments, **changes):
    url, environment = head
    command = [GIGASEG, "submit", folder / "run.yaml", "--to", "ray", "--address", url, *arguments]
    return subprocess.run(command, env={**environment, **changes}, capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture
def config(tmp_path):
    """One small image on which a threshold is right."""
    import numpy as np
    import tifffile

    image_YX = np.zeros((300, 200), np.uint8)
    image_YX[50:150, 40:90] = 200
    tifffile.imwrite(tmp_path / "a.tif", image_YX)
    tifffile.imwrite(tmp_path / "a_truth.tif", (image_YX > 0).astype(np.uint8))
    compute = "compute: {actors: 1}"
    lines = [
        f"images: [{tmp_path / 'a.tif'}]",
        f"truth: {tmp_path}/a_truth.tif",
        "model: histogram",
        compute,
        f"output: {tmp_path / 'out'}",
    ]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    return tmp_path


def test_a_submitted_run_is_the_same_run(head, config):
    """It ends as the run does, leaves the same folder, and is another attempt of the same name the next time."""
    first = submit(head, config, "--wait")
    assert first.returncode == 0, first.stderr
    report = json.loads((config / "out" / "report" / "report.json").read_text())
    assert report["mean_iou"] == 1.0
    assert "joined" in (config / "out" / "log.txt").read_text()
    second = submit(head, config, "--wait")
    assert second.returncode == 0, second.stderr
    name, _, attempt = first.stdout.strip().rpartition("-")
    assert second.stdout.strip() == f"{name}-{int(attempt) + 1}"


def test_the_exit_code_of_the_run_comes_back(head, config):
    """A run that is done but for a damaged image gives its own exit code, and what it printed can be had later."""
    (config / "folder").mkdir()
    (config / "a.tif").rename(config / "folder" / "a.tif")
    (config / "folder" / "b.tif").write_bytes(b"II*\0 no image")
    text = (config / "run.yaml").read_text().replace(str(config / "a.tif"), str(config / "folder")).replace("truth:", "# truth:")
    (config / "run.yaml").write_text(text)
    partial = submit(head, config, "--wait")
    assert partial.returncode == 3, partial.stderr
    later = submit(head, config, "--logs")
    assert (later.returncode, later.stderr) == (0, "")
    assert "1 failure" in later.stdout
    assert "1 failure" in partial.stderr


def test_a_run_is_stopped_and_resumed_on_the_cluster(head, config):
    """It is started once however often it is submitted; `--stop` ends it as `gigaseg stop` does; to submit it again resumes it."""
    import numpy as np
    import tifffile

    tifffile.imwrite(config / "a.tif", np.random.default_rng(0).integers(0, 255, (6000, 6000), np.uint8), tile=(512, 512))
    text = (
        (config / "run.yaml").read_text().replace("truth:", "# truth:").replace("model: histogram", "model: {name: histogram, smooth: 9.0}")
    )
    (config / "run.yaml").write_text(f"{text}\ntiling: {{core: 256, block: 256}}")
    first = submit(head, config)
    again = submit(head, config)
    assert again.stdout == first.stdout
    assert "already " in again.stderr
    ledger = config / "out" / "ledger"
    wait_for(lambda: any(b"predict" in rows.read_bytes() for rows in ledger.glob("*.jsonl")), "a block")
    stopped = submit(head, config, "--stop")
    assert (stopped.returncode, stopped.stderr) == (0, f"asked to stop: {first.stdout}")
    wait_for(lambda: json.loads((config / "out" / "run.json").read_text())["state"] == "interrupted", "the end")
    wait_for(lambda: submit(head, config, "--stop").returncode == 2, "the job to end")
    resumed = submit(head, config, "--wait")
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch 2" in (config / "out" / "log.txt").read_text()


def wait_for(condition, what):
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, f"waited for {what}"
        time.sleep(0.3)


def test_a_head_that_knows_no_job_is_told():
    """A head that was started again has forgotten its jobs."""

    def ask():
        raise RuntimeError("Request failed with status code 404: job does not exist")

    with pytest.raises(_patience.LostContactError, match="does not know this job"):
        ray_target._known(ask, "http://head:8265")


def test_no_password_of_an_address_is_shown():
    """An address with a user is refused without showing who."""
    with pytest.raises(InputError, match="--address: found http://head:8265 with a user name") as refused:
        ray_target.Ray(address="http://me:hidden@head:8265")
    assert "hidden" not in str(refused.value)


def test_a_wrong_token_is_the_users_to_mend(head, config):
    """No traceback: the message says what to set."""
    refused = submit(head, config, RAY_AUTH_TOKEN="0" * 64)
    assert refused.returncode == 2
    assert "RAY_AUTH_TOKEN" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_dry_run_contacts_nothing(config):
    """Nothing listens at the address, and what would be sent is printed."""
    shown = submit((f"http://127.0.0.1:{free_port()}", dict(os.environ)), config, "--dry-run")
    assert shown.returncode == 0, shown.stderr
    sent = json.loads(shown.stdout)
    assert sent["entrypoint"] == "gigaseg run config.yaml"
    assert "runner: ray" in sent["config"]
    assert str(config / "out") in sent["config"]


def test_nobody_there_is_said_plainly(config):
    """A cluster that does not answer is wrong input."""
    refused = submit((f"http://127.0.0.1:{free_port()}", dict(os.environ)), config)
    assert refused.returncode == 2
    assert "no Jobs API answers" in refused.stderr


def certificates(folder):
    """An authority of our own and a certificate of this machine, as Ray's documentation asks for them; as Ray's variables."""
    own = subprocess.run(["hostname", "-I"], check=True, capture_output=True, text=True).stdout.split()  # a head prefers these to loopback
    names = ",".join(["DNS:localhost", *(f"IP:{address}" for address in ("127.0.0.1", *own))])
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    authority, key, certificate = (folder / name for name in ("authority.pem", "key.pem", "certificate.pem"))
    signed = ["-CA", authority, "-CAkey", folder / "authority-key.pem", "-addext", f"subjectAltName={names}"]
    for command in (
        [*make, "-subj", "/CN=authority", "-keyout", folder / "authority-key.pem", "-out", authority],
        [*make, "-subj", "/CN=ray", *signed, "-addext", "basicConstraints=critical,CA:FALSE", "-keyout", key, "-out", certificate],
    ):
        subprocess.run(command, check=True, capture_output=True)
    files = {"SERVER_CERT": certificate, "SERVER_KEY": key, "CA_CERT": authority}
    return {"RAY_USE_TLS": "1", **{f"RAY_TLS_{name}": str(file) for name, file in files.items()}}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make certificates")
def test_a_cluster_with_tls_takes_the_run(config):
    """With Ray's own variables set, driver and actors talk over TLS."""
    with started_head(**certificates(config)) as secured:
        done = submit(secured, config, "--wait")
        assert done.returncode == 0, done.stderr
    assert "joined" in (config / "out" / "log.txt").read_text()
