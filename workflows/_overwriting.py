"""What a run may not write over: its images, their truth, and files that no run has written."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline import records
from pipeline.inputs import Catalogue
from pipeline.records import RunFolder

__all__ = ["refuse_overwriting"]


def refuse_overwriting(catalogue: Catalogue, folder: RunFolder, outputs: Iterable[str]) -> None:
    """Refuse a run that would write over an image, a truth, or what was in the output folder before any run.

    Args:
        catalogue: what is read.
        folder: where the run writes.
        outputs: what it writes there, relative paths.

    Raises:
        InputError: the first few problems.
    """
    records.refuse_overwriting(
        folder.path,
        catalogue.config.where("output"),
        reads=[path for image in catalogue.images for path in (image.path, image.truth) if path],
        outputs=["log.txt", *sorted(outputs)],
        command="run",
        is_begun=(folder.path / "run.json").exists() or folder.ledger.exists(),
    )
