"""Who is answered, what is never served, and what a wrong request is told."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from pipeline.cli import main

TILE = "/tile/a/mask/11/0_0.png"
TRICKS = [
    "/static/../server.py",
    "/static/%2e%2e/server.py",
    "/static/..%2f..%2fserver.py",
    "/static/..%5cserver.py",
    "/static//etc/passwd",
    "/static/server.py",
    "/tile/a/mask/11/..%2f0_0.png",
    "/tile/../run.json",
    "/run.json",
    "/masks/scan.ome.zarr/zarr.json",
]


@pytest.fixture
def page(scene, opened):
    return opened(scene / "out")


def test_without_the_token_nothing_is_answered(page):
    """No token, a wrong one, a wrong cookie, or one for another port: 403, and no word of what is here."""
    paths = ["/", "/?token=", "/?token=secreT", "/api/run", TILE, "/static/main.js", "/nothing"]
    for headers in ({}, {"cookie": "gigaseg-8123=wrong"}, {"cookie": "gigaseg-8124=secret"}, {"cookie": "token=secret"}):
        page.client.cookies.clear()
        for path in paths:
            answer = page.client.get(path, headers=headers)
            assert answer.status_code == 403, path
            assert "scan" not in answer.text
    assert page.client.get("/api/run", headers={"cookie": "a=b; gigaseg-8123=secret"}).status_code == 200
    assert page.client.get("/?token=secreT", headers={"cookie": "gigaseg-8123=secret"}).status_code == 403


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(page):
    """The URL with the token leads to one without it."""
    answer = page.client.get("/?token=secret", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert answer.headers["set-cookie"] == "gigaseg-8123=secret; Path=/; HttpOnly; SameSite=Strict"


@pytest.mark.parametrize("host", ["evil.example:8123", "127.0.0.1", "127.0.0.1:81", "localhost.evil.example:8123", ""])
def test_only_loopback_names_this_server(page, host):
    """A page whose name was made to point here sends its own name: it is refused, with the token and without."""
    for path in ("/?token=secret", "/api/run"):
        assert page.client.get(path, headers={"host": host}, follow_redirects=False).status_code == 403
    assert page.client.get("/api/run", headers={"host": "localhost:8123"}).status_code == 200
    assert "ssh -L 8123:127.0.0.1:8123" in page.client.get("/", headers={"host": "localhost:9000"}).json()["error"]


def test_nothing_can_be_changed(page):
    """Only GET and HEAD are answered."""
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert page.client.request(method, "/api/run").status_code == 405
    assert page.client.head("/api/run").status_code == 200


@pytest.mark.parametrize("path", TRICKS)
def test_no_path_leads_out(page, path):
    """Files are served by name from a known list alone."""
    answer = page.client.get(path)
    assert answer.status_code == 404
    assert "import" not in answer.text


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"name": "../scan"}, 404),
        ({"name": "scan/../scan"}, 404),
        ({"name": "/etc/passwd"}, 404),
        ({}, 404),
        ({"name": "scan", "plane": "1"}, 400),
        ({"name": "scan", "plane": "-1"}, 400),
        ({"name": "scan", "plane": "9" * 400}, 400),
        ({"name": "scan", "classes": "0,x"}, 400),
        ({"name": "scan", "object": "1.5"}, 400),
    ],
)
def test_a_wrong_request_is_told_in_one_line(page, query, status):
    """Names are looked up, numbers are whole and bounded; an error is JSON without a traceback."""
    answer = page.get(TILE, **query)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert "Traceback" not in answer.text


def test_an_error_that_nobody_foresaw_is_told_once(page, monkeypatch, capsys):
    """The page gets JSON, the terminal one line without a traceback, and the server goes on."""

    def fail(*_):
        raise ZeroDivisionError("of a decoder")

    monkeypatch.setattr(type(page.run), "at", fail)
    for _ in range(2):
        answer = page.get("/api/at", name="scan")
        assert (answer.status_code, set(answer.json())) == (500, {"error"})
    assert capsys.readouterr().err == "gigaseg: ZeroDivisionError: of a decoder\n"
    assert page.get("/api/run").status_code == 200


def test_a_tile_is_kept_once_whatever_else_is_asked(page):
    """Channels of a mask, or classes that there are not, draw nothing else, and so take no memory."""
    page.get(TILE, name="scan", classes="0,1")
    kept = len(page.run._tiles._kept)
    for query in ({"classes": "1,0,999"}, {"classes": "0,1", "object": "7"}, {"classes": "0,1", "channels": "0:ff0000:0:1"}):
        assert page.get(TILE, name="scan", **query).status_code == 200
    assert len(page.run._tiles._kept) == kept


def test_wrong_runs_layers_and_channels(page):
    """What is not there is not looked for."""
    for path, query, status in (
        ("/api/run", {"run": "c"}, 404),
        ("/api/run", {"run": "b"}, 404),
        ("/tile/b/mask/11/0_0.png", {"name": "scan"}, 404),
        ("/tile/a/__class__/11/0_0.png", {"name": "scan"}, 404),
        ("/tile/a/difference/11/0_0.png", {"name": "scan"}, 400),
        ("/tile/a/image/11/0_0.png", {"name": "scan", "channels": "7:ff0000:0:1"}, 400),
        ("/tile/a/image/11/0_0.png", {"name": "scan", "channels": "0:ff0000:nan:1"}, 400),
        ("/tile/a/image/11/0_0.png", {"name": "scan", "channels": "0:ff0000:0:1e300"}, 400),
        ("/api/worst", {"by": "__class__"}, 404),
        ("/api/objects", {"name": "scan", "sort": "../x"}, 400),
        ("/api/object", {"name": "scan", "id": "999999"}, 404),
    ):
        assert page.get(path, **query).status_code == status, (path, query)


def test_answers_may_not_be_framed_sniffed_or_run_scripts_of_others(page):
    """Every response has the policy, those of errors too; tiles of a run that has ended may be kept by the browser alone."""
    for path in ("/api/run", "/nothing", f"{TILE}?name=scan"):
        headers = page.client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers
    assert page.get(TILE, name="scan").headers["cache-control"] == "private, max-age=3600"
    assert page.get("/api/run").headers["cache-control"] == "no-store"


def test_hostile_names_travel_as_they_are(page):
    """A class is named as the YAML names it; JSON is no HTML, and browsers are told so."""
    answer = page.get("/api/run")
    assert answer.json()["classes"][2]["name"] == "<b>nucleus</b>"
    assert answer.headers["content-type"] == "application/json"


def test_the_command_prints_one_url_and_ends_with_ctrl_c(scene):
    """It listens on 127.0.0.1 alone, logs no token, and its exit code is 0."""
    command = [sys.executable, "-m", "pipeline", "view", str(scene / "out")]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        url = running.stdout.readline().strip()
        port, token = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{43})", url).groups()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/state", headers={"cookie": f"gigaseg-{port}={token}"})
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            assert json.load(answer)["state"] == "done"
        listening = {one.split()[3] for one in listeners() if f":{port} " in one}
        assert listening in ({f"127.0.0.1:{port}"}, set())
        os.kill(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=30)
    finally:
        running.kill()
    assert (running.returncode, out) == (0, "")
    assert token not in err


def listeners():
    """Lines of what listens on this machine, where `ss` is installed."""
    try:
        return subprocess.run(["ss", "-ltnH"], capture_output=True, text=True, check=True).stdout.splitlines()
    except OSError:
        return []


def test_a_port_that_is_taken_is_told(scene, capsys):
    """Exit code 2, and one line."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["view", str(scene / "out"), "--port", str(taken.getsockname()[1])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "expected a free port" in err


@pytest.mark.parametrize("kind", ["nothing", "training", "unbegun"])
def test_what_cannot_be_viewed_is_told_in_one_line(tmp_path, capsys, kind):
    """A folder without a run, a training, a run without a block: exit code 2, and nothing is made."""
    if kind != "nothing":
        content = {"format": "gigaseg.run/1", "state": "running", **({"kind": "training"} if kind == "training" else {})}
        (tmp_path / "run.json").write_text(json.dumps(content))
    before = sorted(tmp_path.rglob("*"))
    assert main(["view", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert sorted(tmp_path.rglob("*")) == before
