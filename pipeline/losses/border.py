"""Cross-entropy with the border weights of U-Net."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from pipeline.losses.cross_entropy import CrossEntropy

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["Border"]


class Border(CrossEntropy):
    """Cross-entropy in which pixels between two instances weigh more, so that touching cells part (Ronneberger et al. 2015).

    A pixel weighs ``class weight + w0 exp(-(d1 + d2)^2 / (2 sigma^2))`` (equations 1 and 2), where d1 and d2 are the distances
    to the nearest and to the second nearest instance, in pixels, 0 inside. The sum is divided by that of the weights. The truth
    must hold instance ids; without instances the loss is cross-entropy.

    Example::

        loss: {name: border, w0: 10.0, sigma: 5.0}
    """

    w0: float = Field(default=10.0, gt=0, description="what is added where two instances touch")
    sigma: float = Field(default=5.0, gt=0, description="how far the weight reaches, pixels")

    @property
    def needs_instances(self) -> bool:
        """True: the weights follow from distances to instances."""
        return True

    def weigh(self, classes_BYX: torch.Tensor, pixels_BYX: torch.Tensor) -> torch.Tensor:
        """Replace the 1 in :meth:`pixel_weights` by the weight of the class."""
        return (classes_BYX + pixels_BYX - 1) * (pixels_BYX > 0)

    def pixel_weights(self, instances_YX: NDArray[Any]) -> NDArray[np.float32]:
        """Return ``1 + w0 exp(-(d1 + d2)^2 / (2 sigma^2))``, (Y, X), exact to float32.

        Example:
            >>> Border(w0=10, sigma=1).pixel_weights(np.array([[7, 0, 9]])).astype(float).round(2).tolist()
            [[2.35, 2.35, 2.35]]
        """
        from scipy.ndimage import distance_transform_edt, find_objects

        ids, labels = np.unique(np.maximum(instances_YX, 0), return_inverse=True)
        labels_YX = labels.reshape(instances_YX.shape) + int(ids[0] != 0)
        nearest_YX, second_YX = np.full((2, *instances_YX.shape), np.inf)
        # Farther away the added weight is below the rounding error of 1.
        reach = math.ceil(self.sigma * math.sqrt(2 * math.log(max(1, self.w0 * 2**24))))
        for label, box in enumerate(find_objects(labels_YX), 1):
            window = tuple(slice(max(0, side.start - reach), side.stop + reach) for side in box)
            distance_YX = distance_transform_edt(labels_YX[window] != label)
            second_YX[window] = np.minimum(second_YX[window], np.maximum(nearest_YX[window], distance_YX))
            nearest_YX[window] = np.minimum(nearest_YX[window], distance_YX)
        weights_YX: NDArray[np.float32] = (1 + self.w0 * np.exp(-((nearest_YX + second_YX) ** 2) / (2 * self.sigma**2))).astype(np.float32)
        return weights_YX
