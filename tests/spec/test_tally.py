"""What the receipts of a run amount to: the last one of a block holds, sums are exact, and a block costs a few bytes."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import Receipt, latest
from pipeline.scheduling import Tally
from pipeline.statistics import Counts

NOW, EARLIER = "truth as it is now", "an earlier truth"


def plan(cols=4, rows=1):
    images = [{"name": name, "shape": [64 * rows, 64 * cols], "planes": 1, "count_key": NOW} for name in "ab"]
    return {"classes": [{"name": "x"}, {"name": "y"}], "block": 64, "images": images}


def receipt(col, phase="predict", image="a", **options):
    return Receipt(phase, image, f"{image}:0.0.{col}", **options)


def counts(number, nats=None, **options):
    return Counts(np.array([number, 1]), confusion=np.array([[number, 0], [0, 1]]), cross_entropy=nats, **options)


def marked(rows):
    """Each receipt, and whether it is the last one of its block."""
    last = {id(row) for row in latest(rows).values()}
    return [(row, id(row) in last) for row in rows]


def test_the_last_row_of_a_block_holds():
    """A later row for the same phase and block replaces the earlier one; another phase does not."""
    rows = [receipt(1, cause="bad"), receipt(2), receipt(1, attempts=2), receipt(1, "finish")]
    assert latest(rows) == {("predict", "a:0.0.1"): rows[2], ("predict", "a:0.0.2"): rows[1], ("finish", "a:0.0.1"): rows[3]}


ROWS = st.lists(
    st.builds(
        receipt,
        st.sampled_from([0, 1]),
        st.sampled_from(["fit", "predict"]),
        st.sampled_from("ab"),
        cause=st.sampled_from(["", "no memory"]),
        count_key=st.sampled_from([NOW, EARLIER]),
        counts=st.one_of(st.none(), st.builds(counts, st.integers(0, 9), st.floats(0, 9), skipped=st.integers(0, 3))),
        numbers=st.dictionaries(st.sampled_from("xy"), st.integers(1, 9)),
        seconds=st.dictionaries(st.sampled_from(["read", "write"]), st.integers(0, 9)),
        peak_bytes=st.integers(0, 99),
    ),
    max_size=12,
)


@given(ROWS)
def test_a_tally_is_of_the_receipts_that_hold(rows):
    """Counts, numbers and failures are those of each block's last receipt; seconds and the largest process are of all rows."""
    done, held = Tally(plan(), marked(rows)), latest(rows)
    assert done.troubled == {key: row.brief() for key, row in held.items() if not row.ok}
    assert list(done.troubled) == [key for key, row in held.items() if not row.ok]
    assert done.blocks == {phase: n for phase in ("fit", "predict") if (n := sum(one == phase for one, _ in held))}
    for name in "ab":
        counted = [row for (phase, _), row in sorted(held.items()) if (row.image, phase) == (name, "predict") and row.ok and row.counts]
        expected = Counts(np.zeros(2, np.int64))
        for row in counted:
            old = replace(row.counts, confusion=None, cross_entropy=None)
            expected += row.counts if row.count_key == NOW else old
        assert_equal(done.counts(name), expected)
        for phase, sums in done.numbers.get(name, {}).items():
            assert sums.total() == sum(sum(row.numbers.values()) for row in held.values() if (row.image, row.phase) == (name, phase))
    assert done.peak_bytes == max((row.peak_bytes for row in rows), default=0)
    for stage in ("read", "write"):
        assert done.seconds.get(stage, 0) == sum(row.seconds.get(stage, 0) for row in rows)
    for phase in ("fit", "predict"):
        assert done.phase_seconds.get(phase, 0) == sum(sum(row.seconds.values()) for row in rows if row.phase == phase)


def assert_equal(one, other):
    for name in Counts.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_floats_are_added_in_the_order_of_the_blocks():
    """Whatever the order of commit, the sum of the cross-entropy has the same bits."""
    nats = [1e16, 1.0, -1e16, 1.0]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1], [3, 2, 1, 0]):
        rows = [receipt(col, count_key=NOW, counts=counts(0, nats[col])) for col in order]
        assert Tally(plan(), marked(rows)).counts("a").cross_entropy == 1.0


def test_a_recount_replaces_what_was_counted_before():
    """Blocks that were counted for an earlier truth are counted by the later phase, but for skipped pixels; the others stay."""
    rows = [
        receipt(0, count_key=EARLIER, counts=counts(5, 1.0, skipped=3)),
        receipt(1, count_key=NOW, counts=counts(10, 2.0)),
        receipt(2, count_key=EARLIER, counts=counts(20, 4.0)),
        receipt(0, "count", count_key=NOW, counts=counts(100)),
        receipt(1, "count", count_key=NOW, counts=counts(200)),
        receipt(2, "count", count_key=EARLIER, counts=counts(400)),
    ]
    for some in (rows, rows[::-1]):
        found = Tally(plan(), marked(some)).counts("a")
        assert_equal(found, Counts(np.array([130, 3]), confusion=np.array([[110, 0], [0, 2]]), cross_entropy=2.0, skipped=3))


def test_the_first_phase_that_gives_a_result_counts_a_block():
    """A failed block is counted by the phase in which it failed, whatever a later one counted of an earlier mask."""
    rows = [receipt(0, cause="no memory"), receipt(0, "count", count_key=NOW, counts=counts(9)), receipt(1, "count", cause="no memory")]
    done = Tally(plan(), marked(rows))
    assert [done.is_counted(row) for row in rows] == [True, False, True]
    assert done.counts("a").pixels == 0


def test_what_the_plan_does_not_have_is_left_out():
    """Images that left the plan, blocks outside their image and phases that it has no more add nothing but seconds."""
    rows = [receipt(0), receipt(4), receipt(0, image="gone"), receipt(1, "fit", seconds={"read": 2})]
    done = Tally(plan(), marked(rows), lambda row: row.phase == "predict")
    assert (dict(done.settled), done.seconds) == ({("predict", "a"): 1}, {"read": 2})


def test_a_block_costs_a_few_bytes():
    """50,000 blocks more, in three phases, cost at most 20 bytes each."""
    sizes = []
    for number in (10, 50_010):
        rows = (
            (receipt(col, phase, count_key=NOW, counts=counts(col, 0.5)), True) for phase in ("fit", "predict") for col in range(number)
        )
        tracemalloc.start()
        done = Tally(plan(number), rows)
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        assert done.settled.total() == 2 * number
    assert (sizes[1] - sizes[0]) / 50_000 <= 20


def with_errors(wrong, right=10):
    return Counts(np.array([right + wrong, 0]), confusion=np.array([[right, wrong], [0, 0]]))


def test_the_worst_block_has_the_most_wrong_pixels():
    """It does not depend on the order of the work: of equal ones it is the first; what is done again counts as it is now."""
    receipts = [receipt(col, counts=with_errors(wrong), count_key=NOW) for col, wrong in ((3, 7), (1, 7), (2, 9))]
    assert Tally(plan(), marked(receipts)).worst_block("a") == (2, 9, 19)
    again = [*receipts, receipt(2, counts=with_errors(0), count_key=NOW)]
    assert Tally(plan(), marked(again)).worst_block("a") == (1, 7, 17)
    assert Tally(plan(), marked([receipt(0, counts=with_errors(3), count_key=EARLIER)])).worst_block("a") is None


def test_the_work_of_each_actor_is_added_up():
    """Blocks and seconds by stage; receipts of earlier versions name no actor."""
    rows = [receipt(col, actor=name, seconds={"compute": 2.0}) for col, name in enumerate(["a/1", "b/2", "a/1", ""])]
    found = Tally(plan(), marked(rows)).actors
    assert {name: (work.blocks, work.seconds) for name, work in found.items()} == {
        "a/1": (2, {"compute": 4.0}),
        "b/2": (1, {"compute": 2.0}),
    }
