"""How far a run is: whatever rows come, and in however many looks, it is what the report says of the same ledger."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine import all_phases
from pipeline.records import Receipt, latest
from pipeline.report import RunState, phase_rows, report_of
from pipeline.scheduling import Tally
from pipeline.statistics import Counts

NAMES = [phase.name for phase in all_phases()]
FINISH = next(phase.name for phase in reversed(all_phases()) if phase.is_per_image)
RESULT = next(phase.name for phase in all_phases() if phase.is_result)


def plan(**shapes):
    """A plan of images by name, (planes, height, width), in blocks of 64 pixels."""
    images = [{"name": name, "shape": [h, w], "planes": planes, "truth": "t", "count_key": "k"} for name, (planes, h, w) in shapes.items()]
    rejected = [{"name": "broken", "cause": "broken.tif: cannot be decoded"}]
    common = {"classes": [{"name": "x"}, {"name": "y"}], "metrics": [{"name": "semantic"}], "model": {"name": "m", "sha256": None}}
    return {**common, "block": 64, "images": images, "rejected": rejected}


def pixels_of(block):
    """Pixels of a block of image a, 100 x 130, or b, two planes of 64 x 64."""
    name, _, at = block.rpartition(":")
    _, row, col = map(int, at.split("."))
    return 64 * 64 if name == "b" else (64, 36)[row] * (64, 64, 2)[col]


def receipt(phase, block, *, cause="", truth_error="", seconds=0.5, attempts=1, files=None):
    counted = cause == "" and phase == RESULT
    counts = Counts(np.array([pixels_of(block) - 3, 2]), no_prediction=1) if counted else None
    name = block.partition(":")[0]
    truth = truth_error if counted else ""
    more = {"attempts": attempts, "cause": cause, "files": files or {}, "peak_bytes": 7}
    return Receipt(
        phase, name, block, count_key="k" if counted else "", seconds={"read": seconds}, counts=counts, truth_error=truth, **more
    )


PLAN = plan(a=(1, 100, 130), b=(2, 64, 64))
BLOCKS = [f"a:0.{row}.{col}" for row in range(2) for col in range(3)] + ["b:0.0.0", "b:1.0.0"]
receipts = st.builds(
    receipt,
    st.sampled_from([*NAMES[:3], *[RESULT] * 3]),
    st.sampled_from(BLOCKS),
    cause=st.sampled_from(["", "", "", "tile 3 is damaged", "no memory"]),
    truth_error=st.sampled_from(["", "", "truth value 7 at (y=3, x=4) belongs to no class"]),
    attempts=st.integers(1, 3),
)


def as_rows(some):
    return [("receipt", one.to_json()) for one in some]


@given(st.lists(receipts, max_size=40), st.integers(0, 40))
def test_it_is_what_the_report_says(some, cut):
    """Blocks by phase, failures, predicted pixels and seconds are those of a report that is made of the whole ledger."""
    state = RunState().take([("plan", PLAN), *as_rows(some[:cut])])
    state.take(as_rows(some[cut:]))
    last = {id(one) for one in latest(some).values()}
    done = Tally(PLAN, [(one, id(one) in last) for one in some])
    report = report_of(PLAN, done, "running")
    assert state.phases == phase_rows(done)
    assert state.failures() == report["failures"]
    assert (state.pixels, state.num_images) == (report["pixels"], report["images"])
    assert state.predicted == report["pixels"] - report["no_prediction"]
    assert state.blocks["done"] == len({block for (phase, block), one in latest(some).items() if one.ok and phase == RESULT})
    assert state.num_settled == len(latest(some)) == done.settled.total()
    assert sum(state.seconds.values()) == 0.5 * len(some)
    assert state.retries == sum(one.attempts - 1 for one in some)


def test_a_new_plan_counts_only_its_own_images():
    """Images that left do not count, one that came back counts as before, and one of another size begins anew."""
    state = RunState().take([("plan", PLAN), *as_rows(receipt(RESULT, block) for block in BLOCKS)])
    assert (state.done[RESULT], state.num_blocks) == (8, 8)
    state.take([("plan", plan(b=(2, 64, 64)))])
    assert (state.done[RESULT], state.blocks["done"], state.num_blocks, state.predicted) == (2, 2, 2, 2 * 64 * 64 - 2)
    state.take([("plan", plan(a=(1, 100, 130), b=(1, 64, 64)))])
    assert (state.done[RESULT], state.num_blocks) == (6, 7)


def test_blocks_of_no_plan_are_left_out():
    """Rows of images and blocks that the plan does not have change nothing but the seconds."""
    state = RunState().take([("plan", PLAN), *as_rows([receipt("predict", "b:0.3.0", seconds=2.0)])])
    state.take([("receipt", {"phase": "predict", "image": "gone", "block": "gone:0.0.0"})])
    assert (state.num_settled, state.failures()[1:], state.seconds["read"]) == (0, [], 2.0)


def test_a_restart_forgets():
    """What was taken before a restart does not count any more."""
    state = RunState().take([("plan", PLAN), *as_rows([receipt(RESULT, "a:0.0.0", files={"x": 5})])])
    assert (state.written_bytes, state.peak_bytes) == (5, 7)
    state.take([("restart", {}), ("plan", PLAN)])
    assert (state.num_settled, state.predicted, state.written_bytes, state.num_images) == (0, 0, 0, 3)


def test_the_image_at_hand_is_that_of_the_last_block():
    """Phase and image of the last row, with how many of its blocks are settled, failed ones included."""
    state = RunState().take([("plan", PLAN), *as_rows([receipt(RESULT, "a:0.0.0"), receipt(RESULT, "a:0.0.1", cause="no memory")])])
    assert state.current == (RESULT, "a", 2, 6)
    assert RunState().take([("plan", PLAN)]).current is None


def test_a_block_costs_a_few_bytes():
    """A million blocks of two phases stay below 20 bytes each, whatever their rows hold."""
    side = 64 * 1000
    state = RunState().take([("plan", plan(a=(1, side, side)))])
    for name in NAMES[:2]:
        state.take(as_rows(receipt(name, f"a:0.{n % 2}.{n % 3}", files={"masks/a/c/0/0": 9}) for n in range(1000)))
    image = state._images["a"]
    used = sum(map(sys.getsizeof, (*image.states.values(), *image.phases_done.values()))) + image.predicted.nbytes
    assert used < 20 * 1_000_000
    assert not state._troubled


def counted(block, matrix):
    confusion = np.array(matrix)
    return Receipt(RESULT, block[0], block, count_key="k", counts=Counts(confusion.sum(axis=0), confusion=confusion))


TOTALS = {RESULT: 8, FINISH: 1}


def shown(state, totals=TOTALS):
    return [(row.name, row.position, row.failed, row.iou) for row in state.newest(totals, 9)]


def test_the_images_in_work_and_the_last_finished_are_known():
    """What a terminal shows: phase and share of each image in work, then finished ones with their failures and IoU."""
    state = RunState().take([("plan", PLAN), *as_rows([counted(BLOCKS[0], [[1, 0], [0, 1]]), counted("b:0.0.0", [[1, 0], [1, 0]])])])
    assert shown(state) == [("b", (RESULT, 1, 2), 0, None), ("a", (RESULT, 1, 6), 0, None)]
    state.take(as_rows([counted("b:1.0.0", [[0, 0], [0, 2]])]))
    assert shown(state) == [("a", (RESULT, 1, 6), 0, None), ("b", None, 0, (1 / 2 + 2 / 3) / 2)]
    state.take(as_rows([*(receipt(RESULT, block, cause="damaged") for block in BLOCKS[1:6]), receipt(FINISH, "a:0.0.0")]))
    assert shown(state) == [("a", None, 5, 1.0), ("b", None, 0, (1 / 2 + 2 / 3) / 2)]


def test_a_block_that_is_done_again_leaves_no_iou():
    """Its pixels would be counted twice; its failure is no longer counted."""
    state = RunState().take([("plan", PLAN), *as_rows([receipt(RESULT, "b:0.0.0", cause="damaged"), counted("b:1.0.0", [[1, 0], [0, 1]])])])
    assert shown(state) == [("b", None, 1, 1.0)]
    state.take(as_rows([counted("b:0.0.0", [[1, 0], [0, 1]])]))
    assert shown(state) == [("b", None, 0, None)]
    again = RunState().take([("plan", PLAN), *as_rows([counted(one, [[1, 0], [0, 1]]) for one in ("b:0.0.0", "b:0.0.0", "b:1.0.0")])])
    assert shown(again) == [("b", None, 0, None)]


def test_counts_of_another_truth_give_no_iou():
    """They are what an earlier plan counted."""
    state = RunState().take([("plan", PLAN), *as_rows([replace(counted(one, [[1, 0], [0, 1]]), count_key="old") for one in BLOCKS[6:]])])
    assert shown(state) == [("b", None, 0, None)]


def test_an_image_that_left_the_plan_is_shown_no_more():
    """Nor is what was done of an image that has another size now."""
    state = RunState().take([("plan", PLAN), *as_rows([counted(BLOCKS[0], [[1, 0], [0, 1]]), counted("b:0.0.0", [[1, 0], [0, 1]])])])
    assert shown(state.take([("plan", plan(a=(1, 64, 64)))])) == []
