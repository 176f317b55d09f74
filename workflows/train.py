"""Train a network: images with truth in, a bundle out. Run again to resume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.config import load_yaml
from pipeline.scheduling import EXIT_INTERRUPTED
from pipeline.system import say
from pipeline.training import TRAINING_YAML, prepare_training
from workflows.run import run_config

__all__ = ["train"]


def train(config_path: Path, overrides: Sequence[str] = (), *, fresh: bool = False, take_over: bool = False) -> int:
    """Train what a YAML describes; a second call continues from the checkpoint.

    Args:
        config_path: the YAML.
        overrides: ``key.sub=value`` each, as after ``--set``.
        fresh: remove an earlier training from the output folder first.
        take_over: take the training from the live process that holds it.

    Returns:
        The exit code: 0 done, 3 done but for validation images that could not be segmented, 130 interrupted.

    Raises:
        GigasegError: the input is wrong, or the training could not go on.
    """
    training = prepare_training(load_yaml(TRAINING_YAML, config_path, overrides), resume=not fresh)
    for note in (*training.plan.notes, f"validation: {training.plan.val_words}"):
        say(note)
    if not training.run(fresh=fresh, take_over=take_over):
        say(
            f"interrupted; the same command goes on from its checkpoint. {training.folder.storage}",
            event="run interrupted",
            level="warning",
        )
        return EXIT_INTERRUPTED
    exit_code = run_config(training.validation_run())
    page = training.write_results()
    print(f"bundle: {training.bundle}")
    print(f"page:   {page}")
    return exit_code
