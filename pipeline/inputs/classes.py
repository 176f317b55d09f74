"""The classes of a run: their ids, names and colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.config import Config, default_colors
from pipeline.errors import Problem
from pipeline.models import Model

__all__ = ["resolve_classes"]


def resolve_classes(config: Config, model: Model) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Return the classes that the YAML lists, else the model's, else numbered ones; and what is wrong with them.

    Returns:
        ``{"id", "name", "color"}`` of each class, in the order of the ids; the problems.
    """
    named: Sequence[Mapping[str, Any]] = [spec.model_dump() for spec in config.classes] if config.classes else model.class_list
    named = named or [{"name": f"class {k}"} for k in range(model.num_classes)]
    problems = []
    if len(named) != model.num_classes:
        fix = "List as many classes as the model predicts."
        problems.append(Problem("classes", f"{len(named)} classes", f"{model.num_classes}, as {config.model['name']} predicts", fix))
    colors = default_colors(len(named))
    classes = [{"id": k, "name": spec["name"], "color": spec.get("color") or colors[k]} for k, spec in enumerate(named)]
    return classes, problems
