"""The training loop of one worker: crops in, a bundle out, and a checkpoint to go on from."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from pipeline.backends._allocator import keep_freed_memory
from pipeline.models.bundle import save_bundle
from pipeline.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from pipeline.training.crops import Crops
from pipeline.training.history import History
from pipeline.training.image_cache import ImageCache
from pipeline.training.learner import Learner, enough_memory
from pipeline.training.plan import TrainPlan
from pipeline.training.rate_schedule import rate_at
from pipeline.training.validation import validate
from pipeline.training.worker_group import WorkerGroup

__all__ = ["bundle_of", "checkpoint_of", "fit", "save"]

VALIDATIONS = 20
ROWS = 500  # of the history, about


def bundle_of(plan: TrainPlan) -> Path:
    """Where the best bundle so far lies."""
    return plan.config.output / "bundle"


def checkpoint_of(plan: TrainPlan) -> Path:
    """Where the checkpoint lies."""
    return plan.config.output / "checkpoint.pt"


def fit(plan: TrainPlan, team: WorkerGroup, stopping: Callable[[], bool] = lambda: False) -> bool:
    """Train until the end, from the checkpoint if there is one.

    Args:
        plan: scanned.
        team: this worker and the others.
        stopping: whether to write a checkpoint and end; asked after every step.

    Returns:
        Whether the end was reached.

    Raises:
        GigasegError: the loss is NaN, or the output cannot be written.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(team.threads)
    keep_freed_memory()  # every step takes and frees the same
    try:
        with ExitStack() as stack:
            return _Training(plan, team, stack).run(stopping)
    finally:
        torch.set_num_threads(before)


def save(plan: TrainPlan, folder: Path, network: Any, tile: dict[str, int], scores: dict[str, Any]) -> None:
    """Write a bundle of a network as it is."""
    about = plan.config.about.model_dump()
    options = plan.network.model_dump(mode="json", exclude={"weights", "seed", "tta", "pretrained"})
    spec: dict[str, Any] = {
        "architecture": {"name": plan.config.model["name"], **options},
        "classes": [dict(one) for one in plan.classes],
        "outputs": None if plan.outputs is None else list(plan.outputs),
        "normalize": plan.normalize,
        "merge_channels": plan.config.merge_channels,
        "tile": tile,
        **about,
        "scores": scores,
    }
    save_bundle(folder, network, half=plan.config.half, **spec)


class _Training:
    """What changes while a training goes on."""

    def __init__(self, plan: TrainPlan, team: WorkerGroup, stack: ExitStack) -> None:
        self.plan, self.team, self.output = plan, team, plan.config.output
        self.learner = Learner(plan, team)
        self.at = self._resumed()
        cache = ImageCache(plan.config.compute.memory_bytes // team.loaders)
        stack.callback(cache.close)
        names = [str(one["name"]) for one in plan.classes]
        writes = team.rank == 0
        self.history = stack.enter_context(History(self.output, names, plan.steps, step=self.at.step)) if writes else None
        # Closed before the cache is: the threads behind it read from there.
        crops = Crops(plan, cache)
        if self.at.is_new and not self.learner.norms_fit:
            with closing(crops.batches(0, team.rank, team.size, team.loaders)) as batches:
                self.learner.measure_norms(batches)
        self.batches = crops.batches(self.at.step, team.rank, team.size, team.loaders)
        stack.callback(self.batches.close)
        self.saved, self.told = time.monotonic(), (self.at.step, self.at.seconds)

    def run(self, stopping: Callable[[], bool]) -> bool:
        """Step by step to the end."""
        if self._done() >= 1 and self.at.is_new:  # steps: 0
            self._validate()
        config, start = self.plan.config, time.monotonic() - self.at.seconds
        while (done := self._done()) < 1 and not self._is_stale():
            with enough_memory(self.plan):
                step = self.learner.learn(next(self.batches), config.optimizer.rate * rate_at(config.schedule, done), self.at.step)
            self.at.step += 1
            self.at.seconds = time.monotonic() - start
            self._tell(step.loss, step.parts, done)
            if self._is_due(done):
                self._validate()
                start = time.monotonic() - self.at.seconds
            elif time.monotonic() - self.saved > 60 * config.checkpoint_minutes:
                self._save()
            if self._agreed(stopping()):
                self._save()
                return False
        return True

    def _done(self) -> float:
        """Share of the training that is done; the same on every worker."""
        if self.plan.config.minutes is None:
            assert self.plan.steps is not None
            return self.at.step / self.plan.steps if self.plan.steps else 1.0
        seconds: float = self.team.gather(self.at.seconds)[0]
        return min(1.0, seconds / (60 * self.plan.config.minutes))

    def _is_stale(self) -> bool:
        """Whether the score has not risen for so long that the training ends; a checkpoint may say so too."""
        early_stop = self.plan.config.early_stop
        return early_stop is not None and self.at.stale >= early_stop

    def _agreed(self, stopping: bool) -> bool:
        """Whether any worker has been asked to stop; looked at together, now and then."""
        return any(self.team.gather(stopping)) if self.team.size == 1 or self.at.step % 10 == 0 else False

    def _is_due(self, before: float) -> bool:
        every, now = self.plan.config.validate_every, self._done()
        if now >= 1:
            return True
        return int(now * VALIDATIONS) > int(before * VALIDATIONS) if every == "auto" else self.at.step % every == 0

    def _validate(self) -> None:
        """Score the network as a bundle, and keep the bundle if it is the best so far; then a checkpoint."""
        candidate = self.output / "candidate"
        if self.team.rank == 0:
            save(self.plan, candidate, self.learner.kept(), {}, {})
        self.team.wait()
        report = validate(self.plan, candidate, self.team)
        score = report["mean_iou"] or 0.0
        is_best = self.at.best is None or score > self.at.best
        self.at.best, self.at.stale = (score, 0) if is_best else (self.at.best, self.at.stale + 1)
        self.team.wait()
        if self.team.rank == 0:
            if self.history is not None:
                self.history.validate(self.at.step, report)
            if is_best:
                replace_folder(candidate, bundle_of(self.plan))
        self._save()

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.team.rank == 0:
            self.at.learner = self.learner.state()
            write_checkpoint(checkpoint_of(self.plan), self.at)

    def _resumed(self) -> Checkpoint:
        found = read_checkpoint(checkpoint_of(self.plan))
        if found is None:
            return Checkpoint()
        self.learner.load(found.learner)
        found.learner = {}
        return found

    def _tell(self, loss: float, parts: dict[str, float], done: float) -> None:
        """A row of the history; which steps have one does not depend on the clock, so that a resumed curve is the same."""
        config, steps = self.plan.config, self.plan.steps
        every = max(1, (steps or 10 * ROWS) // ROWS)
        if self.history is None or (self.at.step % every and self.at.step not in (1, steps)):
            return
        step, seconds = self.told
        speed = (self.at.step - step) * config.batch / max(self.at.seconds - seconds, 1e-9)
        rate = config.optimizer.rate * rate_at(config.schedule, done)
        self.history.train(self.at.step, loss=loss, parts=parts, rate=rate, crops_per_second=speed)
        self.told = self.at.step, self.at.seconds


def replace_folder(new: Path, old: Path) -> None:
    """Put a folder in another's place."""
    aside = old.with_name(f".{old.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)
