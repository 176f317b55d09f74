"""Stride and field of a network that does not say them: measured once a file of weights, and cached."""

from __future__ import annotations

from pipeline.inputs import Catalogue
from pipeline.models import TorchModel

__all__ = ["measure_stride_and_field"]


def measure_stride_and_field(catalogue: Catalogue) -> None:
    """Measure what is not known of the catalogue's networks; later runs read the answer from the user's cache."""
    for model in catalogue.model.constituents if catalogue.images else ():
        if isinstance(model, TorchModel) and (key := model.unmeasured_key) is not None:
            from pipeline.models.networks import probe, remember_probe

            channels = model.num_channels or max(image.header.channels for image in catalogue.images)
            remember_probe(key, probe(model.load(), channels, model.fixed_size))
