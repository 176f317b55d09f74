"""A watch of a folder: what it refuses, what it says, how it finds the image that a run refuses, and that it does not grow."""

from __future__ import annotations

import gc
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import load_config
from pipeline.errors import GigasegError, InputError, StoreError
from pipeline.inputs import Arrivals
from pipeline.records import Holder, RunFolder
from tests.conftest import blobs, save_tiff
from workflows import watch as module
from workflows import watch_pass
from workflows.status import status
from workflows.stop import stop
from workflows.watch import config_of, print_schedule, watch


@pytest.fixture
def place(tmp_path):
    """A folder for images, and a YAML without any."""
    (tmp_path / "in").mkdir()
    lines = ["model: {name: histogram, classes: 2}", "tiling: {core: 64, halo: 0, block: 64}", "compute: {runner: serial}", "output: out"]
    (tmp_path / "run.yaml").write_text("\n".join(lines))
    return tmp_path


def watcher(place, settle_s=0.0):
    config = config_of(str(place / "in"), place / "run.yaml")
    return module._Watcher(config, Arrivals(config, str(place / "in"), settle_s), RunFolder(config.output), as_json=False)


def test_the_folder_takes_the_place_of_images(place):
    """A YAML needs no `images`, and those that it has are not read; a folder with letters of globs is a folder."""
    (place / "in [1]").mkdir()
    assert config_of(str(place / "in [1]"), place / "run.yaml").images == (str(place / "in [1]"),)
    assert config_of(str(place / "in"), place / "run.yaml", ["images=[nowhere]", "normalize=zscore"]).images == (str(place / "in"),)


@pytest.mark.parametrize(
    ("folder", "overrides", "words"),
    [
        ("none", [], "a folder that exists"),
        ("https://server/images", [], "A web server does not say"),
        ("in", ["model={name: unet, channels: 1, classes: 2, weights: none.safetensors}"], "none.safetensors"),
        ("in", ["classes=[{name: a}, {name: b}, {name: c}]"], "classes"),
        ("in", ["tiling.cor=3"], "tiling.cor"),
    ],
)
def test_what_is_wrong_is_said_before_an_image_arrives(place, folder, overrides, words):
    """Exit 2, and no output folder is made."""
    folder = folder if "://" in folder else str(place / folder)
    with pytest.raises(InputError, match=words):
        watch(folder, place / "run.yaml", overrides, once=True, settle_s=0)
    with pytest.raises(InputError, match=words):
        print_schedule("0 2 * * *", folder, place / "run.yaml", overrides)
    assert not (place / "out").exists()


def test_nothing_is_left_where_no_image_came(place):
    """An empty folder, once: exit 0, and no output folder."""
    assert watch(str(place / "in"), place / "run.yaml", once=True, settle_s=0) == 0
    assert not (place / "out").exists()


def test_the_lines_for_cron_and_scrontab_are_whole_commands(place, capsys):
    """Absolute paths, quoted; a percent sign would end a line of cron."""
    assert print_schedule("0 2 * * *", str(place / "in"), place / "run.yaml", ["output=/data/100 %"]) == 0
    cron, scrontab = (line for line in capsys.readouterr().out.splitlines() if line.startswith("0 2 * * * "))
    assert f" watch {place / 'in'} --config {place / 'run.yaml'} --once --set 'output=/data/100 \\%'" in cron
    assert scrontab == cron.replace("\\%", "%")
    print_schedule("0 2 * * *", str(place / "in"), place / "run.yaml", settle_s=120.5, every_s=5.0, as_json=True)
    assert " --once --settle=120.5 --every=5.0 --json" in capsys.readouterr().out
    with pytest.raises(InputError, match="--schedule"):
        print_schedule("at two", str(place / "in"), place / "run.yaml")


def put_images(place, good, bad=()):
    """Images of one channel, and of three."""
    for name in good:
        save_tiff(place / "in" / name, blobs((64, 64)))
    for name in bad:
        save_tiff(place / "in" / name, blobs((64, 64), channels=3).transpose(1, 2, 0), photometric="rgb")


def test_the_image_that_a_run_refuses_is_found(place):
    """It is named with the reason, and the others are taken, wherever it stands among them."""
    config = load_config(place / "run.yaml", [f"images=[{place / 'in'}]", "model={name: unet, channels: 1, classes: 2, depth: 2, base: 4}"])
    put_images(place, ["a.tif", "c.tif", "d.tif"], ["b.tif", "e.tif"])
    paths = sorted(str(path) for path in (place / "in").iterdir())
    refused: dict[str, str] = {}
    fitting = watch_pass.fitting(config, paths[:1], paths[1:], refused)
    assert [Path(path).name for path in fitting] == ["c.tif", "d.tif"]
    assert {Path(path).name for path in refused} == {"b.tif", "e.tif"}
    assert all("channels" in why for why in refused.values())


def test_an_image_that_a_run_refuses_blocks_no_other(place, capsys):
    """The others are segmented, and the refused one is told with its reason; where it is alone, nothing is begun."""
    put_images(place, ["a.tif"], ["b.tif"])
    overrides = ["model={name: unet, channels: 1, classes: 2, depth: 2, base: 4}"]
    config = config_of(str(place / "in"), place / "run.yaml", overrides)
    job = {"config": module.to_yaml(config), "origin": str(place / "x.yaml"), "known": [], "answer": str(place / "answer"), "json": False}
    for names, code in ((["b.tif"], 0), (["a.tif", "b.tif"], 0)):
        assert watch_pass.do_pass({**job, "new": [str(place / "in" / name) for name in names]}) == code
        assert list(json.loads((place / "answer").read_text())) == [str(place / "in" / "b.tif")]
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == ["b.tif", "a"]
    assert "channels" in told[0]


def test_images_are_not_blamed_for_a_folder_that_is_gone(place):
    """A file system that is not mounted for a while is tried again."""
    config = config_of(str(place / "in"), place / "run.yaml")
    (place / "in").rmdir()
    with pytest.raises(StoreError, match="is its file system mounted"):
        watch_pass.fitting(config, [], [str(place / "in" / "a.tif")], {})


def test_each_image_is_told_once(tmp_path, capsys):
    """Also by another process; what has changed is told again, and what is gone is forgotten."""
    storage = RunFolder(str(tmp_path)).watch
    for keys in ({"a": "1", "b": "1"}, {"a": "1", "b": "2"}, {"a": "1"}, {"a": "1", "b": "2"}):
        lines = [{"name": name, "key": key} for name, key in keys.items()]
        watch_pass.Told(storage).tell(lines, lambda line: print(f"{line['name']}{line['key']}"))
    assert capsys.readouterr().out.split() == ["a1", "b1", "b2", "b2"]


def test_a_line_says_how_an_image_went(capsys):
    """For people and as JSON."""
    line = {
        "name": "a",
        "key": "1",
        "pixels": 10**6,
        "seconds": 2.0,
        "shares": {"x": 0.5},
        "mean_iou": None,
        "failures": 1,
        "causes": ["c"],
        "warnings": ["w"],
    }
    watch_pass.print_text(line)
    watch_pass.print_json(line)
    text, as_json = capsys.readouterr().out.splitlines()
    assert text == "a: 1,000,000 pixels, 2.0 s, x 50.0 %, 1 failed: c, w"
    assert json.loads(as_json) == {name: value for name, value in line.items() if name != "key"}


def test_a_pass_takes_only_what_was_accepted(place, capsys):
    """What still grows stays out of plan and report, and is named there as left out."""
    put_images(place, ["a.tif", "growing.tif"])
    config = config_of(str(place / "in"), place / "run.yaml")
    job = {"config": module.to_yaml(config), "origin": str(place / "x.yaml"), "known": [], "new": [str(place / "in" / "a.tif")]}
    assert watch_pass.do_pass({**job, "answer": str(place / "answer"), "json": False}) == 0
    assert capsys.readouterr().out.startswith("a: 4,096 pixels")
    report = json.loads((place / "out/report/report.json").read_text())
    assert [image["name"] for image in report["per_image"]] == ["a"]
    assert [Path(one["path"]).name for one in report["left_out"]] == ["growing.tif"]
    assert json.loads((place / "answer").read_text()) == {}


def test_thousands_of_images_come_and_go_in_flat_memory(place, monkeypatch):
    """1,000 arrivals, of which 20 are there at a time: each is given to one pass, and nothing is kept of those that are gone."""
    one = watcher(place)
    times_given = bytearray(1000)

    def run_pass(self, known, new):
        for path in new:
            times_given[int(Path(path).stem)] += 1
        return 0, {}

    monkeypatch.setattr(module._Watcher, "run_pass", run_pass)
    sizes = []
    tracemalloc.start()
    for number in range(1000):
        (place / "in" / f"{number:04d}.png").write_bytes(b"x")
        if number >= 20:
            (place / "in" / f"{number - 20:04d}.png").unlink()
        if number % 10 == 9:
            one.take(one.arrivals.look())
        if number in (299, 999):
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert times_given == bytes([1]) * 1000
    assert sizes[1] - sizes[0] < 30_000, sizes


def test_what_cannot_go_on_is_tried_again_later_and_later(place, monkeypatch):
    """A pass that fails is no end: its images are new again, and the pauses double up to a limit."""
    (place / "in" / "a.tif").write_bytes(b"x")
    one = watcher(place)
    one.folder.ledger.make()
    tries, pauses = [], []

    def run_pass(self, known, new):
        tries.append(new)
        if len(tries) < 9:
            raise GigasegError("the disk is full")
        self.stopped.set()
        return 0, {}

    monkeypatch.setattr(module._Watcher, "run_pass", run_pass)
    monkeypatch.setattr(module._Watcher, "wait", lambda self, seconds: pauses.append(seconds))
    assert one.go_on(0.0) == 0
    assert tries == [[str(place / "in" / "a.tif")]] * 9
    assert pauses[:8] == [10, 20, 40, 80, 160, 320, 600, 600]


def test_wrong_input_ends_a_watch_that_has_done_nothing_yet(place, monkeypatch):
    """Exit 2 at the first pass, as with an output that holds another run; later, the same input was right before, and is tried again."""
    (place / "in" / "a.tif").write_bytes(b"x")
    one = watcher(place)
    one.folder.ledger.make()

    def run_pass(self, known, new):
        raise InputError("output: begun with another config")

    monkeypatch.setattr(module._Watcher, "run_pass", run_pass)
    with pytest.raises(InputError):
        one.go_on(0.0)
    one.done = {"other": ()}
    with pytest.raises(GigasegError, match="another config") as later:
        one.take(one.arrivals.look())
    assert later.value.exit_code == 1


def test_a_pass_that_was_killed_is_tried_with_actors(place):
    """An image that crashes a library would end every pass in one process; actors are replaced, and the image is quarantined."""
    one = watcher(place)
    one.config = load_config(place / "run.yaml", [f"images=[{place / 'in'}]", "compute.runner=auto"])
    assert one.config_of_pass().compute.runner == "auto"
    one.has_died = True
    assert one.config_of_pass().compute.runner == "ray"


def test_a_pass_that_says_nothing_and_one_that_says_much(tmp_path):
    """The last lines of what a pass wrote on stderr are its error; wrong input stays wrong input."""
    with (tmp_path / "errors").open("w+b") as errors:
        assert "ended with -9" in str(module.error_of(-9, errors))
        errors.write(b"".join(b"line %d\n" % number for number in range(10**5)))
        error = module.error_of(2, errors)
    assert isinstance(error, InputError)
    assert str(error).splitlines()[-1] == "line 99999"
    assert len(str(error).splitlines()) == module.MOST_LINES


def test_a_watch_can_be_stopped_before_an_image_came(place, capsys):
    """`gigaseg stop` finds it by its lock; without one there is nothing to stop."""
    with pytest.raises(InputError, match=r"no run\.json"):
        stop(str(place / "out"))
    one = watcher(place)
    with module.watching(one.folder):
        assert stop(str(place / "out")) == 0
        assert one.is_asked()
    assert "(watching)" in capsys.readouterr().err


def test_an_error_of_a_run_that_removed_its_folder_is_told(place):
    """The folder of an output that another cleaned up is not looked for."""
    one = watcher(place)

    def fail():
        with module.watching(one.folder):
            one.folder.storage.delete_tree("ledger")
            one.folder.storage.remove_if_empty()
            raise InputError("no Ray answers")

    with pytest.raises(InputError, match="no Ray"):
        fail()
    assert not (place / "out").exists()


def test_one_look_says_that_it_waits(place, capsys):
    """Where an image is there that may still grow; an empty folder needs no wait."""
    one = watcher(place, settle_s=0.01)
    one.folder.ledger.make()
    assert one.go_once(0.01) == 0
    assert capsys.readouterr().err == ""
    put_images(place, ["a.tif"])
    one.stopped.set()
    one.go_once(0.01)
    assert "1 image found; waiting 0.01 s for changes" in capsys.readouterr().err


def test_what_is_left_undone_is_told_by_the_exit_code(place, monkeypatch):
    """130 where a watch is stopped while an image waits for another try; 0 once it is done, or gone."""
    (place / "in" / "a.tif").write_bytes(b"x")
    one = watcher(place)
    one.folder.ledger.make()

    def run_pass(self, known, new):
        raise GigasegError("the disk is full")

    monkeypatch.setattr(module._Watcher, "run_pass", run_pass)
    monkeypatch.setattr(module._Watcher, "wait", lambda self, seconds: self.stopped.set())
    assert one.go_on(0.0) == 130
    one.stopped.clear()
    (place / "in" / "a.tif").unlink()
    assert one.go_on(0.0) == 0


def test_a_watch_that_is_asked_to_stop_begins_no_pass(place, monkeypatch):
    """Also where it is asked while it lists a large folder; what has settled is left."""
    (place / "in" / "a.tif").write_bytes(b"x")
    one = watcher(place)
    settled = one.look()
    one.stopped.set()
    monkeypatch.setattr(module._Watcher, "run_pass", lambda *_: pytest.fail("a pass was begun"))
    one.take(settled)
    assert one.has_left


def test_a_folder_that_is_gone_is_named_once(place):
    """With what was found, and not its path alone."""
    one = watcher(place)
    (place / "in").rmdir()
    with pytest.raises(GigasegError) as gone:
        one.look()
    assert str(gone.value) == f"{place / 'in'}: the folder is gone; is its file system mounted?"


def test_status_says_that_an_output_is_watched(place, capsys, monkeypatch):
    """Before the first image and between two; `status --watch` ends with the watch, and a watch that was killed is none."""
    one = watcher(place)
    with module.watching(one.folder):
        assert status(str(place / "out")) == 0
        assert f"waiting for images, watched on host {Holder.here().host} (pid {Holder.here().pid})" in capsys.readouterr().out
        one.folder.write(state="done")
        status(str(place / "out"), as_json=True)
        found = json.loads(capsys.readouterr().out)
        assert (found["state"], found["exit_code"], found["sign_of_life"]["alive"]) == ("waiting", None, True)
        lock = next((place / "out/ledger/watch").glob("epoch-*"))
        monkeypatch.setattr("workflows.live_status.time.sleep", lambda _: one.folder.watch.create("released-000001", b""))
        assert status(str(place / "out"), watch=True) == 0
        assert "done: the run ended with exit code 0" in capsys.readouterr().out
        one.folder.watch.delete("released-000001")
        lock.write_text(lock.read_text().replace(f'"birth": "{Holder.here().birth}"', '"birth": "long ago"'))
        status(str(place / "out"))
        assert "out: done" in capsys.readouterr().out


def test_a_log_stays_short(tmp_path):
    """The older half goes where it has grown beyond the limit, at the end of a line."""
    folder = RunFolder(str(tmp_path))
    folder.log(*(f"line {number}" for number in range(1000)))
    folder.shorten_log(10**6)
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 1000
    folder.shorten_log(20_000)
    kept = (tmp_path / "log.txt").read_text().splitlines()
    assert 100 < len(kept) < 500
    assert kept[-1].endswith("line 999")
    assert all("line" in line and line.startswith("20") for line in kept)
    assert np.diff([int(line.rpartition(" ")[2]) for line in kept]).tolist() == [1] * (len(kept) - 1)
