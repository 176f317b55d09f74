"""Metrics: pure functions of summed counts, so that a report needs no pixels.

Owns: the report's fields that follow from counts.
May import: statistics and base modules. Never touches: pixels, files.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from pipeline.plugins import Plugin
from pipeline.statistics import Counts, ObjectCounts

__all__ = ["Metric"]


class Metric(Plugin):
    """Base of the metrics."""

    @abstractmethod
    def compute(self, counts: Counts, objects: Mapping[int, ObjectCounts] | None = None) -> dict[str, Any]:
        """Turn counts, summed over an image or over all images, into fields of ``report.json``.

        Args:
            counts: of pixels.
            objects: of objects, by class id; None: no objects were counted.

        Returns:
            Scalars by name, and under ``classes`` one mapping for each class. A value that is not defined is None, never 0.
        """
