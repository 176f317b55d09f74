"""The part of a bundle's card that a run over the validation images gives: scores and examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.models.bundle_files import read_spec, rewrite_card
from pipeline.storage import open_storage
from pipeline.training.examples import draw_examples
from pipeline.training.plan import TrainPlan
from pipeline.training.scores import validation_scores

__all__ = ["complete_card"]


def complete_card(plan: TrainPlan, bundle: Path, output: Path) -> None:
    """Write scores and examples into a bundle, from a run of it over the validation images.

    The same run gives the same card, so that nothing changes where this is done again. A run that is not over changes nothing.

    Args:
        plan: of the training.
        bundle: its folder.
        output: of the run: its masks and its report.json.
    """
    data = open_storage(output).get("report/report.json")
    report: dict[str, Any] = json.loads(data or b"{}")
    if report.get("state") not in ("done", "partial"):
        return
    spec = read_spec(bundle)
    files, examples = draw_examples(plan, output, report, spec.diameter)
    scores = {**validation_scores(report), "val": plan.val_words}
    amount = {"images": len(plan.train), "pixels": plan.num_pixels}
    rewrite_card(bundle, files=files, examples=examples, training_data=amount, scores={**spec.scores, "validation": scores})
