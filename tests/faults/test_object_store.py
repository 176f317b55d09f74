"""A run whose output is a bucket: servers and networks fail, drivers are killed, two want one output, keys are wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import obstore
import pytest

from pipeline import open_run
from pipeline.errors import InputError
from pipeline.storage import _object_store, open_storage
from tests.cluster.faulty_proxy import FAULTS, faulty_proxy
from tests.cluster.s3_server import KEY, READ_KEY, READ_SECRET, SECRET, environment
from tests.faults.scene import REPOSITORY, Scene, assert_same, gigaseg, is_alive, left_in, run, started, wait_for
from workflows.run import run as execute

TILING = {"core": 64, "block": 64, "halo": 8, "stitch": "linear"}  # blocks exchange scores by files
OTHER = "another-secret-77"
IMPATIENT = """
import sys
import pipeline.storage._object_client as client
from pipeline.__main__ import main
client.RETRY_S = 2
sys.exit(main())
"""
WRITERS = [{"name": "ome_zarr"}, {"name": "tiff"}]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """An image, and what a serial run leaves in a folder."""
    made = Scene(tmp_path_factory.mktemp("bucket"), images=1, tiling=TILING)
    ended = run(made.yaml("reference", writers=WRITERS))
    assert ended.code == 0, ended.told
    return made


def config(scene, url, *, seconds=0.0, **changes):
    """The YAML of a run into a bucket; its images and truth are files."""
    model = {"name": "tests.faults.faulty", "seconds": seconds}
    return scene.yaml(url, model=model, writers=WRITERS, **changes)


def fetched(url, folder):
    """Copy everything below a URL into a folder."""
    storage = open_storage(url)
    for key in storage.list():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.get(key))
    return folder


def assert_whole(scene, url, folder):
    """Masks, exports and report in a bucket are those of the run in a folder, and no file of a finished block's is left."""
    output, reference = fetched(url, folder), scene.root / "reference"
    assert_same(output, left_in(reference))
    names = {str(path.relative_to(reference)) for path in reference.rglob("*") if path.is_file() and "ledger" not in path.parts}
    assert {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file() and "ledger" not in path.parts} == names
    for name in ("masks/00.tif", "report/per_class.csv", "report/per_image.csv"):
        assert (output / name).read_bytes() == (reference / name).read_bytes()


def rows(url):
    storage = open_storage(url)
    return sum((storage.get(key) or b"").count(b'"receipt":') for key in storage.list("ledger/") if key.endswith(".jsonl"))


def ask(monkeypatch, environment):
    """Use a server as somebody."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def test_a_server_that_fails_changes_nothing(scene, s3, s3_servers, tmp_path, monkeypatch):
    """One request in ten fails, one way or another: the run ends well, and leaves what a run in a folder leaves."""
    with faulty_proxy(s3_servers.endpoint, seed=7, rate=1 / 10) as proxy:
        ask(monkeypatch, environment(proxy.endpoint))
        assert execute(config(scene, s3)) == 0
        assert all(proxy.faults[kind] for kind in FAULTS)
    ask(monkeypatch, environment(s3_servers.endpoint))
    assert_whole(scene, s3, tmp_path)


def test_commands_take_a_url_and_write_no_secret(scene, s3, s3_servers, tmp_path):
    """Run, report, retry, `--fresh` and the Python API work on a bucket as on a folder; none leaves or says a key or a secret."""
    yaml = config(scene, s3)
    told = []
    for command in (["run", yaml], ["report", s3], ["retry", s3], ["run", yaml, "--fresh"]):
        ended = gigaseg("--debug", *command)
        assert ended.code == 0, ended.told
        told.append(ended.told)
    wrong = gigaseg("--debug", "status", s3, env=environment(s3_servers.endpoint, secret=OTHER))
    assert (wrong.code, "no access (SignatureDoesNotMatch)" in wrong.told) == (2, True), wrong.told
    assert_whole(scene, s3, tmp_path)
    found = open_run(s3)
    assert (found.state, found.storage.url) == ("done", s3)
    np.testing.assert_array_equal(np.asarray(found.mask("00")), left_in(scene.root / "reference")[0]["00.ome.zarr/0"])
    files = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"run.json", "config.yaml", "log.txt", "report/index.html"} <= files.keys()
    for secret in (KEY, SECRET, OTHER):
        assert not [name for name, data in files.items() if secret.encode() in data]
        assert secret not in "".join([*told, wrong.told])


def test_a_killed_driver_resumes(scene, s3, tmp_path):
    """`kill -9` twice in the middle of a run: the same command ends it as if nothing had been, and does no block again."""
    yaml = config(scene, s3, seconds=0.05)
    for number in (3, 9):
        with started("run", yaml) as command:
            wait_for(lambda: rows(s3) >= number or not is_alive(command.process), "blocks")  # noqa: B023 - called here
            assert is_alive(command.process), command.told
            command.process.kill()
    before = rows(s3)
    ended = run(yaml)
    assert ended.code == 0, ended.told
    assert before >= 9
    assert_whole(scene, s3, tmp_path)
    committed = rows(s3)
    assert run(yaml).code == 0
    assert rows(s3) == committed


def test_of_two_drivers_one_runs(scene, s3):
    """While one run goes on, another one is refused with an exit code of its own; `status` and `stop` reach the first one."""
    yaml = config(scene, s3, seconds=3.0)
    with started("run", yaml) as first:
        wait_for(lambda: rows(s3) >= 1, "the first block")
        second = run(yaml)
        assert (second.code, "one run at a time" in second.told) == (4, True), second.told
        assert "running" in gigaseg("status", s3).told
        assert gigaseg("stop", s3).code == 0
        assert first.wait().code == 130
    assert "interrupted" in gigaseg("status", s3).told


def test_what_a_run_may_not_do_is_known_before_it_begins(scene, s3, s3_servers, monkeypatch):
    """A bucket that may only be read, one that does not exist, wrong keys, a web server: wrong input, and nothing is written."""
    for url, env, message in (
        (s3, environment(s3_servers.endpoint, key=READ_KEY, secret=READ_SECRET), r"no access \(AccessDenied\)"),
        (s3, environment(s3_servers.endpoint, key="AKIANOBODY"), r"no access \(InvalidAccessKeyId\)"),
        ("s3://no-such-bucket/a", environment(s3_servers.endpoint), "no bucket 'no-such-bucket'"),
        (s3.replace("s3://", f"{s3_servers.files}/"), {}, "a web server, which is only read; expected a folder, or a URL of s3, gs or az"),
    ):
        ask(monkeypatch, env)
        with pytest.raises(InputError, match=message):
            execute(config(scene, url))
    assert open_storage(s3).list() == []


def test_a_store_that_cannot_tell_who_was_first_needs_a_word(scene, s3, s3_servers, tmp_path, monkeypatch):
    """Where `If-None-Match` is not known, a run is refused until the user says that it is the only one."""
    with faulty_proxy(s3_servers.endpoint, rate=0, ignores_conditions=True) as proxy:
        ask(monkeypatch, environment(proxy.endpoint))
        with pytest.raises(InputError, match="use --take-over"):
            execute(config(scene, s3))
        assert execute(config(scene, s3), take_over=True) == 0
    ask(monkeypatch, environment(s3_servers.endpoint))
    assert_whole(scene, s3, tmp_path)


def test_keys_that_expire_end_a_run_that_resumes(scene, s3, s3_servers, tmp_path):
    """Keys that have worked and do not any more: after some tries the run ends with exit 1; with new keys it goes on."""
    yaml = config(scene, s3, seconds=0.05)
    with faulty_proxy(s3_servers.endpoint, rate=0, kinds=["expired"]) as proxy:
        env = {**os.environ, **environment(proxy.endpoint), "PYTHONPATH": str(REPOSITORY)}
        command = subprocess.Popen([sys.executable, "-c", IMPATIENT, "run", yaml], env=env, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: rows(s3) >= 3, "blocks")
        proxy.rate = 1
        told = command.communicate(timeout=100)[1]
    assert command.returncode == 1, told
    assert "no access (ExpiredToken)" in told
    assert "run again: it resumes" in told
    assert "Traceback" not in told
    assert run(yaml).code == 0
    assert_whole(scene, s3, tmp_path)


def test_ray_agrees(scene, s3, tmp_path):
    """Actors of Ray write into a bucket what a serial run writes into a folder; they have the driver's environment."""
    ended = run(config(scene, s3, compute={"runner": "ray", "actors": 2}), limit_s=200)
    assert ended.code == 0, ended.told
    assert_whole(scene, s3, tmp_path)


def test_a_large_file_is_written_in_parts_and_whole(s3, monkeypatch):
    """A file of several parts is there when it is whole."""
    storage = open_storage(s3)
    data = np.random.default_rng(0).bytes(20 << 20)
    parts, real = [], _object_store.ObjectStorage._upload
    monkeypatch.setattr(_object_store.ObjectStorage, "_upload", lambda *args: (parts.append(args[1]), real(*args)))
    storage.put("memory", memoryview(data))
    with storage.local_file("disk.tif") as path:
        path.write_bytes(data)
    assert parts == ["memory", "disk.tif"]
    assert storage.get("memory") == storage.get("disk.tif") == data


def test_every_operation_holds_while_the_server_fails(s3, s3_servers, monkeypatch):
    """One request in five fails, one way or another, also after it was done: each call does what it promises, once."""
    with faulty_proxy(s3_servers.endpoint, seed=3, rate=1 / 5) as proxy:
        ask(monkeypatch, environment(proxy.endpoint))
        storage = open_storage(s3)
        storage.make()
        for number in range(8):
            key, data = f"a/{number}", b"%d" % number * 500
            storage.put(key, data)
            assert (storage.get(key, 3, 400), storage.size(key)) == (data[3:400], 500)
            assert [storage.create(f"claims/{number}", b"%d" % caller) for caller in range(2)] == [True, False]
            storage.append("log", b"x", number)
        assert (storage.size("log"), storage.get("claims/7")) == (8, b"0")
        with storage.replace_tree("a") as made:
            made.put("new", b"1")
        with storage.local_file("large") as path:
            path.write_bytes(bytes(10 << 20))
        storage.delete_tree("claims")
        assert storage.list() == ["a/new", "large", "log"]
        assert storage.size("large") == 10 << 20
        assert sum(proxy.faults[kind] for kind in FAULTS) > 10


def test_a_claim_whose_answer_was_lost_is_its_own(s3, s3_servers, monkeypatch):
    """A file that was created by a request whose answer failed belongs to the caller, who asks again; another one still loses."""
    with faulty_proxy(s3_servers.endpoint, seed=1, rate=1 / 2, kinds=["failed after it was done", "no answer"]) as proxy:
        ask(monkeypatch, environment(proxy.endpoint))
        storage = open_storage(s3)
        assert [storage.create(f"claims/{number}", b"") for number in range(8)] == [True] * 8
        assert [storage.create(f"claims/{number}", b"") for number in range(8)] == [False] * 8


def test_a_claim_that_is_removed_meanwhile_is_lost(s3, monkeypatch):
    """A file that another process removes between the refusal and the look at its owner was that process's."""
    storage = open_storage(s3)
    assert storage.create("claim", b"1")
    real = obstore.put

    def put(*args, **options):
        try:
            return real(*args, **options)
        finally:
            open_storage(s3).delete("claim")

    monkeypatch.setattr(obstore, "put", put)
    assert storage.create("claim", b"2") is False


def test_a_service_says_that_it_knows_no_conditions(s3, monkeypatch):
    """Where a condition is refused rather than ignored, files are created all the same, by one caller after the other."""
    assert open_storage(s3).creates_once()
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    storage = open_storage(s3)
    assert not storage.creates_once()
    assert (storage.create("a", b"1"), storage.create("a", b"2"), storage.get("a"), storage.list()) == (True, False, b"1", ["a"])


def test_what_a_killed_process_left_is_hidden_and_removed(s3, monkeypatch):
    """Files of a tree that was never finished are not listed; those that are old enough are removed."""
    storage = open_storage(s3)
    storage.put("b/.a.partial/0123/zarr.json", b"1")
    storage.put("b/c", b"2")
    assert storage.list() == ["b/c"]
    monkeypatch.setattr(time, "time", lambda: 1e12)  # the clock of a machine that is ahead counts for nothing
    storage.remove_leftovers(3600)
    assert open_storage(s3).below("b/.a.partial").list() == ["0123/zarr.json"]
    storage.remove_leftovers(-60)
    assert (open_storage(s3).below("b/.a.partial").list(), storage.list()) == ([], ["b/c"])


def test_a_file_that_changes_while_it_is_read_is_an_error(s3):
    """Parts of an open file come from one version of it."""
    storage = open_storage(s3)
    storage.put("a", bytes(1 << 20))
    with storage.open("a") as file:
        assert file.read(3) == bytes(3)
        storage.put("a", bytes([1]) * (1 << 20))
        file.seek(1 << 19)
        with pytest.raises(OSError, match=f"^{s3}/a: the file has changed while it was read$"):
            file.read(3)
