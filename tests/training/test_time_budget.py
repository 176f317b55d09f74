"""`minutes` bound a whole training, whatever a step, a validation and the reading of the images take."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.training.output_files import read_checkpoint
from pipeline.training.time_budget import (
    CLOSING_OBJECTS_SECONDS,
    LEARNING_SHARE,
    LEAST_SHARE,
    VALIDATION_SHARE,
    TimeBudget,
    closing_seconds,
    forecast,
    validation_seconds,
)
from tests.training.scene import planned, rows_at, train_yaml
from workflows.train import train

CLOSING_SECONDS, CLOSING_VALIDATIONS = 8.0, 3.0


def closing(validation):
    """What passes after the last step in these drawn trainings."""
    return CLOSING_VALIDATIONS * validation + CLOSING_SECONDS


class Clock:
    """Seconds that pass when told to."""

    now = 0.0

    def __call__(self):
        return self.now


def simulate(minutes, *, begin, step, validation, guess=0.5, every=None, stop_after=None, resumed=None):
    """Train by a drawn clock as the loop does; return the shares at each step, the validations and what is kept for a resume."""
    clock, kept = Clock(), resumed or {"spent": 0.0, "learnt": 0.0, "validation": 0.0, "at": 0.0}
    clock.now = begin
    learnt, at, validations, shares = kept["learnt"], kept["at"], [], []
    spent = kept["spent"] + begin
    expected = {"closing": closing, "guess": lambda seconds: guess * seconds * validation / step}
    budget = TimeBudget(minutes, spent_s=spent, learnt_s=learnt, validation_s=kept["validation"], clock=clock, **expected)
    number = 0
    while (done := budget.share_done(learnt, at, every)) < 1:
        shares.append(done)
        number += 1
        clock.now += step
        learnt += step
        budget.record_step(step)
        done = budget.share_done(learnt, at, every)
        due = number % every == 0 if every else budget.is_validation_due(done, at)
        if done >= 1 or due:
            clock.now += validation
            budget.record_validation(validation)
            at = max(done, budget.share_done(learnt, at, every))
            validations.append(budget.spent_s)
        if stop_after and number >= stop_after:
            break
    return {"shares": shares, "validations": validations, "spent": budget.spent_s, "learnt": learnt, "validation": validation, "at": at}


@settings(max_examples=300)
@given(
    minutes=st.floats(0.5, 600),
    begin=st.floats(0, 0.3),
    step=st.floats(0.0005, 0.02),
    validation=st.floats(0, 0.05),
    guess=st.floats(0.2, 4),
    every=st.sampled_from([None, 5, 40]),
)
def test_the_minutes_are_kept(minutes, begin, step, validation, guess, every):
    """What follows the last step fits into what is left, but for one step, wherever the images can be scored in the minutes at all."""
    total = 60 * minutes
    begin, step, validation = begin * total, step * total, validation * total
    ended = simulate(minutes, begin=begin, step=step, validation=validation, guess=guess, every=every)
    after_last = (CLOSING_VALIDATIONS - 1) * validation + CLOSING_SECONDS
    between = 1 + (validation / (every * step) if every else VALIDATION_SHARE)  # seconds for each second of learning
    if begin + (CLOSING_VALIDATIONS + 1) * validation + CLOSING_SECONDS < total * (1 - LEARNING_SHARE * between) - step * (every or 1):
        assert ended["spent"] + after_last <= total + 1.01 * step + (validation if every else 0)
    assert ended["learnt"] >= LEARNING_SHARE * (total - begin) - 1e-6


@settings(max_examples=200)
@given(step=st.floats(0.0005, 0.005), validation=st.floats(0.0001, 0.3))
def test_validations_take_a_fifth_at_most(step, validation):
    """Between steps, however long one takes; the last one is always made."""
    total = 600.0
    ended = simulate(10, begin=10.0, step=step * total, validation=validation * total, guess=1.0)
    assert ended["validations"]
    assert (len(ended["validations"]) - 1) * validation * total <= VALIDATION_SHARE * total
    assert len(ended["validations"]) <= 20


def test_the_share_rises_with_learning_and_not_with_validation():
    """The learning rate follows it: the share is that of the learning, in even steps, where validations take what was expected."""
    ended = simulate(10, begin=30.0, step=1.0, validation=10.0, guess=1.0)
    shares = ended["shares"]
    wanted = [index / len(shares) for index in range(len(shares))]
    assert max(abs(share - even) for share, even in zip(shares, wanted, strict=True)) < 0.02


def test_time_before_an_interruption_counts():
    """A training that is stopped and goes on ends with what is left of its minutes; one that was stopped at its end learns no more."""
    half = simulate(10, begin=10.0, step=1.0, validation=5.0, stop_after=200)
    whole = simulate(10, begin=20.0, step=1.0, validation=5.0, resumed=half)
    assert whole["shares"][0] >= half["shares"][-1] - 0.02
    assert whole["spent"] <= 600 - 2 * 5 - CLOSING_SECONDS + 1.1
    assert len(half["validations"]) + len(whole["validations"]) <= 21
    assert not simulate(10, begin=20.0, step=1.0, validation=5.0, resumed=whole)["shares"]


def test_a_guess_is_by_the_pixels_that_validate(mine):
    """Of images or of their regions; twice as many take twice as long."""
    one, two = (validation_seconds(planned(mine, val=val), 2.0) for val in (["images/a0.png"], ["images/a[01].png"]))
    assert two == pytest.approx(2 * one)
    plan = planned(mine, val={"by": "region", "fraction": 0.2}, crop=16, augment={"scale": [1, 1], "flips": True})
    kept = sum(box.area for regions in plan.regions for box in regions.boxes)
    pixels = sum(height * width for height, width in (image.header.shape for image in plan.val))
    whole = validation_seconds(replace(plan, regions=()), 2.0)
    opening = 0.05 * len(plan.val)
    assert validation_seconds(plan, 2.0) - opening == pytest.approx((whole - opening) * kept / pixels)


def test_objects_take_longer_in_the_end(mine):
    """The run that scores a bundle tells objects apart where it can, image by image."""
    keys = {"val": {"names": ["a[01]"]}}
    plain, split = (planned(mine, **keys, **more) for more in ({}, {"border": {"of": "disc", "width": 1}}))
    assert closing_seconds(split, 3.0) - closing_seconds(plain, 3.0) == pytest.approx(2 * CLOSING_OBJECTS_SECONDS)
    assert closing_seconds(plain, 4.0) > closing_seconds(plain, 3.0) + 2


def test_a_forecast_adds_up(mine):
    """Steps times their seconds, or what `minutes` leave; a fifth for validations; too few minutes are seen before."""
    by_steps = forecast(planned(mine, steps=300), 2.0, 10.0)
    assert (by_steps.learn_s, by_steps.validations) == (600.0, 20)
    assert forecast(planned(mine, steps=300, validate_every=7), 2.0, 10.0).validations == 43
    by_minutes = forecast(planned(mine, steps=None, minutes=10.0), 0.5, 10.0)
    assert by_minutes.total_s == pytest.approx(600)
    assert (by_minutes.validations - 1) * by_minutes.validation_s <= VALIDATION_SHARE * 600
    assert forecast(planned(mine, steps=None, minutes=10.0, validate_every=10), 0.5, 10.0).total_s == pytest.approx(600, rel=0.02)
    assert forecast(planned(mine, steps=None, minutes=0.1), 0.5, 10.0).total_s > 6


def test_a_training_in_minutes_divides_them(mine, capsys):
    """It learns for a part of its minutes, as its checkpoint says, validates at the end, lowers the rate, and is then done."""
    path = train_yaml(mine, steps=None, minutes=0.25)
    assert train(path) == 0
    kept = read_checkpoint_of(mine / "out")
    assert 0.25 * 60 * LEAST_SHARE <= kept.seconds <= 0.25 * 60
    assert kept.seconds < kept.spent_s
    assert kept.validation_s > 0
    assert kept.validated_at == 1
    columns, *rows = rows_at(mine / "out")
    validated = [row for row in rows if row[columns.index("mean_iou")]]
    assert 1 <= len(validated) <= 20
    rates = [float(row[columns.index("rate")]) for row in rows if row[columns.index("rate")]]
    assert rates[-1] < max(rates)
    assert train(path) == 0  # a finished one stays as it is
    assert read_checkpoint_of(mine / "out").step == kept.step
    capsys.readouterr()


def test_a_plan_says_how_the_minutes_are_divided(mine, capsys):
    """All of the time is told, and minutes that cannot be kept."""
    assert main(["plan", str(train_yaml(mine, steps=None, minutes=30.0))]) == 0
    out = capsys.readouterr().out
    assert "time: about 30.0 minutes in all: " in out
    assert "20 validations of about" in out
    assert "is short for" not in out
    assert main(["plan", str(train_yaml(mine, steps=None, minutes=0.05))]) == 0
    assert "note: minutes: 0.05 is short for 1 validation image" in capsys.readouterr().out


def read_checkpoint_of(output):
    from pipeline.storage import open_storage

    return read_checkpoint(open_storage(output))
