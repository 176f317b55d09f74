"""A training from its YAML to its bundle and its page."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.config import Config, to_yaml
from pipeline.errors import InputError, Problem
from pipeline.inputs import hash_values
from pipeline.records import Ledger, RunFolder, hardware, versions
from pipeline.storage import file_sha256
from pipeline.system import handle_signals
from pipeline.training.bundle_card import complete_card
from pipeline.training.dataset_scan import scan_dataset
from pipeline.training.launch import choose_workers, launch
from pipeline.training.loop import StepCost, measure_step
from pipeline.training.output_files import CHECKPOINT, is_begun, refuse_overwriting, remove_outputs, write_regions
from pipeline.training.plan import TrainPlan, make_plan
from pipeline.training.result import VALIDATION, validation_run, write_result_page
from pipeline.training.schema import TrainConfig
from pipeline.training.time_budget import Forecast, forecast
from pipeline.training.trainable_network import memory_errors, resolve_precision
from pipeline.training.trained_bundle import best_bundle, complete_bundle
from pipeline.training.weight_averaging import load_initial_network, weights_file
from pipeline.training.worker_group import WorkerGroup
from pipeline.tuning import num_gpus

__all__ = ["Training", "prepare_training"]


def prepare_training(config: TrainConfig, *, resume: bool) -> Training:
    """Check a training and read its images once; nothing is written.

    With ``resume``, an output folder that holds another training is refused, or a checkpoint where the YAML says ``resume: false``.

    Raises:
        InputError: every problem that is found at once.
    """
    begun_s = time.monotonic()
    plan = make_plan(config)
    workers = choose_workers(plan, num_gpus())
    folder = RunFolder(config.output)
    refuse_overwriting(plan, folder)
    if resume:
        folder.refuse_other(_identity(plan))
        _refuse_checkpoint(config, folder)
    return Training(scan_dataset(plan), workers, folder, begun_s)


@dataclass(frozen=True)
class Training:
    """A checked training: what it learns from, scanned; its workers as rank 0 sees them; and the folder where it writes.

    ``begun_s`` is when its preparation began, on the clock of ``time.monotonic``.
    """

    plan: TrainPlan
    workers: WorkerGroup
    folder: RunFolder
    begun_s: float

    @property
    def spent_s(self) -> float:
        """Seconds that this process has spent on the training so far."""
        return time.monotonic() - self.begun_s

    @property
    def precision(self) -> str:
        """``fp32``, ``bf16`` or ``fp16``."""
        return resolve_precision(self.plan.config, self.workers.device)

    @property
    def bundle(self) -> Path:
        """Folder of the best bundle."""
        return best_bundle(self.plan)

    def measure_step(self) -> StepCost:
        """Measure the time and memory of a step on this machine.

        Raises:
            InputError: the step needs more memory than there is.
        """
        with memory_errors(self.plan):
            return measure_step(self.plan, self.workers)

    def forecast(self, cost: StepCost, begin_s: float) -> Forecast:
        """Say what the training will spend its time on, from the cost of a step and the seconds that its preparation takes."""
        return forecast(self.plan, cost.seconds, begin_s)

    def run(self, *, fresh: bool = False, take_over: bool = False) -> bool:
        """Train, from the checkpoint if there is one, and complete the bundle; a finished training stays as it is.

        Args:
            fresh: remove an earlier training from the output folder first.
            take_over: take the output folder from the live process that holds it.

        Returns:
            Whether the end was reached; False: interrupted.

        Raises:
            GigasegError: the training could not go on; its checkpoint stays.
        """
        facts = {
            "identity": _identity(self.plan),
            "training": self._facts(),
            "versions": versions(),
            "hardware": hardware(),
            "notes": self.plan.notes,
        }
        if fresh or not is_begun(self.folder):  # the last check of the input, before anything is removed or written
            load_initial_network(self.plan.network, self.plan.config.mean_of)
        if fresh:
            remove_outputs(self.folder, take_over=take_over)
        if not is_begun(self.folder):  # run.json is the first file, because it marks all others as a training's
            self.folder.write(kind="training", state="running", **facts)
        with Ledger.open(self.folder.ledger, take_over=take_over):
            self.folder.write_config(to_yaml(self.plan.config))
            self.folder.write(**facts)
            if self.folder.read().get("state") == "done":
                return True
            is_done = self._train()
            self.folder.write(state="done" if is_done else "interrupted")
            return is_done

    def validation_run(self) -> Config:
        """Return the config of a run of the bundle over the validation images."""
        return validation_run(self.plan, self.folder)

    def write_results(self) -> Path:
        """Complete the bundle's card from the results of the validation run, write training.html, and return the path of that page."""
        complete_card(self.plan, self.bundle, self.plan.config.output / VALIDATION)
        return write_result_page(self.plan, self.folder)

    def _facts(self) -> dict[str, Any]:
        workers = self.workers
        facts = {"workers": workers.size, "device": workers.device, "precision": self.precision, "steps": self.plan.num_steps}
        return {**facts, "val": self.plan.val_words}

    def _train(self) -> bool:
        self.folder.write(state="running")
        write_regions(self.plan)
        with _stop_on_signal(self.folder) as install_handlers:
            if not launch(self.plan, self.workers, self.folder, install_handlers, self.spent_s):
                return False
        complete_bundle(self.plan, replace(self.workers, size=1))
        return True


def _identity(plan: TrainPlan) -> dict[str, Any]:
    """Return what makes two trainings the same: all but where and how fast they run."""
    config = plan.config.model_dump(mode="json", exclude={"compute", "output", "resume", "checkpoint_minutes"})
    files = [*plan.network.files(), *(weights_file(Path(text)) for text in plan.config.mean_of)]
    parts = {"train": plan.train, "validation": plan.val}
    images = {name: [hash_values(image.identity, image.truth_identity) for image in part] for name, part in parts.items()}
    return {**config, **images, "weights": {str(file): file_sha256(file) for file in files}}


def _refuse_checkpoint(config: TrainConfig, folder: RunFolder) -> None:
    if not config.resume and folder.storage.exists() and folder.storage.size(CHECKPOINT) is not None:
        where, way_out = f"{folder.storage}/{CHECKPOINT}", "Use --fresh, or another output folder."
        raise InputError(Problem(where, "a checkpoint", "none, as resume is false", way_out))


@contextmanager
def _stop_on_signal(folder: RunFolder) -> Iterator[Callable[[], None]]:
    """Let the first signal ask every worker to stop after its current step; the second one ends at once.

    What is yielded installs the handlers again, after anything that replaces them.
    """

    def ask(_number: int, _frame: Any) -> None:
        if folder.is_asked_to_stop():
            raise KeyboardInterrupt
        folder.ask_to_stop()

    folder.forget_stop()
    with handle_signals(ask) as install_handlers:
        yield install_handlers
