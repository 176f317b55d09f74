"""A training writes over nothing that is not its own, and removes nothing else."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from pipeline.cli import main
from pipeline.records import RunFolder
from tests.training.scene import train_yaml
from workflows.train import train


def files_at(folder):
    """Every file below a folder with its bytes, the YAML of the training apart."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "train.yaml"}


@pytest.fixture
def refused(mine, capsys):
    """Return why a training is refused, with and without --fresh, and check that no file has changed."""

    def go(*flags, **keys):
        path, before = train_yaml(mine, **keys), files_at(mine)
        for more in (flags, (*flags, "--fresh")):
            capsys.readouterr()
            assert main(["train", str(path), *more]) == 2
            assert files_at(mine) == before
        return capsys.readouterr().err

    return go


def begin(folder):
    """Let a folder be that of a training that has begun."""
    folder.mkdir(exist_ok=True)
    RunFolder(folder).write(kind="training", state="interrupted", identity=None)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("what", ["val", "images", "truth", "link", "list"])
def test_what_is_read_is_not_written_over(mine, refused, what, begun):
    """Images, truth or lists that lie where a training writes are named and stay, also where one has begun before."""
    shutil.copytree(mine / "images", mine / "val")
    keys = {"val": ["val/"]}
    if what == "images":
        keys = {"images": "val/"}
    elif what == "truth":
        shutil.move(mine / "truth", mine / "events")
        keys = {"truth": "events/{stem}.png"}
    elif what == "link":
        shutil.move(mine / "val", mine / "there")
        (mine / "val").symlink_to(mine / "there")
        keys = {"val": ["there/"]}
    elif what == "list":
        (mine / "val.csv").write_text("image\nimages/a0.png\n")
        keys = {"val": "val.csv"}
    if begun:
        begin(mine)
    name = {"truth": "events", "list": "val.csv"}.get(what, "val")
    message = refused(**keys, output=".")
    assert f"which is read, where the training would write {name}; expected a folder without it. Choose another output folder." in message
    assert "train.yaml:" in message


def test_weights_to_go_on_from_are_not_removed(mine, refused):
    """A training that starts from the weights of its own output folder is refused before they are cleared."""
    begin(mine / "out")
    (mine / "out" / "bundle").mkdir()
    save_file({"x": np.zeros(1, np.float32)}, mine / "out" / "bundle" / "w.safetensors")
    model = {"name": "unet", "depth": 2, "base": 4, "weights": "out/bundle/w.safetensors"}
    assert "w.safetensors, which is read, where the training would write bundle" in refused(model=model)


@pytest.mark.parametrize("name", ["config.yaml", "history.csv", "checkpoint.pt", "val/a.txt", "bundle/a.txt", "events/a.txt", "ray/a.txt"])
def test_files_of_others_are_not_written_over(mine, refused, name):
    """A folder that holds what a training would write, but no training, is refused; nothing in it changes."""
    (mine / name).parent.mkdir(exist_ok=True)
    (mine / name).write_text("mine")
    message = refused(output=".")
    assert f"{mine / name.partition('/')[0]}, which no training has written; expected a folder without it" in message


def test_a_run_is_not_written_over(mine, refused):
    """The folder of a run is refused, also with --fresh."""
    RunFolder(mine / "out").write(state="done")
    assert "run.json, which no training has written" in refused()


@pytest.mark.parametrize("wrong", ["truth", "weights", "runner"])
def test_a_training_stays_where_a_fresh_one_is_refused(mine, refused, wrong):
    """What only the scan, the weights or the machine show is refused before an earlier training is removed."""
    begin(mine / "out")
    (mine / "out" / "checkpoint.pt").write_text("weeks")
    save_file({"x": np.zeros(1, np.float32)}, mine / "w.safetensors")
    keys = {
        "truth": {"classes": [{"name": "ground", "values": [0]}, {"name": "disc", "values": [1, 2]}]},
        "weights": {"model": {"name": "unet", "depth": 2, "base": 4, "weights": "w.safetensors"}},
        "runner": {"compute": {"runner": "serial", "workers": 2}},
    }[wrong]
    flags = ["--fresh"] if wrong == "weights" else []  # without it, they are loaded when the training goes on
    message = refused(*flags, **keys)
    assert {"truth": "truth value", "weights": "w.safetensors", "runner": "serial for 2 workers"}[wrong] in message


def test_a_fresh_training_removes_the_earlier_one_alone(mine):
    """`--fresh` trains from the first step, removes what the earlier training wrote and keeps what else lies in the folder."""
    (mine / "log.txt").write_text("mine")
    (mine / "report").mkdir()
    path = train_yaml(mine, output=".", steps=2)
    assert train(path) == 0
    first = files_at(mine)
    (mine / "bundle" / "stale.txt").write_text("of before")
    assert train(train_yaml(mine, output=".", steps=3), fresh=True) == 0
    assert (mine / "log.txt").read_text() == "mine"
    assert (mine / "report").is_dir()
    assert not (mine / "bundle" / "stale.txt").exists()
    assert first.keys() - files_at(mine).keys() <= {one for one in first if one.parent.name == "events"}
    assert RunFolder(mine).read()["training"]["steps"] == 3
