"""What the receipts of a run amount to: the last one of a block holds, and seconds add up."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import Receipt, latest, tally


def receipt(number, **options):
    return Receipt("predict", "a", f"a:0.0.{number}", **options)


def test_the_last_row_of_a_block_holds():
    """A later row for the same phase and block replaces the earlier one; another phase does not."""
    rows = [receipt(1, cause="bad"), receipt(2), receipt(1, attempts=2), replace(receipt(1), phase="finish")]
    assert latest(rows) == {("predict", "a:0.0.1"): rows[2], ("predict", "a:0.0.2"): rows[1], ("finish", "a:0.0.1"): rows[3]}


ROWS = st.lists(
    st.builds(
        Receipt,
        st.sampled_from(["fit", "predict"]),
        st.sampled_from("ab"),
        st.sampled_from(["0.0.0", "0.0.1"]),
        cause=st.sampled_from(["", "no memory"]),
        seconds=st.dictionaries(st.sampled_from(["read", "write"]), st.integers(0, 9)),
        peak_bytes=st.integers(0, 99),
    ),
    max_size=12,
)


@given(ROWS)
def test_a_tally_is_of_the_receipts_that_hold(rows):
    """In one pass: of each block what its last receipt says, in the order of those; seconds and the largest process of all rows."""
    rows = [replace(row, block=f"{row.image}:{row.block}") for row in rows]
    total = tally(rows)
    assert list(total.receipts) == list(latest(rows))
    assert total.receipts == {key: row.brief() for key, row in latest(rows).items()}
    assert total.peak_bytes == max((row.peak_bytes for row in rows), default=0)
    for stage in ("read", "write"):
        assert total.seconds.get(stage, 0) == sum(row.seconds.get(stage, 0) for row in rows)
    for phase in ("fit", "predict"):
        assert total.phase_seconds.get(phase, 0) == sum(sum(row.seconds.values()) for row in rows if row.phase == phase)


def test_silent_receipts_are_held_once():
    """A million blocks that were fitted hold one receipt between them, not a million."""
    total = tally(receipt(number, key=f"k{number}") for number in range(9))
    assert len(total.receipts) == 9
    assert len({id(row) for row in total.receipts.values()}) == 1
