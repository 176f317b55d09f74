"""Which GPUs a process may use, by the kernel's list and CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import pytest

from pipeline.tuning import gpus


@pytest.mark.parametrize(
    ("visible", "wanted"), [(None, 3), ("", 0), ("-1", 0), ("1", 1), ("0,2", 2), ("0,-1,2", 1), ("GPU-1f,GPU-2e", 2), ("0,1,2,3,4", 3)]
)
def test_visible_gpus_are_counted(tmp_path, monkeypatch, visible, wanted):
    """All cards where nothing is said, else those that are named, up to the first that is none, and never more than there are."""
    for card in ("0000:00:06.0", "0000:00:07.0", "0000:00:08.0"):
        (tmp_path / card).mkdir()
    monkeypatch.setattr(gpus, "CARDS", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus.num_gpus() == wanted


def test_a_machine_without_the_driver_has_none(tmp_path, monkeypatch):
    """No list, no GPU, whatever the environment says."""
    monkeypatch.setattr(gpus, "CARDS", tmp_path / "missing")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert gpus.num_gpus() == 0
