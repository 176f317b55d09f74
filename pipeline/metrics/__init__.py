"""Metrics: pure functions of summed counts, so that a report never needs a pixel twice."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pipeline.plugins import Plugin
from pipeline.statistics import Counts

__all__ = ["Metric"]


class Metric(Plugin):
    """Base of the metrics."""

    @abstractmethod
    def compute(self, counts: Counts) -> dict[str, Any]:
        """Turn counts into report fields.

        Args:
            counts: summed over an image or over all images.

        Returns:
            Fields of ``report.json``: scalars by name, and under ``classes`` one mapping a class with its
            fields by name. A value that is not defined is None, never 0.
        """
