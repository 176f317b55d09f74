"""List models and trained bundles, each with its options; describe one model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, printable
from pipeline.models.bundle_files import card_of, list_bundles, parse_model, read_spec, summary_of
from pipeline.plugins import available, build, find
from workflows.model_card import in_words, print_card
from workflows.plugins import describe_plugin, print_rows

if TYPE_CHECKING:
    from pipeline.models import Model

__all__ = ["describe_model", "list_models"]

TRUST = "needed to load the file, which can run any code; a run takes --set model.trust=true"


def list_models(*, as_json: bool = False) -> int:
    """Print the models as readers and writers are listed, then the bundles that can be named without a path. Returns 0."""
    print_rows([*(describe_plugin("models", name) for name in available("models")), *describe_bundles()], as_json=as_json)
    return 0


def describe_bundles() -> list[dict[str, Any]]:
    """Describe every bundle that ships or lies on GIGASEG_MODELS; the summary of a damaged one says what is wrong."""
    rows = []
    for name, folder in list_bundles().items():
        row: dict[str, Any] = {"name": name, "options": {}, "folder": str(folder)}
        try:
            spec = read_spec(folder)
            card = card_of(spec)
            rows.append({**row, "summary": printable(f"bundle of {spec.architecture.get('name')}: {summary_of(card)}"), "card": card})
        except InputError as error:
            rows.append({**row, "summary": str(error)})
    return rows


def describe_model(text: str, *, measure: bool = False, as_json: bool = False) -> int:
    """Print the card of one model, its size and how far its inputs reach, by experiment where it is to be measured. Returns 0.

    A file that may run code is not loaded without ``trust: true``: what it and the YAML beside it declare is printed.

    Raises:
        InputError: there is no such model, bundle, file or mapping as in the YAML, or its options are wrong.
    """
    where = "--probe" if measure else "--describe"
    spec = parse_model(text, where)
    is_closed = not measure and needs_trust(spec, where)
    model: Model = build("models", {**spec, "trust": True} if is_closed else spec, where)
    require_file(model)
    facts = {
        **({"trust": TRUST} if is_closed else parameters_of(model)),
        "stride": model.stride,
        "field": model.field,
        "channels": model.num_channels,
        "classes": model.num_classes,
        **objects_of(model),
        **(measured(model) if measure else {}),
    }
    expected, card = trained_on(model), dict(model.card)
    if as_json:
        print(json.dumps({**facts, **expected, **({"card": card, **files_of(model)} if card else {})}, indent=2))
        return 0
    if card:
        print_card(text, card, {**facts, **files_of(model)})
        return 0
    for name, value in {**facts, **expected}.items():
        print(f"{name:<14}{in_words(value)}")
    return 0


def require_file(model: Model) -> None:
    """Refuse a file of a network that is not there: only options would be described."""
    from pipeline.models.network_files import NetworkFile

    if isinstance(model, NetworkFile):
        model.require_file()


def parameters_of(model: Model) -> dict[str, Any]:
    """Count the trainable parameters of a model; nothing of a graph, such as an ONNX file, whose weights are constants."""
    from pipeline.models import num_parameters
    from pipeline.models.network_files import NetworkFile

    number = num_parameters(model)
    return {} if not number and isinstance(model, NetworkFile) else {"parameters": number}


def files_of(model: Model) -> dict[str, Any]:
    """Return the folder of a model's files that are there, and their bytes in all."""
    paths = [path for path in model.files() if path.is_file()]
    return {"folder": str(paths[0].parent), "bytes": sum(path.stat().st_size for path in paths)} if paths else {}


def needs_trust(spec: Mapping[str, Any], where: str) -> bool:
    """Whether a model is a file that may run code, and nobody has vouched for it."""
    from pipeline.models.network_files import TrustedFile

    return issubclass(find("models", str(spec.get("name")), f"{where}.name"), TrustedFile) and not spec.get("trust")


def objects_of(model: Model) -> dict[str, Any]:
    """Return what the model declares about objects: its maps with their numbers of channels, and the method; without what is empty."""
    facts = {"maps": dict(model.maps), "instances": model.instances}
    return {name: value for name, value in facts.items() if value}


def trained_on(model: Model) -> dict[str, Any]:
    """Return the model's declarations about its training images, without unknown ones."""
    expects = model.expects
    size = {} if expects.pixel_size is None else {"pixel_size": expects.pixel_size, "unit": expects.unit}
    samples = {"samples": expects.dtype, "range": expects.range} if expects.dtype else {}
    facts = {**size, "diameter": expects.diameter, **samples, "channel_names": expects.channel_names, "kinds": expects.kinds}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in facts.items() if value}


def measured(model: Model) -> dict[str, Any]:
    """Measure stride and field, in pixels; nothing for a model that is no network."""
    from pipeline.models import TorchModel
    from pipeline.models.network_files import measure_network
    from pipeline.models.networks import remember_probe

    if not isinstance(model, TorchModel):
        return {}
    found = measure_network(model, model.num_channels or 1)
    if model.unmeasured_key:
        remember_probe(model.unmeasured_key, found)
    return {"stride": found.stride, "field": found.field}
