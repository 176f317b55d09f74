"""What is known of the blocks of a stage: its digest is one of all blocks, receipts under other keys go, and a block costs a few bytes."""

from __future__ import annotations

import hashlib
import tracemalloc
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.records import Blocks, Receipt
from pipeline.scheduling.stage_state import DONE, FAILED, WAITING, KnownStages, Stage, StageState
from pipeline.statistics import encode_summary
from tests.spec.test_block_queue import Sum
from tests.spec.test_blocks import blocks_of, some_blocks

DIGESTS = st.sampled_from(["", "d", "0123456789abcdef0123456789abcdef", None])


def receipt(block_id, *, digest: str | None = "", key="key", **options):
    return Receipt("predict", "a", block_id, key, digest=digest or "", cause="" if digest is not None else "no memory", **options)


@given(some_blocks(), st.data())
def test_its_digest_is_that_of_all_pairs(blocks, data):
    """It is a hash of the sorted pairs of id and digest, of a list and of blocks that are made when they are asked for."""
    digests = {block.id: data.draw(DIGESTS) for block in blocks}
    expected = hashlib.blake2b(repr(sorted(digests.items())).encode(), digest_size=16).hexdigest()
    for some in (blocks, list(blocks)):
        stage = Stage("predict", some)
        (state,) = KnownStages({"a": [stage]}).add(receipt(one, digest=digest) for one, digest in digests.items()).of("a", [stage]).values()
        assert state.hash() == expected
        assert [some[at].id for at in state.failed] == [block.id for block in blocks if digests[block.id] is None]
        assert stage.area == blocks.area


def test_receipts_under_other_keys_go():
    """The others stay, and so do their payloads; then the stage has work left."""
    for blocks in (blocks_of(cols=3), list(blocks_of(cols=3))):
        state = StageState(Stage("fit", blocks, reduction=Sum()))
        for at, key in enumerate(["key", "old", "key"]):
            state.add(at, receipt(blocks[at].id, key=key, payload=encode_summary({"n": np.array([10**at])})))
        assert not state.keep(lambda block: block)
        assert list(state.states) == [DONE, WAITING, DONE]
        assert state.reduced == {"n": 101}
        state.add(1, receipt(blocks[1].id, digest=None))
        assert state.keep(lambda block: block)
        assert list(state.states) == [DONE, FAILED, DONE]
        assert not state.keep(lambda block: replace(block, key="new"))
        assert list(state.states) == [WAITING] * 3


def test_a_sum_goes_with_the_receipt_of_any_of_its_blocks():
    """What a block has added cannot be taken off again: all its blocks are done again; without a sum, the one block is."""
    for payload, left in (("", [WAITING, DONE]), (encode_summary({"n": np.array([1])}), [WAITING, WAITING])):
        state = StageState(Stage("fit", blocks_of(cols=2), reduction=Sum()))
        for at in range(2):
            state.add(at, receipt(f"a:0.0.{at}", payload=payload))
        state.drop(0)
        assert (list(state.states), state.reduced) == (left, None)


def test_sums_of_many_images_are_packed():
    """Only the image at hand holds a sum as arrays; however rows of images alternate, the sums are those of all payloads."""
    stages = {name: [Stage("predict", blocks_of(cols=4), reduction=Sum())] for name in "ab"}
    known = KnownStages(stages)
    known.add(
        replace(receipt(f"{name}:0.0.{col}", payload=encode_summary({"n": np.array([10**col])})), image=name)
        for col in range(4)
        for name in "ab"
    )
    a, b = (known.states[name, "predict"] for name in "ab")
    assert [isinstance(total, str) for state in (a, b) for total in state.totals.values()] == [True, False]
    assert a.reduced == b.reduced == {"n": 1111}


def test_a_plan_has_its_own_blocks():
    """Receipts of other images, phases and blocks belong nowhere."""
    known = KnownStages({"a": [Stage("predict", blocks_of(cols=4, chosen=[1, 3]))]})
    rows = [
        receipt("a:0.0.1"),
        receipt("a:0.0.2"),
        receipt("a:0.0.9"),
        replace(receipt("a:0.0.1"), phase="fit"),
        Receipt("predict", "b", "b:0.0.1"),
    ]
    assert [known.plans(row) for row in rows] == [True, False, False, False, False]
    assert [found and found[1] for found in map(known.find, rows)] == [0, None, None, None, None]


def test_a_block_costs_a_few_bytes():
    """50,000 receipts more, with keys and digests of their own, cost at most 45 bytes each."""
    sizes = []
    for number in (10, 50_010):
        blocks: Blocks = blocks_of(cols=number)
        tracemalloc.start()
        known = KnownStages({"a": [Stage("predict", blocks)]})
        known.add(receipt(f"a:0.0.{col}", digest=f"{col:032}") for col in range(number))
        sizes.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del known
    assert (sizes[1] - sizes[0]) / 50_000 <= 45
