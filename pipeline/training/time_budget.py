"""How the `minutes` of a training are divided into learning, validation and what follows: all of it counts, reading and scoring as well.

Nobody knows before how long a step or a validation takes, so the division follows what they took so far. The learning rate follows the
share of the learning that is done. A training by steps or epochs needs none of this and gives the same weights at any speed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.geometry import Box
from pipeline.training.plan import TrainPlan, image_pixels

__all__ = ["VALIDATIONS", "Forecast", "TimeBudget", "closing_seconds", "forecast", "validation_seconds"]

VALIDATIONS = 20  # while a network is trained, at most, where the YAML does not say how often
VALIDATION_SHARE = 0.2  # of the minutes, for the validations between steps
LEARNING_SHARE = 1 / 3  # of what is left when learning begins, at least
LEAST_SHARE = 0.1  # of the minutes, for learning, also where reading the images has taken all of them: an untrained network helps nobody
FORWARD_SHARE = (
    0.5  # what a validation takes for a pixel, as a share of what a step takes: a forward pass and its halo, but nothing backward
)
IMAGE_SECONDS = 0.05  # for opening and counting an image
# After the last step come its validation and what takes so many others: halo and field, the run over the validation images, and the page.
CLOSING_VALIDATIONS = 1.5
CLOSING_IMAGE_SECONDS = 0.2  # of that run, for an image: its files, pyramid and picture
CLOSING_OBJECTS_SECONDS = 0.5  # for an image whose objects are told apart, beside that
CLOSING_SECONDS = 8.0


class TimeBudget:
    """The clock of a training in minutes.

    Args:
        minutes: length of the whole training.
        spent_s: seconds that it has taken before now, in this process and in those before an interruption.
        learnt_s: seconds of it that were spent on steps.
        validation_s: what a validation took last; 0: there was none yet.
        closing: returns what is expected to pass after the last step, for what a validation takes; its own validation included.
        guess: returns what a validation may take for what a step takes; used until one has been measured.
        clock: seconds that pass, from any start.
    """

    def __init__(
        self,
        minutes: float,
        *,
        spent_s: float,
        learnt_s: float = 0.0,
        validation_s: float = 0.0,
        closing: Callable[[float], float],
        guess: Callable[[float], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total_s, self._clock, self._closing, self._guess = 60 * minutes, clock, closing, guess
        self._start_s, self._learnt_before_s = clock() - spent_s, learnt_s
        self._least_s = least_learning(self._total_s, spent_s, learnt_s)
        self._step_s, self._measured_s = 0.0, validation_s

    @property
    def spent_s(self) -> float:
        """Seconds since the training began, without those between its processes."""
        return self._clock() - self._start_s

    @property
    def validation_s(self) -> float:
        """What a validation takes: as the last one did, or as a step lets expect; 0: unknown."""
        return self._measured_s or self._guess(self._step_s)

    @property
    def num_validations(self) -> int:
        """Validations in all, the last one included: fewer where they are expensive."""
        return num_validations(self._total_s, self.validation_s)

    def is_validation_due(self, done: float, done_before: float) -> bool:
        """Whether the share has risen enough since the last validation; a distance, as their number changes with what they take."""
        return done - done_before >= 1 / self.num_validations

    def record_step(self, seconds: float) -> None:
        """Note what a step took; the fastest one counts, as the first ones of a process are slow."""
        self._step_s = min(self._step_s or seconds, seconds)

    def record_validation(self, seconds: float) -> None:
        """Note what a validation took."""
        self._measured_s = seconds

    def share_done(self, learnt_s: float, done_before: float, steps_between: float | None = None) -> float:
        """Return the share of the learning that is done, 0 to 1.

        Args:
            learnt_s: seconds spent on steps, with those before an interruption.
            done_before: the share at the last validation.
            steps_between: steps from one validation to the next, as the YAML says; None: :attr:`num_validations` in all.
        """
        if done_before >= 1:
            return 1.0
        left_s = self._total_s - self.spent_s - self._closing(self.validation_s)
        if steps_between is None:
            left_s -= max(0, math.ceil((1 - done_before) * self.num_validations) - 1) * self.validation_s
        elif self._step_s:
            left_s /= 1 + self.validation_s / (steps_between * self._step_s)
        left_s = max(left_s, self._least_s - (learnt_s - self._learnt_before_s))
        return 1.0 if left_s <= 0 else learnt_s / (learnt_s + left_s)


@dataclass(frozen=True)
class Forecast:
    """What a training will spend its time on, seconds; ``validations`` is a number, the last one included."""

    begin_s: float
    learn_s: float
    validations: int
    validation_s: float
    close_s: float

    @property
    def total_s(self) -> float:
        """Of the whole training."""
        return self.begin_s + self.learn_s + (self.validations - 1) * self.validation_s + self.close_s


def forecast(plan: TrainPlan, step_s: float, begin_s: float) -> Forecast:
    """Say what a training will spend its time on, from the seconds of a step and those before the first one."""
    one_s, every = validation_seconds(plan, step_s), plan.config.validate_every
    close_s = closing_seconds(plan, one_s)
    if plan.config.minutes is None:
        steps = plan.num_steps or 0
        number = VALIDATIONS if every == "auto" else -(-steps // every)
        return Forecast(begin_s, steps * step_s, max(1, min(number, steps)), one_s, close_s)
    total_s = 60 * plan.config.minutes
    left_s, least_s = total_s - begin_s - close_s, least_learning(total_s, begin_s)
    if every == "auto":
        number = num_validations(total_s, one_s)
        learn_s = max(least_s, left_s - (number - 1) * one_s)
    else:
        learn_s = max(least_s, left_s / (1 + one_s / (every * step_s)))
        number = 1 + int(learn_s / (every * step_s))
    return Forecast(begin_s, learn_s, number, one_s, close_s)


def num_validations(total_s: float, validation_s: float) -> int:
    """Return into how many parts the validations divide a training of so many seconds.

    Example:
        >>> [num_validations(600, seconds) for seconds in (0, 1, 10, 100)]
        [20, 20, 12, 1]
    """
    return max(1, int(min(VALIDATIONS, VALIDATION_SHARE * total_s / validation_s))) if validation_s else VALIDATIONS


def least_learning(total_s: float, spent_s: float, learnt_s: float = 0.0) -> float:
    """Return for how many seconds a process learns at least, where that many are spent, and were learnt, before it begins."""
    return max(LEARNING_SHARE * (total_s - spent_s), LEAST_SHARE * total_s - learnt_s, 0.0)


def closing_seconds(plan: TrainPlan, validation_s: float) -> float:
    """Return what is expected to pass after the last step: its validation, the run over the validation images, the page."""
    of_image_s = CLOSING_IMAGE_SECONDS + (0.0 if plan.border_class is None else CLOSING_OBJECTS_SECONDS)
    return (1 + CLOSING_VALIDATIONS) * validation_s + of_image_s * len(plan.val) + CLOSING_SECONDS


def validation_seconds(plan: TrainPlan, step_s: float) -> float:
    """Guess what a validation takes from the seconds of a step, by the pixels that both compute."""
    pixels = 0
    for image in plan.val:
        regions = plan.regions_of(image)
        parts: list[Box] = list(regions.boxes) if regions else []
        pixels += sum(box.area for box in parts) * image.header.num_planes if parts else image_pixels(image)
    return FORWARD_SHARE * step_s * pixels / (plan.config.batch * plan.crop**2) + IMAGE_SECONDS * len(plan.val)
