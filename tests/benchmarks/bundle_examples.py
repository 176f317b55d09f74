"""Write the part of a shipped bundle's card that is measured: scores with intervals, and example pictures.

Run it when the weights of a bundle are final, with the data that it was trained on::

    GIGASEG_TEST_DATA=FOLDER python -m tests.benchmarks.bundle_examples aerial-buildings

It runs the bundle over the validation images of its training, as ``gigaseg train`` does in the end, and changes ``examples``,
``training_data`` and ``scores.validation`` of its model.yaml. A training does the same for its own bundle; this is for a bundle that was
made in several steps.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from pipeline.models.bundle_files import find_bundle
from pipeline.records import RunFolder
from pipeline.training.bundle_card import complete_card
from pipeline.training.dataset_scan import scan_dataset
from pipeline.training.output_files import write_regions
from pipeline.training.result import VALIDATION, validation_run
from tests.shipped import DATASETS, training_of
from workflows.run import run_config


def write_card(name: str, bundle: Path) -> None:
    """Run a bundle over the validation images of the training of a shipped bundle, and write what was measured into it."""
    with tempfile.TemporaryDirectory() as scratch:
        plan = training_of(name, Path(scratch))
        folder = RunFolder(plan.config.output)
        folder.storage.make()
        if plan.config.region_share is not None:
            plan = scan_dataset(plan)
            write_regions(plan)
        if run_config(validation_run(plan, folder, bundle)):
            raise SystemExit("some validation images failed; the bundle is as it was")
        complete_card(plan, bundle, plan.config.output / VALIDATION)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", choices=DATASETS, help="whose training says which images validate")
    parser.add_argument("--bundle", type=Path, help="folder of the bundle; default: the shipped one of that name")
    options = parser.parse_args()
    bundle = options.bundle or find_bundle(options.name)
    write_card(options.name, bundle)
    print((bundle / "model.yaml").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
