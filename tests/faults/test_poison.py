"""Blocks that kill, hang, raise or give nonsense, and models that do not load: the others go on, and the culprit is named."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from pipeline.records import latest, read_rows
from tests.faults.scene import (
    SIDE,
    Ended,
    Scene,
    assert_same,
    differing,
    gigaseg,
    log_of,
    lost_actors,
    masks_in,
    report_in,
    run,
    run_json,
    without,
    write_tiff,
)

DIE, HANG, RAISE, NAN = 255, 254, 253, 252
ATTEMPTS = 2


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory) -> tuple[Scene, Ended]:
    """A Ray run over four poisoned images and a good one."""
    compute = {"runner": "ray", "actors": 2, "deadline": 4.0, "attempts": ATTEMPTS}
    scene = Scene(tmp_path_factory.mktemp("poison"), images=5, poisons=(DIE, HANG, RAISE, NAN), compute=compute)
    return scene, run(scene.yaml("poisoned"))


def failures(scene):
    return {one["image"]: one for one in report_in(scene.root / "poisoned")["failures"]}


def test_a_poisonous_block_is_quarantined_and_the_rest_is_done(poisoned):
    """Blocks that segfault, hang, raise and give NaN end in exit 3; every other pixel is what it would have been."""
    scene, ended = poisoned
    assert ended.code == 3, ended.told
    assert "4 failures" in ended.told
    assert "raylet" not in ended.told  # Ray's own words stay out of what is printed
    assert run_json(scene.root / "poisoned")["state"] == "partial"
    assert not differing(masks_in(scene.root / "poisoned"), without(scene.reference()[0], ["00", "01", "02", "03"]))


def test_the_cause_and_the_tries_are_told_everywhere(poisoned):
    """Report, failures.csv, status and log name block, phase, cause and tries."""
    scene, _ = poisoned
    folder = scene.root / "poisoned"
    found = failures(scene)
    assert {name: one["block"] for name, one in found.items()} == {f"{n:02d}": f"{n:02d}:0.1.3" for n in range(4)}
    assert {one["phase"] for one in found.values()} == {"predict"}
    assert "process died" in found["00"]["cause"]
    assert found["01"]["cause"] == "it ran past its deadline of 4 s"
    assert found["02"]["cause"] == "RuntimeError: the network tripped"
    assert found["03"]["cause"] == "the model gave NaN or infinite scores"
    assert [found[name]["attempts"] for name in ("00", "01", "02", "03")] == [ATTEMPTS, ATTEMPTS, ATTEMPTS, 1]  # NaN is no accident
    with (folder / "report" / "failures.csv").open(newline="") as file:
        listed = {row["block"]: row["cause"] for row in csv.DictReader(file)}
    assert listed == {one["block"]: one["cause"] for one in found.values()}
    status = json.loads(gigaseg("status", folder, "--json").told)
    assert {one["block"] for one in status["failures"]} == set(listed)
    assert all(f"quarantine predict {block}" in log_of(folder) for block in listed)


def test_the_lost_pixels_are_counted_apart(poisoned):
    """Quarantined pixels are no prediction, left out of the confusion and counted."""
    scene, _ = poisoned
    report = report_in(scene.root / "poisoned")
    lost = 4 * 64 * 64
    assert report["no_prediction"] == report["quarantined"] == lost
    assert np.sum(report["confusion"]) == 5 * SIDE**2 - lost


def test_innocent_blocks_are_not_charged(poisoned):
    """Blocks that were in the hands of an actor that died take one try, however often they were begun."""
    scene, _ = poisoned
    receipts = latest(read_rows(scene.root / "poisoned" / "ledger"))
    assert {receipt.attempts for receipt in receipts.values() if receipt.ok} == {1}
    # each time once with others around it, then alone until its tries are spent
    assert 2 * ATTEMPTS <= len(lost_actors(scene.root / "poisoned")) <= 2 * (ATTEMPTS + 1)


def test_running_again_changes_nothing_and_retry_mends(poisoned):
    """A finished run ends at once with 3; once mended, `retry` ends with an undisturbed run's masks and report."""
    scene, _ = poisoned
    before = report_in(scene.root / "poisoned")
    assert run(scene.yaml("poisoned")).code == 3
    assert report_in(scene.root / "poisoned") == before
    scene.mended.touch()
    ended = gigaseg("retry", scene.root / "poisoned")
    assert ended.code == 0, ended.told
    assert_same(scene.root / "poisoned", scene.reference())
    assert run(scene.yaml("poisoned")).code == 0


def test_the_serial_runner_quarantines_what_raises(tmp_path):
    """In one process, too, a block that raises or gives NaN is quarantined, the others are done, and `retry` mends one or all."""
    scene = Scene(tmp_path, images=3, poisons=(RAISE, NAN), compute={"runner": "serial", "attempts": ATTEMPTS})
    ended = run(scene.yaml("serial"))
    assert ended.code == 3, ended.told
    found = report_in(tmp_path / "serial")["failures"]
    assert [(one["block"], one["attempts"]) for one in found] == [("00:0.1.3", ATTEMPTS), ("01:0.1.3", 1)]
    assert not differing(masks_in(tmp_path / "serial"), without(scene.reference()[0], ["00", "01"]))
    scene.mended.touch()
    assert gigaseg("retry", tmp_path / "serial", "--block", "01:0.1.3").code == 3
    assert [one["block"] for one in report_in(tmp_path / "serial")["failures"]] == ["00:0.1.3"]
    assert gigaseg("retry", tmp_path / "serial").code == 0
    assert_same(tmp_path / "serial", scene.reference())


@pytest.mark.parametrize("how", [pytest.param("raise", marks=pytest.mark.slow), "die"])
def test_a_model_that_does_not_load_ends_the_run(tmp_path, how):
    """With Ray, three actors may die while they load the model; then the run ends with exit 1 and the cause."""
    scene = Scene(tmp_path, images=1, compute={"runner": "ray", "actors": 1})
    ended = run(scene.yaml("bad", load=how))
    assert ended.code == 1, ended.told
    assert "3 actors in a row died before they did a block" in ended.told
    assert {"raise": "the weights are not what they seem", "die": "process died"}[how] in ended.told
    assert "Traceback" not in ended.told
    assert len(lost_actors(tmp_path / "bad")) == 3
    assert run_json(tmp_path / "bad")["state"] == "failed"


def test_a_model_that_does_not_load_ends_a_serial_run(tmp_path):
    """In one process it ends at once, with exit 1 and the cause, in the log too."""
    scene = Scene(tmp_path, images=1)
    ended = run(scene.yaml("bad", load="raise"))
    assert ended.code == 1
    assert "the weights are not what they seem" in ended.told
    assert "Traceback" not in ended.told
    assert "the weights are not what they seem" in log_of(tmp_path / "bad")
    assert run_json(tmp_path / "bad")["state"] == "failed"


@pytest.fixture
def damaged(tmp_path) -> Scene:
    """Ten good images, one that breaks off in its pixels, one that breaks off in its header."""
    scene = Scene(tmp_path, images=10)
    scene.reference()
    for name, keep in (("cut", 0.6), ("stub", 0.0)):
        path = tmp_path / "images" / f"{name}.tif"
        write_tiff(path, np.random.default_rng(3).integers(0, 250, (SIDE, SIDE), np.uint8))
        path.write_bytes(path.read_bytes()[: 6 + int(keep * path.stat().st_size)])
    return scene


def test_broken_files_in_a_folder_do_not_spoil_the_others(damaged):
    """A file that breaks off costs its own pixels alone: exit 3, the cause names it, ten masks are those of a run without it."""
    ended = run(damaged.yaml("damaged", truth=None))
    assert ended.code == 3, ended.told
    folder = damaged.root / "damaged"
    masks, reference = masks_in(folder), damaged.reference()[0]
    assert not differing({name: masks[name] for name in reference}, reference)
    found = report_in(folder)["failures"]
    assert {one["image"] for one in found} == {"cut", "stub"}
    assert all(f"{one['image']}.tif" in one["cause"] for one in found)
    assert report_in(folder)["images"] == 12


def test_too_many_failures_stop_the_run(damaged):
    """`--max-failed N` ends the run early with exit 1 and says so; without it the same command goes on to the end."""
    ended = run(damaged.yaml("damaged", truth=None), "--max-failed", "2")
    assert ended.code == 1
    assert "--max-failed 2" in ended.told
    folder = damaged.root / "damaged"
    assert len([one for one in latest(read_rows(folder / "ledger")).values() if not one.ok]) == 3
    assert run(damaged.yaml("damaged", truth=None)).code == 3
