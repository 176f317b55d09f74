"""Training speed: a whole training loop against bare steps over crops in memory, and two workers against one.

Run: ``python -m tests.benchmarks.training [ROUNDS]``. The loop reads crops from PNG files, varies them, follows averaged weights and
writes its history; the bare loop has nothing but forward, loss, backward and the optimizer. Rounds alternate; medians with their range.
What two processes can have of this machine's memory is what two bare loops at once reach against one alone.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
import yaml
from PIL import Image

from pipeline.backends import keep_freed_memory
from pipeline.config import load_yaml
from pipeline.records import RunFolder
from pipeline.training import TRAINING_YAML
from pipeline.training.batch_loading import load_batches
from pipeline.training.crops import Crops, ImageCache
from pipeline.training.dataset_scan import scan_dataset
from pipeline.training.launch import launch, run_ray_worker
from pipeline.training.plan import TrainPlan, make_plan
from pipeline.training.trainable_network import TrainableNetwork, autocast, make_optimizer, resolve_precision
from pipeline.training.worker_group import WorkerGroup
from tests.benchmarks.images import tile

CROP, BATCH, STEPS = 256, 8, 12


def scene(folder: Path) -> TrainPlan:
    """Eight RGB images of 1024 pixels a side in two classes, and a training of a U-Net on them."""
    for name in ("images", "truth"):
        (folder / name).mkdir()
    for seed in range(8):
        pixels_YXC = np.moveaxis(tile(3, seed), 0, -1)
        Image.fromarray(pixels_YXC).save(folder / "images" / f"{seed}.png")
        Image.fromarray((pixels_YXC[..., 0] > np.median(pixels_YXC[..., 0])).astype(np.uint8)).save(folder / "truth" / f"{seed}.png")
    content = {
        "images": "images/",
        "truth": "truth/{stem}.png",
        "classes": [{"name": "a"}, {"name": "b"}],
        "model": {"name": "unet", "base": 16},
        "crop": CROP,
        "batch": BATCH,
        "steps": 1000,
        "output": "out",
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(content))
    return scan_dataset(make_plan(load_yaml(TRAINING_YAML, folder / "train.yaml")))


def bare(plan: TrainPlan) -> float:
    """Seconds of bare steps; crops are in memory."""
    keep_freed_memory()
    network = TrainableNetwork(plan, WorkerGroup()).network
    optimizer, precision = make_optimizer(network, plan.config.optimizer), resolve_precision(plan.config, "cpu")
    with closing(load_batches(Crops(plan, ImageCache(2**30)), WorkerGroup())) as batches:
        batch = next(batches)
    x_BCYX = batch.pixels_BCYX.to(memory_format=torch.channels_last)
    target_BYX = batch.target_BYX.long()

    def step() -> None:
        with autocast(precision, "cpu"):
            logits_BKYX = network(x_BCYX)
        optimizer.zero_grad(set_to_none=True)
        plan.loss(logits_BKYX.float(), target_BYX).backward()
        optimizer.step()

    return timed(step)


def ours(plan: TrainPlan) -> float:
    """Seconds of the training's own steps."""
    keep_freed_memory()
    network, steps = TrainableNetwork(plan, WorkerGroup()), iter(range(10**6))
    with closing(load_batches(Crops(plan, ImageCache(2**30)), WorkerGroup())) as batches:
        return timed(lambda: network.learn(next(batches), 1e-3, next(steps)))


def timed(step: Callable[[], object]) -> float:
    """Seconds of STEPS steps, after two that are not counted."""
    for _ in range(2):
        step()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    return time.perf_counter() - start


def at_once(plan: TrainPlan, size: int) -> float:
    """Steps a second of so many bare loops together, each a process of one thread."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(size, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(time.sleep, [1.0] * size))  # all of them are up
        return sum(STEPS / seconds for seconds in pool.map(bare, [plan] * size))


def workers(plan: TrainPlan, size: int) -> float:
    """Steps a second of so many Ray Train workers of one thread, start-up apart, by the history's own clock."""
    import csv

    output = Path(tempfile.mkdtemp(prefix="gs-train-"))
    config = plan.config.model_copy(update={"output": output, "steps": 60, "validate_every": 10**6})
    config = config.model_copy(update={"compute": config.compute.model_copy(update={"workers": size, "threads": 1, "runner": "ray"})})
    launch(replace(plan, config=config), WorkerGroup(size=size), RunFolder(output), lambda: None)
    rows = [row for row in csv.DictReader((output / "history.csv").read_text().splitlines()) if row["crops_per_second"]]
    return median(float(row["crops_per_second"]) for row in rows[10:])


def main(rounds: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        plan = scene(Path(folder))
        pairs = [(bare(plan), ours(plan)) for _ in range(rounds)]
        ratios = [one / other for one, other in pairs]
        print(f"bare {median(one for one, _ in pairs) / STEPS:.3f} s a step of {BATCH} crops of {CROP} px")
        print(f"speed of a training over the bare loop: {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), {rounds} rounds")
        one, two = at_once(plan, 1), at_once(plan, 2)
        print(f"bare loops: one {one * BATCH:.1f} crops a second, two at once {two * BATCH:.1f}: {two / one:.2f}", flush=True)
        one, two = workers(plan, 1), workers(plan, 2)
        print(f"one worker {one:.1f} crops a second, two {two:.1f}: {two / one:.2f}")


if __name__ == "__main__":
    assert run_ray_worker  # Ray finds the worker's function by its module
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
