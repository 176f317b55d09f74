"""What each worker of a training does: crops in, a bundle out, and a checkpoint to continue from; or a few steps, to know their cost."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean

from pipeline.backends import keep_freed_memory
from pipeline.training.batch_loading import Batch, load_batch, load_batches
from pipeline.training.crops import Crops, ImageCache
from pipeline.training.history import History
from pipeline.training.output_files import Checkpoint, read_checkpoint, write_checkpoint
from pipeline.training.plan import TrainPlan
from pipeline.training.time_budget import VALIDATIONS, TimeBudget, closing_seconds, validation_seconds
from pipeline.training.trainable_network import StepLoss, TrainableNetwork, memory_errors
from pipeline.training.trained_bundle import candidate_bundle, keep_candidate, save_candidate, validate_bundle
from pipeline.training.worker_group import WorkerGroup

__all__ = ["StepCost", "fit", "measure_step"]

HISTORY_ROWS = 500  # of training, about
TRIAL_STEPS = 3
TRIAL_SECONDS = 10  # a step that takes longer is measured once


def fit(plan: TrainPlan, workers: WorkerGroup, is_stopping: Callable[[], bool] = lambda: False, spent_s: float = 0.0) -> bool:
    """Train until the end, from the checkpoint if there is one; return whether the end was reached.

    After every step ``is_stopping`` says whether to write a checkpoint and end. ``spent_s`` are the seconds that this process has spent
    on the training so far.

    Raises:
        GigasegError: the loss is NaN, or the output cannot be written.
    """
    with ExitStack() as stack:
        crops = stack.enter_context(_open_crops(plan, workers))
        return _Loop(plan, workers, crops, stack, spent_s).run(is_stopping)


def measure_step(plan: TrainPlan, workers: WorkerGroup) -> StepCost:
    """Take a few steps with one worker's share of a batch; the first is not counted if there is time for others.

    A step that would take long is not taken: its cost follows from a step of two crops. The weights are dropped.
    """
    with _open_crops(plan, workers) as crops:
        network = TrainableNetwork(plan, replace(workers, rank=0, size=1))
        share = -(-plan.config.batch // workers.size)
        of_two = _cost_by_two_crops(network, crops, share)
        if of_two.seconds > TRIAL_SECONDS:
            return of_two
        with closing(load_batches(crops, workers)) as batches:
            seconds = [_step_seconds(network, batches, 0)]
            while len(seconds) <= TRIAL_STEPS and sum(seconds) < TRIAL_SECONDS:
                seconds.append(_step_seconds(network, batches, len(seconds)))
    return StepCost(mean(seconds[1:] or seconds), _peak_bytes())


@dataclass(frozen=True)
class StepCost:
    """What a step costs: seconds, with reading and varying the crops, and the largest memory of the process."""

    seconds: float
    peak_bytes: int


@contextmanager
def _open_crops(plan: TrainPlan, workers: WorkerGroup) -> Iterator[Crops]:
    """Give the crops of a plan; inside the ``with`` block, torch computes with the threads of a worker."""
    import torch

    num_threads = torch.get_num_threads()
    torch.set_num_threads(workers.threads)
    keep_freed_memory()  # every step takes and frees the same
    try:
        with closing(ImageCache(plan.config.compute.memory_bytes // workers.loaders)) as cache:
            yield Crops(plan, cache)
    finally:
        torch.set_num_threads(num_threads)


class _Loop:
    """What changes while a training goes on.

    ``stack`` closes what the loop opens; ``spent_s`` as for :func:`fit`.
    """

    def __init__(self, plan: TrainPlan, workers: WorkerGroup, crops: Crops, stack: ExitStack, spent_s: float) -> None:
        self.plan, self.workers = plan, workers
        self.network = TrainableNetwork(plan, workers)
        self.progress = read_checkpoint(plan.storage) or Checkpoint()
        if self.progress.state:
            self.network.load_state_dict(self.progress.state)
            self.progress.state = {}
        spent_s += self.progress.spent_s
        self.start_s = time.monotonic() - spent_s
        self.budget = None if plan.config.minutes is None else self._time_budget(plan.config.minutes, spent_s)
        self.history: History | None = None
        if workers.rank == 0:
            names = [str(spec["name"]) for spec in plan.classes]
            self.history = stack.enter_context(History(plan.config.output, names, plan.num_steps, step=self.progress.step))
        if self.progress.is_new and not self.network.has_fitting_norms:
            with closing(load_batches(crops, workers)) as batches:
                self.network.measure_norms(batches)
        self.batches = stack.enter_context(closing(load_batches(crops, workers, self.progress.step)))
        self.last_checkpoint_s = time.monotonic()
        self.last_row = (self.progress.step, self.progress.seconds)

    def _time_budget(self, minutes: float, spent_s: float) -> TimeBudget:
        expected = {"closing": partial(closing_seconds, self.plan), "guess": partial(validation_seconds, self.plan)}
        seconds, known_s = self.progress.seconds, self.progress.validation_s
        return TimeBudget(minutes, spent_s=spent_s, learnt_s=seconds, validation_s=known_s, **expected)

    def run(self, is_stopping: Callable[[], bool]) -> bool:
        """Train step by step; return whether the end was reached."""
        if self._share_done() >= 1 and self.progress.is_new:  # steps: 0
            self._validate()
        progress, start_s = self.progress, time.monotonic() - self.progress.seconds
        most_stale = self.plan.config.early_stop or math.inf
        while (done := self._share_done()) < 1 and progress.stale < most_stale:
            rate = self.plan.config.optimizer.rate * self.plan.config.schedule.rate_at(done)
            with memory_errors(self.plan):
                loss = self.network.learn(next(self.batches), rate, progress.step)
            progress.step += 1
            seconds = time.monotonic() - start_s
            if self.budget is not None:
                self.budget.record_step(seconds - progress.seconds)
            progress.seconds = seconds
            self._record(loss, rate)
            if self._is_validation_due(done):
                self._validate()
                start_s = time.monotonic() - progress.seconds
            elif time.monotonic() - self.last_checkpoint_s > 60 * self.plan.config.checkpoint_minutes:
                self._write_checkpoint()
            if self._is_stop_agreed(is_stopping()):
                self._write_checkpoint()
                return False
        return True

    def _share_done(self) -> float:
        """Return the share of the training that is done; the same on every worker."""
        if self.budget is None:
            assert self.plan.num_steps is not None
            return self.progress.step / self.plan.num_steps if self.plan.num_steps else 1.0
        every = self.plan.config.validate_every
        steps_between = None if every == "auto" else every
        share: float = self.workers.gather(self.budget.share_done(self.progress.seconds, self.progress.validated_at, steps_between))[0]
        return share

    def _is_stop_agreed(self, is_stopping: bool) -> bool:
        """Whether any worker was asked to stop; several workers ask each other at every tenth step only."""
        if self.workers.size > 1 and self.progress.step % 10:
            return False
        return any(self.workers.gather(is_stopping))

    def _is_validation_due(self, done_before: float) -> bool:
        every, done = self.plan.config.validate_every, self._share_done()
        if done >= 1:
            return True
        if every != "auto":
            return self.progress.step % every == 0
        if self.budget is None:
            return int(done * VALIDATIONS) > int(done_before * VALIDATIONS)
        is_due: bool = self.workers.gather(self.budget.is_validation_due(done, self.progress.validated_at))[0]
        return is_due

    def _validate(self) -> None:
        """Score the network as a bundle, keep the bundle if it is the best so far, and write a checkpoint."""
        begun_s, share_before = time.monotonic(), self._share_done()
        if self.workers.rank == 0:
            save_candidate(self.plan, self.network.network_to_keep())
        self.workers.barrier()
        report = validate_bundle(self.plan, candidate_bundle(self.plan), self.workers)
        score = report["mean_iou"] or 0.0
        is_best = self.progress.best is None or score > self.progress.best
        self.progress.best, self.progress.stale = (score, 0) if is_best else (self.progress.best, self.progress.stale + 1)
        self.workers.barrier()
        if self.history is not None:
            self.history.record_validation(self.progress.step, report)
        if self.workers.rank == 0 and is_best:
            keep_candidate(self.plan)
        self.progress.validation_s = time.monotonic() - begun_s
        if self.budget is not None:
            self.budget.record_validation(self.progress.validation_s)
            # The share falls where the validation was quicker than expected; what it was for is done all the same.
            self.progress.validated_at = max(share_before, self._share_done())
        self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        self.last_checkpoint_s = time.monotonic()
        if self.workers.rank == 0:
            self.progress.state = self.network.state_dict()
            self.progress.spent_s = time.monotonic() - self.start_s
            write_checkpoint(self.plan.storage, self.progress)

    def _record(self, loss: StepLoss, rate: float) -> None:
        """Write a row of the history after some steps; the clock does not choose them, so that a resumed training has the same rows."""
        step, num_steps = self.progress.step, self.plan.num_steps
        every = max(1, (num_steps or 10 * HISTORY_ROWS) // HISTORY_ROWS)
        if self.history is None or (step % every and step not in (1, num_steps)):
            return
        last_step, last_seconds = self.last_row
        speed = (step - last_step) * self.plan.config.batch / max(self.progress.seconds - last_seconds, 1e-9)
        self.history.record_training(step, loss=loss.total, parts=loss.parts, rate=rate, crops_per_second=speed)
        self.last_row = step, self.progress.seconds


def _cost_by_two_crops(network: TrainableNetwork, crops: Crops, share: int) -> StepCost:
    """Scale the cost of two crops to a worker's share; one crop is too few for a batch norm that sees one pixel of each."""
    bytes_before, num_crops = _peak_bytes(), min(2, share)
    seconds = _step_seconds(network, iter([load_batch(crops, range(num_crops))]), 0)
    return StepCost(seconds * share / num_crops, bytes_before + (_peak_bytes() - bytes_before) * share // num_crops)


def _step_seconds(network: TrainableNetwork, batches: Iterator[Batch], step: int) -> float:
    start_s = time.monotonic()
    network.learn(next(batches), 0.0, step)
    return time.monotonic() - start_s


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
