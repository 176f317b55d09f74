"""The trial steps of `gigaseg plan` end soon, and tell what a training would cost."""

from __future__ import annotations

from pipeline.training import loop
from pipeline.training.trainable_network import TrainableNetwork
from pipeline.training.worker_group import WorkerGroup
from tests.training.scene import planned


def test_a_step_that_takes_long_is_not_taken(mine, monkeypatch):
    """Two crops tell what a slow step of six would cost, three times as much; a quick one is taken, and more than once."""
    seen, learn = [], TrainableNetwork.learn

    def watched(self, batch, rate, step):
        seen.append(len(batch.where))
        return learn(self, batch, rate, step)

    monkeypatch.setattr(TrainableNetwork, "learn", watched)
    plan = planned(mine, batch=6)
    quick = loop.measure_step(plan, WorkerGroup())
    assert seen == [2, 6, 6, 6, 6]
    monkeypatch.setattr(loop, "TRIAL_SECONDS", 0)
    monkeypatch.setattr(loop, "_step_seconds", lambda network, batches, step: watched(network, next(batches), 0.0, step) and 7.0)
    seen.clear()
    slow = loop.measure_step(plan, WorkerGroup())
    assert (seen, slow.seconds) == ([2], 21.0)
    assert quick.seconds < 7
    assert slow.peak_bytes >= quick.peak_bytes
