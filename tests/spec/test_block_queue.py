"""What is done next: phases in order, every block once, suspects alone, and a ledger that is replayed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.geometry import Box
from pipeline.inputs import Image
from pipeline.raster import Header
from pipeline.records import Block, Receipt
from pipeline.scheduling.block_queue import BlockQueue, Position, keep_valid
from pipeline.scheduling.stage_state import WAITING, KnownStages, Stage
from pipeline.statistics import encode_summary

RESTS_ON = {"fit": None, "predict": ("fit",), "finish": ("predict",)}


class Sum:
    """How the payloads of an image are reduced: they are added."""

    def merge(self, one, other):
        return {"n": one["n"] + other["n"]}

    def conclude(self, total):
        return {"n": int(total["n"][0])}


def image(name):
    return Image(0, name, f"/{name}.tif", Header((40, 40), 1, "uint8"), {"name": "auto"})


def block(phase, name, number, key="k", side=10):
    return Block(phase, image(name), 0, 0, number, Box(0, side * number, side, side * (number + 1)), key)


def stages(name, phases=("fit", "predict", "finish"), count=4, key="k"):
    made = []
    for phase in phases:
        blocks = [block(phase, name, at, key) for at in range(1 if phase == "finish" else count)]
        rests_on = RESTS_ON[phase] and tuple(one for one in RESTS_ON[phase] if one in phases)
        made.append(Stage(phase, blocks, rests_on, ("fit",) if phase == "predict" else (), Sum() if phase == "fit" else None))
    return made


def queue_of(images, known=None):
    one = BlockQueue(images)
    one.begin(KnownStages(images).add((known or {}).values()))
    return one


def receipt(taken, digest="d"):
    payload = encode_summary({"n": np.array([taken.col + 1])}) if taken.phase == "fit" else ""
    return Receipt(taken.phase, taken.image.name, taken.id, taken.key, digest=digest if taken.phase == "predict" else "", payload=payload)


def drain(one, settle=None):
    """Do everything, in order; return the blocks as they were taken."""
    done = []
    while taken := one.lease(10**9, 1):
        done += taken
        for each in taken:
            one.settle((settle or receipt)(each))
    return done


def replayed(blocks, **changes):
    return {(each.phase, each.id): replace(receipt(each), **changes) for each in blocks}


@settings(deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.randoms(use_true_random=False), st.booleans())
def test_every_block_once_and_phases_in_order(counts, random, fits):
    """However receipts come back, each block is given once, and no phase of an image begins before the one before is settled."""
    phases = ("fit", "predict", "finish") if fits else ("predict", "finish")
    images = {f"i{at}": stages(f"i{at}", phases, count) for at, count in enumerate(counts)}
    one = queue_of(images)
    total = one.total_blocks
    given_out, flying, settled = Counter(), [], Counter()
    while not one.is_finished:
        for taken in one.lease(random.choice([1, 150, 1000]), random.randint(1, 5)):
            given_out[taken.phase, taken.id] += 1
            before = phases[: phases.index(taken.phase)]
            wanted = sum(len(stage.blocks) for stage in images[taken.image.name] if stage.phase in before)
            assert sum(number for (name, phase), number in settled.items() if name == taken.image.name and phase in before) == wanted
            flying.append(taken)
        ended = flying.pop(random.randrange(len(flying)))
        one.settle(receipt(ended))
        settled[ended.image.name, ended.phase] += 1
    assert set(given_out.values()) == {1}
    assert len(given_out) == total == one.num_settled
    assert not flying
    assert one.lease(10**9, 99) == []


def test_images_are_taken_in_order_and_ended_before_the_next():
    """Blocks come in the plan's order; what an image has left goes before what the next image begins."""
    one = queue_of({"a": stages("a", ("predict", "finish"), 2), "b": stages("b", ("predict", "finish"), 2)})
    assert [(each.phase, each.id) for each in drain(one)] == [
        ("predict", "a:0.0.0"),
        ("predict", "a:0.0.1"),
        ("finish", "a:0.0.0"),
        ("predict", "b:0.0.0"),
        ("predict", "b:0.0.1"),
        ("finish", "b:0.0.0"),
    ]


def test_the_fit_is_the_sum_and_part_of_the_key():
    """Every block of an image is predicted with the fit of all its blocks; another fit is another key."""
    one = queue_of({"a": stages("a")})
    done = drain(one)
    assert all(each.fit == {"n": 1 + 2 + 3 + 4} for each in done if each.phase == "predict")
    other = drain(queue_of({"a": stages("a", count=3)}))
    keys = [{each.key for each in some if each.phase == "predict"} for some in (done, other)]
    assert len(keys[0]) == len(keys[1]) == 1
    assert keys[0] != keys[1]


def test_a_failed_block_settles_its_phase():
    """A quarantined block is settled and counted once, whatever phases it fails in, and adds nothing to the fit."""
    one = queue_of({"a": stages("a", count=2)})
    failed = drain(one, lambda each: replace(receipt(each), cause="broken", payload="") if each.id.endswith(".1") else receipt(each))
    assert len(failed) == 5
    assert (one.is_finished, one.failed) == (True, {"a:0.0.1"})
    assert all(each.fit == {"n": 1} for each in failed if each.phase == "predict")


def test_leases_are_bounded_by_pixels_and_blocks_but_never_empty():
    """At least one block if any is ready, however large; no more pixels or blocks than asked for."""
    one = queue_of({"a": stages("a", ("predict",), 4)})
    assert [each.id for each in one.lease(1, 9)] == ["a:0.0.0"]
    assert [each.id for each in one.lease(200, 9)] == ["a:0.0.1", "a:0.0.2"]
    assert one.num_ready == 1
    assert [each.id for each in one.lease(10**9, 1)] == ["a:0.0.3"]
    assert one.lease(10**9, 9) == []


def test_what_is_given_back_comes_next_in_order():
    """Blocks that were taken and not done go to the front, as they were."""
    one = queue_of({"a": stages("a", ("predict",), 4)})
    taken = one.lease(10**9, 3)
    one.give_back(taken)
    assert one.lease(10**9, 3) == taken
    assert len(drain(one)) == 1


def test_suspects_are_not_leased_with_others():
    """What may have killed its process is taken one by one, and by `suspect` alone."""
    one = queue_of({"a": stages("a", ("predict",), 4)})
    taken = one.lease(10**9, 2)
    one.give_back(taken, alone=True)
    assert one.has_suspects
    assert one.num_ready == 2
    assert [each.id for each in one.lease(10**9, 9)] == ["a:0.0.2", "a:0.0.3"]
    assert [one.suspect(), one.suspect(), one.suspect()] == [*taken, None]
    assert not one.has_suspects


def test_a_receipt_counts_once_and_for_its_own_phase():
    """The same block done twice is booked once; a late receipt of another phase does not settle this one."""
    one = queue_of({"a": stages("a", ("fit", "predict"), 2)})
    fits = one.lease(10**9, 9)
    for each in fits:
        one.settle(receipt(each))
        one.settle(receipt(each))
    assert one.num_settled == 2
    one.settle(receipt(fits[0]))
    assert one.num_settled == 2
    assert [(each.phase, each.id, each.fit) for each in drain(one)] == [("predict", f"a:0.0.{at}", {"n": 3}) for at in (0, 1)]
    assert one.is_finished


@settings(deadline=None)
@given(st.sets(st.integers(0, 8)))
def test_replay_takes_over_what_is_known(known):
    """Whatever part of an execution was committed, the rest and only the rest is done, with the same keys."""
    images = {"a": stages("a")}
    whole = drain(queue_of(images))
    kept = {(each.phase, each.id) for at, each in enumerate(whole) if at in known}
    one = queue_of(images, replayed(each for each in whole if (each.phase, each.id) in kept))
    todo = {(each.phase, each.id) for each in whole} - kept
    phases = {phase for phase, _ in todo}
    # What is done again may come out otherwise, so that all that rests on it is done again too.
    rests_on = {"fit": {"predict", "finish"}, "predict": {"finish"}, "finish": set()}
    todo |= {(each.phase, each.id) for each in whole if any(each.phase in rests_on[phase] for phase in phases)}
    done = drain(one)
    assert Counter((each.phase, each.id) for each in done) == Counter(todo)
    assert all(each in whole for each in done)
    assert one.is_finished


def test_a_changed_key_is_done_again():
    """A receipt counts only under the key that the block has now."""
    whole = drain(queue_of({"a": stages("a", key="old")}))
    assert drain(queue_of({"a": stages("a", key="old")}, replayed(whole))) == []
    assert [each.phase for each in drain(queue_of({"a": stages("a", key="new")}, replayed(whole)))] == [each.phase for each in whole]


def test_finish_is_stale_when_other_pixels_were_written():
    """An image whose mask changed is exported again; one whose mask was written again the same may be."""
    images = {"a": stages("a", ("predict", "finish"), 2)}
    whole = drain(queue_of(images))
    known = replayed(whole)
    known["predict", "a:0.0.1"] = replace(known["predict", "a:0.0.1"], digest="other")
    assert [each.phase for each in drain(queue_of(images, known))] == ["finish"]
    del known["predict", "a:0.0.1"]
    assert [each.phase for each in drain(queue_of(images, known))] == ["predict", "finish"]


def test_nothing_to_do_is_finished():
    """A run whose every receipt is known, or without images, is finished before it begins."""
    images = {"a": stages("a")}
    one = queue_of(images, replayed(drain(queue_of(images))))
    assert one.is_finished
    assert one.num_settled == one.total_blocks
    assert queue_of({}).is_finished
    assert one.lease(10**9, 1) == []


def branches(**keys):
    """Two branches that meet: ``label`` and ``truth`` depend on nothing, ``pair`` on both, and ``tabulate`` on ``label`` alone."""
    rests_on = {"truth": None, "label": None, "pair": ("label", "truth"), "tabulate": ("label",)}
    return [Stage(phase, [block(phase, "a", at, keys.get(phase, "k")) for at in (0, 1)], on) for phase, on in rests_on.items()]


def held_phases(some, known):
    """The phases of which a receipt holds."""
    states = KnownStages({"a": some}).add(known.values()).of("a", some)
    keep_valid(some, states)
    return {phase for phase, state in states.items() if any(state.states)}


def test_a_branch_that_stays_is_not_done_again():
    """What depends on nothing that changed holds, wherever it stands in the order; and is counted as settled."""
    known = replayed(drain(queue_of({"a": branches()})))
    assert held_phases(branches(), known) == {"truth", "label", "pair", "tabulate"}
    for changed, redone in {"truth": ["truth", "pair"], "pair": ["pair"], "label": ["label", "pair", "tabulate"]}.items():
        images = {"a": branches(**{changed: "new"})}
        assert held_phases(images["a"], known) == {"truth", "label", "pair", "tabulate"} - set(redone)
        one = queue_of(images, known)
        assert {each.phase for stage in images["a"] for each in stage.blocks if one.state_of(each) == WAITING} == set(redone)
        assert one.total_blocks - one.num_settled == 2 * len(redone)
        assert [each.phase for each in drain(one)] == [phase for phase in redone for _ in (0, 1)]
        assert one.is_finished
        assert one.num_settled == one.total_blocks == 8


def test_a_branch_with_one_block_left_keeps_its_others():
    """Where a block of one branch is missing, the other blocks of its phase hold, and so does the other branch."""
    known = replayed(drain(queue_of({"a": branches()})))
    del known["truth", "a:0.0.1"]
    assert [(each.phase, each.col) for each in drain(queue_of({"a": branches()}, known))] == [("truth", 1), ("pair", 0), ("pair", 1)]


def test_the_position_of_an_image_is_its_open_phase():
    """Phase, settled blocks and their number while it is in work; None once all is settled. Images without a receipt are not begun."""
    images = {"a": stages("a", ("fit", "predict")), "b": stages("b", ("fit", "predict"))}
    queue = queue_of(images)
    assert queue.position("a") == Position("fit", 0, 4)
    assert queue.begun == set()
    for taken in queue.lease(10_000, 4):
        queue.settle(receipt(taken))
    assert (queue.position("a"), queue.position("b")) == (Position("predict", 0, 4), Position("fit", 0, 4))
    assert queue.begun == {"a"}
    done = drain(queue_of({"a": images["a"]}))
    again = queue_of(images, {(one.phase, one.id): receipt(one) for one in done})
    assert again.begun == {"a"}
    while some := again.lease(10_000, 1):
        again.settle(receipt(some[0]))
    assert again.position("a") is again.position("b") is None
