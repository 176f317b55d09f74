"""Draw the picture of README.md: the demo's image, its mask and its errors, side by side.

Run: ``python -m tests.benchmarks.picture``. Writes ``workflows/nuclei.png`` from a run of ``config.yaml`` in a temporary folder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import pipeline

ROOT = Path(__file__).parents[2]
SIDE = 384  # pixels of the sample that are shown
GAP = 12  # white pixels between two panels
MASK, WRONG, MISSED = (230, 25, 75), (255, 225, 25), (0, 130, 200)  # of nuclei that were found, found wrongly, not found


def panels(grey_YX: np.ndarray, mask_YX: np.ndarray, truth_YX: np.ndarray) -> list[np.ndarray]:
    """Return image, mask over image, and errors over image, each uint8 (Y, X, 3)."""
    low, high = np.percentile(grey_YX, (1, 99.5))
    grey_YX = np.clip((grey_YX - low) / (high - low), 0, 1) * 255
    image_YXC = np.repeat(grey_YX[..., None], 3, axis=2)
    outline_YX = mask_YX & ~(mask_YX & np.roll(mask_YX, 1, 0) & np.roll(mask_YX, -1, 0) & np.roll(mask_YX, 1, 1) & np.roll(mask_YX, -1, 1))
    mask_YXC, error_YXC = image_YXC.copy(), image_YXC * 0.6
    mask_YXC[mask_YX] = mask_YXC[mask_YX] * 0.6 + np.array(MASK) * 0.4
    mask_YXC[outline_YX] = MASK
    error_YXC[mask_YX & ~truth_YX], error_YXC[~mask_YX & truth_YX] = WRONG, MISSED
    return [panel.astype(np.uint8) for panel in (image_YXC, mask_YXC, error_YXC)]


def main() -> None:
    """Run the demo and draw it."""
    with tempfile.TemporaryDirectory() as folder:
        run = pipeline.run(ROOT / "config.yaml", set={"output": f"{folder}/run"})
        (name,) = run.report.per_image["name"]
        image, mask, truth = (np.asarray(one.data).squeeze()[:SIDE, :SIDE] for one in (run.image(name), run.mask(name), run.truth(name)))
    drawn = panels(image.astype(float), mask == 1, truth > 0)
    white = np.full((SIDE, GAP, 3), 255, np.uint8)
    picture = np.concatenate([part for panel in drawn for part in (panel, white)][:-1], axis=1)
    Image.fromarray(picture).quantize(128).save(ROOT / "workflows" / "nuclei.png", optimize=True)


if __name__ == "__main__":
    main()
