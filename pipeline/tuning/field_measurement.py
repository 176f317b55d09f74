"""Measuring stride and field of networks that do not say them, as far as a run needs them and for a share of its time at most."""

from __future__ import annotations

import math

from pipeline.inputs import Catalogue
from pipeline.models import TorchModel
from pipeline.system import say
from pipeline.tuning.compute_choice import num_gpus

__all__ = ["measure_stride_and_field", "will_measure"]


def measure_stride_and_field(catalogue: Catalogue, *, wants_field: bool | None = None, is_limited: bool = True) -> None:
    """Measure what is not known; later runs read the answer from the user's cache.

    Args:
        catalogue: of the run.
        wants_field: whether the field is measured; None: where nothing says the halo of the run.
        is_limited: whether the field may stay unknown where it takes long, as :func:`pipeline.models.networks.probe` limits it.
    """
    run_pixels = _limiting_pixels(catalogue) if is_limited else math.inf
    for model, key, what in _unmeasured(catalogue, wants_field, run_pixels):
        from pipeline.models.network_files import measure_network
        from pipeline.models.networks import recall_kept, remember_probe

        later = "later runs know them" if len(what) > 1 else "later runs know it"
        say(f"measuring {' and '.join(what)} of {model.files()[0].name} (once; {later})")
        known = recall_kept(key)
        channels = model.num_channels or max(image.header.channels for image in catalogue.images)
        stride = known.stride if known else None
        found = measure_network(model, channels, stride=stride, wants_field="field" in what, run_pixels=run_pixels)
        remember_probe(key, found)


def will_measure(catalogue: Catalogue) -> list[str]:
    """Return what is measured when the run begins: ``stride``, ``field``, both or neither."""
    found = {name for _, _, what in _unmeasured(catalogue, None, _limiting_pixels(catalogue)) for name in what}
    return [name for name in ("stride", "field") if name in found]


def _unmeasured(catalogue: Catalogue, wants_field: bool | None, run_pixels: float) -> list[tuple[TorchModel, str, list[str]]]:
    """Networks to measure, each with the key of its measurement and what is measured of it."""
    from pipeline.models.networks import recall_kept

    wants_field = _needs_field(catalogue) if wants_field is None else wants_field
    found = []
    for model in catalogue.model.constituents if catalogue.images else ():
        if isinstance(model, TorchModel) and (key := model.unmeasured_key) is not None:
            known = recall_kept(key)
            is_wanted = wants_field and not model.has_field and (known is None or known.is_worth_more(run_pixels))
            what = ["stride"] * (not model.has_stride) + ["field"] * is_wanted
            found += [(model, key, what)] if what else []
    return found


def _needs_field(catalogue: Catalogue) -> bool:
    """Whether the field decides the halo: neither the YAML nor the model says the halo, or the core that leaves it of a fixed size."""
    tiling, model = catalogue.config.tiling, catalogue.model
    return tiling.halo == "auto" and "halo" not in model.tile and not (model.fixed_size and tiling.core != "auto")


def _limiting_pixels(catalogue: Catalogue) -> float:
    """Pixels of the run that limit a measurement; none where a GPU computes them so fast that a share of them takes longer here."""
    compute = catalogue.config.compute
    on_gpu = catalogue.model.uses_gpu and (compute.device == "cuda" or (compute.device == "auto" and num_gpus() > 0))
    return 0 if on_gpu else catalogue.pixels
