"""A training that is taken for a run, and a run for a training: one message names the other command."""

from __future__ import annotations

import pytest
import yaml

from pipeline.cli import main
from pipeline.records import RunFolder
from tests.training.scene import train_yaml
from workflows.train import train

RUN = {"images": "images/", "model": "histogram", "writers": ["tiff"], "tiling": {"core": 64}, "output": "out"}


@pytest.fixture
def error_line(capsys):
    """Run a command that is refused, and return its one message."""

    def go(*words):
        capsys.readouterr()
        assert main([str(word) for word in words]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    return go


def test_the_folder_of_a_training_is_no_run(scene, error_line):
    """`report` says where the scores are, and `retry` which command goes on; the report there can be made again."""
    output = scene / "taken"
    assert train(train_yaml(scene, "taken.yaml", output="taken", steps=1)) == 0
    assert error_line("report", output).endswith(f"Its scores are in {output}/val: gigaseg report {output}/val")
    assert error_line("retry", output).endswith(f"Did you mean `gigaseg train {output}/config.yaml`?")
    assert main(["report", f"{output}/val"]) == 0


@pytest.mark.parametrize("command", [["run"], ["submit", "--to", "ray"]])
def test_the_yaml_of_a_training_is_no_run(scene, error_line, command):
    """A command for runs, given a training, names the keys that show it and the other command."""
    path = train_yaml(scene, "mine.yaml")
    assert error_line(*command, path) == (
        f"gigaseg: {path}: found keys of a training (crop, batch, steps); expected the keys of a run. Did you mean `gigaseg train {path}`?"
    )


def test_the_yaml_of_a_run_is_no_training(tmp_path, error_line):
    """`train` of a run names the keys that show it and the other command."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(RUN))
    assert error_line("train", path) == f"gigaseg: {path}: found keys of a run (tiling, writers). Did you mean `gigaseg run {path}`?"


def test_a_run_that_never_began_has_no_report(tmp_path, error_line):
    """`report` of a run that was killed before its plan was written says what to do."""
    folder = RunFolder(tmp_path / "out")
    folder.write(state="running")
    folder.ledger.make()
    assert error_line("report", folder.storage).endswith("Run it again; a report follows.")


@pytest.mark.parametrize(("command", "stray"), [("run", "precision"), ("train", "wrong")])
def test_a_stray_key_does_not_hide_its_line(tmp_path, capsys, command, stray):
    """Where the keys suggest neither command, each unknown key is reported with its line."""
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**RUN, stray: 1}, sort_keys=False))
    assert main([command, str(path)]) == 2
    assert f"{path}:8: {stray}: found unknown key '{stray}'" in capsys.readouterr().err
