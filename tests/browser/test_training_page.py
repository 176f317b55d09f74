"""The page of a training, in a browser."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.config import default_colors
from pipeline.storage import LocalStorage
from pipeline.training.history import History
from pipeline.training.page import Picture, write_page
from tests.browser.checks import WINDOWS, assert_presentable
from tests.browser.runs import CLASSES, HOSTILE, draw_discs, draw_report


@pytest.fixture
def write(tmp_path):
    """Write the page of a training of 600 steps over these classes, with pictures of such names."""

    def go(classes=CLASSES, *, title="unet", facts=None, names=("well 1", "well 2")):
        report = draw_report(8, classes=classes)
        with History(tmp_path, [one["name"] for one in classes], None) as history:
            for step in range(10, 601, 10):
                loss = 2 * np.exp(-step / 150) + 0.1
                history.record_training(step, loss=loss, parts={}, rate=1e-3 * (1 - step / 700), crops_per_second=12 + step % 30 / 10)
                if step % 100 == 0:
                    history.record_validation(step, draw_report(8, classes=classes, seed=step))
        # The speed of a drawn history is drawn, too; seconds are those of the clock.
        pictures = [draw_picture(name, seed) for seed, name in enumerate(names)]
        write_page(LocalStorage(tmp_path), title=title, facts=facts or {"Steps": "600", "Seed": "0"}, report=report, pictures=pictures)
        return tmp_path / "training.html"

    return go


def draw_picture(name, seed):
    """Return a picture of discs whose prediction has moved a little."""
    rng = np.random.default_rng(seed)
    truth_YX = draw_discs(rng, 128, 10)
    image_YXC = np.clip(np.array([40, 120, 220])[truth_YX] + rng.normal(0, 8, truth_YX.shape), 0, 255).astype(np.uint8)[..., None]
    return Picture(name, image_YXC, truth_YX, np.roll(truth_YX, 4, axis=1))


@pytest.mark.parametrize("window", WINDOWS, ids=WINDOWS)
def test_it_is_presentable(open_page, write, window) -> None:
    """In wide and narrow windows, light and dark, it looks as it should, and hinders nobody."""
    assert_presentable(open_page(write(), alone=True, **WINDOWS[window]), f"training-{window}")


def test_hostile_names_are_shown(open_page, write) -> None:
    """Names of classes, images and facts are text, whatever they hold."""
    names = list(HOSTILE.values())
    classes = [{"name": name, "color": color} for name, color in zip(names, default_colors(len(names)), strict=True)]
    page = open_page(write(classes, title=HOSTILE["tags"], facts={HOSTILE["quotes"]: HOSTILE["tags"]}, names=names), alone=True)
    assert page.evaluate("window.ran") is None
    text = page.locator("body").text_content()
    assert not [name for name in names if name not in text]
