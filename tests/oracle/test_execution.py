"""One execution of a run: it stops when it is asked, tries again what may pass, and says how it ended."""

from __future__ import annotations

import pytest

from pipeline.errors import GigasegError, InputError, StoreError
from pipeline.records import Holder, Ledger, read_rows
from tests.conftest import Done
from tests.oracle.interrupted_runs import TILES, TRACED, assert_same, ending_after, write_images
from workflows.retry import retry
from workflows.stop import stop


@pytest.fixture
def scene(tmp_path, traced):
    """Two images with truth, of 12 and 6 blocks."""
    write_images(tmp_path)
    return traced


def test_stop_is_obeyed_and_forgotten(engine, scene, tmp_path, capsys):
    """`gigaseg stop` ends a run with 130 after the blocks in flight; the next run ignores that it was asked."""
    calls = []

    def stop_at_third(pixels_CYX):
        calls.append(1)
        if len(calls) == 3:
            stop(tmp_path / "out")

    scene.on_call = stop_at_third
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.scheduling.execution.LOOK_S", 0.0)
        assert engine(**TRACED).code == 130
    assert 3 <= len(calls) <= 8
    assert engine(**TRACED).code == 0
    assert len(calls) == TILES
    assert "(running)" in capsys.readouterr().err


def test_stop_says_that_a_killed_run_is_interrupted(engine, scene, tmp_path, capsys):
    """run.json still says that it is running."""
    assert engine(**TRACED).code == 0
    recorded = tmp_path / "out" / "run.json"
    recorded.write_text(recorded.read_text().replace('"state": "done"', '"state": "running"'))
    assert stop(tmp_path / "out") == 0
    assert "(interrupted)" in capsys.readouterr().err


def test_a_refused_start_changes_nothing(engine, scene, tmp_path):
    """While somebody holds the run, a second start is refused before it writes: config.yaml stays the holder's."""
    done = engine(**TRACED)
    config = (done.folder / "config.yaml").read_text()
    with Ledger.open(done.folder / "ledger", holder=Holder.here()), pytest.raises(InputError, match="--take-over"):
        engine(**{**TRACED, "classes": None})
    assert (done.folder / "config.yaml").read_text() == config


def test_what_failed_once_and_is_tried_again_leaves_no_trace(engine, scene, tmp_path):
    """A block that was quarantined and then works gives the masks and the report of a run that never failed."""
    whole = engine(**TRACED, output="whole")
    bad = []

    def fail_on_third(pixels_CYX):
        if pixels_CYX.shape[-1] == 34 and (bad or scene.calls > TILES + 3):
            bad.append(1)
            raise ValueError("the third is bad")

    scene.on_call = fail_on_third
    broken = engine(**TRACED)
    assert (broken.code, broken.run_json["state"]) == (3, "partial")
    assert {one["attempts"] for one in broken.report["failures"]} == {3}
    assert all(one["cause"] == "ValueError: the third is bad" for one in broken.report["failures"])
    failed = [one["block"] for one in broken.report["failures"]]
    assert broken.report["quarantined"] == broken.report["no_prediction"] > 0
    calls = scene.calls
    assert engine(**TRACED).code == 3, "what is quarantined is not tried again by itself"
    assert scene.calls == calls
    scene.on_call = lambda pixels_CYX: None
    assert retry(tmp_path / "out", failed[0]) == (3 if len(failed) > 1 else 0)
    assert scene.calls == calls + 1
    assert retry(tmp_path / "out") == 0
    assert scene.calls == calls + len(failed)
    assert_same(Done(0, tmp_path / "out"), whole)
    with pytest.raises(InputError, match="none is quarantined"):
        retry(tmp_path / "out", failed[0])


def test_a_hiccup_is_tried_again_by_itself(engine, scene):
    """A failure that goes away within the attempts is none."""
    whole = engine(**TRACED, output="whole")
    hiccups = iter([True, True])

    def fail_twice(pixels_CYX):
        if next(hiccups, False):
            raise OSError("the network drive sleeps")

    scene.on_call = fail_twice
    done = engine(**TRACED)
    assert done.code == 0
    assert "try again predict a:0.0.0: OSError: the network drive sleeps" in done.log
    assert_same(done, whole)


def test_too_many_failures_end_the_run(engine, scene):
    """--max-failed gives up instead of failing block after block for hours."""

    def fail(pixels_CYX):
        raise ValueError("no weights")

    scene.on_call = fail
    with pytest.raises(GigasegError, match="3 blocks are quarantined, more than --max-failed 2"):
        engine(**TRACED, max_failed=2)
    scene.on_call = lambda pixels_CYX: None


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "interrupted"), (KeyboardInterrupt(), "interrupted"), (SystemExit(), "interrupted"), (StoreError("full"), "failed")],
    ids=["asked", "signal", "SIGTERM while Ray starts", "broken"],
)
def test_the_state_is_recorded_however_a_run_ends(engine, scene, tmp_path, error, state):
    """run.json says how it ended, when, and how long it took; the log says what broke it."""
    out = Done(0, tmp_path / "out")
    with ending_after(3, error):
        if isinstance(error, StoreError):
            with pytest.raises(StoreError, match="full"):
                engine(**TRACED)
        else:
            assert engine(**TRACED).code == 130
    assert out.run_json["state"] == state
    assert out.run_json["started"] <= out.run_json["ended"]
    assert out.run_json["seconds"] >= 0
    assert ("stopped: StoreError: full" in out.log or "stopped: full" in out.log) == isinstance(error, StoreError)


def test_a_run_that_was_taken_over_says_nothing_more(engine, scene, tmp_path):
    """Once another process holds the run, this one writes neither receipts nor a state."""
    folder, taken = tmp_path / "out", []

    def take_over(pixels_CYX):
        if scene.calls == 5:
            with Ledger.open(folder / "ledger", take_over=True):
                taken.append((folder / "run.json").read_bytes())

    scene.on_call = take_over
    with pytest.raises(GigasegError, match="taken over"):
        engine(**TRACED)
    assert (folder / "run.json").read_bytes() == taken[0]
    assert len(list(read_rows(folder / "ledger"))) <= 5


def test_a_file_that_is_not_there_is_a_failure_that_may_pass(engine, scene, tmp_path):
    """A block whose file vanishes before it is booked is done again."""
    whole = engine(**TRACED, output="whole")
    gone, shard = [], tmp_path / "out" / "masks" / "a.ome.zarr" / "0" / "c" / "0" / "0"

    from pipeline.scheduling.execution import _Execution

    check = _Execution.check

    def remove_once(self, receipt):
        if receipt.block == "a:0.0.0" and not gone:
            gone.append(shard.unlink())
        return check(self, receipt)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_Execution, "check", remove_once)
        done = engine(**TRACED)
    assert done.code == 0
    assert "try again predict a:0.0.0: masks/a.ome.zarr/0/c/0/0 was written and is not there" in done.log
    assert_same(done, whole)
