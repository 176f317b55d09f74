"""What is wrong with the options of a network's file: they contradict the file, the YAML beside it, or each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import Problem, one_of
from pipeline.models.bundle_files import channel_problems, instances_problems
from pipeline.models.network_files.card_file import card_file, misnamed_card
from pipeline.models.network_files.named_outputs import METHODS, Outputs, method_of, suggested_outputs

if TYPE_CHECKING:
    from pipeline.models.network_files.network_file import NetworkFile

__all__ = ["problems_of_file"]


def problems_of_file(model: NetworkFile) -> list[Problem]:
    """Return every problem of the options and of the YAML beside the file; what rests on wrong ones is not looked at."""
    if card_file(model.path) is None and (misnamed := misnamed_card(model.path)):
        expected = f"{Path(str(model.path)).name}.yaml"
        way_out = "Rename it, or keep it elsewhere if it is not about this file."
        return [Problem(str(misnamed), "a YAML beside the file of a network, under a name that is not read", expected, way_out)]
    return [*_fact_problems(model), *_output_problems(model)] or [*_card_problems(model)]


def _fact_problems(model: NetworkFile) -> Iterator[Problem]:
    """Yield options that contradict what the file of the network declares."""
    facts, card = model.facts, model.declared
    options = [
        ("channels", model.channels, card.channels, facts.channels),
        ("size", model.given_size, card.size, facts.size),
    ]
    if model.outputs is None:
        # One channel separates two classes.
        options += [
            ("classes", model.classes, None, facts.classes),
            ("classes", None, len(card.classes), facts.classes and max(facts.classes, 2)),
        ]
    if (side := model.fixed_size) and 2 * model.margin >= side:
        yield Problem(_where(model, "margin", model.given_margin), str(model.margin), f"less than half of the size, {side}")
    for name, option, said, found in options:
        if found and (option or said) and (option or said) != found:
            yield Problem(_where(model, name, option), str(option or said), f"{found}, as {model.path} says")


def _output_problems(model: NetworkFile) -> list[Problem]:
    """Return what is wrong with ``outputs``, or with leaving it out."""
    facts = model.facts
    if model.outputs is None:
        found = suggested_outputs(list(facts.tensors.items()))
        way_out = f"Name the channels in model.outputs{f', as in {found}' if found else ''}."
        several = (
            [Problem(str(model.path), f"{facts.num_outputs} outputs", "one tensor of logits", way_out)] if facts.num_outputs > 1 else []
        )
        return several + (
            [Problem(_where(model, "grid", model.given_grid), str(model.grid), "1 without outputs")] if model.grid > 1 else []
        )
    where = _where(model, "outputs", model.given_outputs)
    try:
        chosen = model.chosen_outputs
    except ValueError as error:
        return [Problem(where, str(model.outputs), str(error))]
    assert chosen is not None
    problems = [*_tensor_problems(model, chosen, where), *_class_problems(model, chosen)]
    last = max(channels[-1] for channels in chosen.channels.values())
    if not chosen.tensors and facts.classes is not None and last >= facts.classes:
        problems.append(Problem(where, f"channel {last}", f"0..{facts.classes - 1}, as {model.path} says"))
    return problems


def _tensor_problems(model: NetworkFile, chosen: Outputs, where: str) -> Iterator[Problem]:
    """Yield problems of tensors that are named."""
    declared, needed = model.facts.tensors, METHODS[method_of(model.outputs or {}) or ""]
    for (name, at), (tensor, count) in zip(chosen.channels.items(), chosen.tensors.items(), strict=False):
        if declared and tensor not in declared:
            yield Problem(where, repr(tensor), one_of(list(declared)), f"{model.path} names its outputs so.")
        elif declared.get(tensor) not in (None, count):
            yield Problem(where, f"{count} channels in {tensor}", f"{declared[tensor]}, as {model.path} says")
        elif not needed[name].least <= len(at) <= (needed[name].most or len(at)):
            yield Problem(
                where,
                f"{tensor}, a tensor of {len(at)} channels",
                f"{needed[name].size} channel{'' if needed[name].most == 1 else 's'} for {name}",
            )


def _class_problems(model: NetworkFile, chosen: Outputs) -> Iterator[Problem]:
    """Yield a problem where the number of classes is not that of the outputs."""
    given, found = model.classes or len(model.declared.classes) or None, chosen.num_classes
    expected = max(found or 2, 2)
    if given is not None and max(given, 2) != expected:
        reason = "as outputs has as many channels of classes" if found else "background and object, as model.outputs is set"
        yield Problem(_where(model, "classes", model.classes), str(given), f"{expected}, {reason}")


def _card_problems(model: NetworkFile) -> Iterator[Problem]:
    """Yield what does not fit together in the YAML beside the file."""
    card = model.declared
    names = [str(named["name"]) for named in model.class_list] or [f"class {number}" for number in range(model.num_classes)]
    for problem in (*channel_problems(card, model.num_channels), *instances_problems(card, names, model.maps)):
        key = "outputs" if problem.where == "maps" else problem.where
        yield replace(problem, where=f"{model.path}.yaml: {key}")
    if model.range is not None and (card.samples is None or card.samples.range is None or not model.range[0] < model.range[1]):
        yield Problem("model.range", str(list(model.range)), "[least, greatest], for a model whose YAML says the range of its samples")


def _where(model: NetworkFile, key: str, option: object) -> str:
    """Return where a key was set: among the options, or in the YAML beside the file."""
    is_beside = option is None and key in model.declared.model_fields_set
    return f"{model.path}.yaml: {key}" if is_beside else f"model.{key}"
