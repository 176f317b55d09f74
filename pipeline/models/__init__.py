"""Models: tiles in, class scores or classes out.

Two kinds share one engine. A :class:`Model` brings its own ``open`` (thresholds, k-means, ...); a
:class:`Network` only builds a torch module, and the backend that the recipe names runs it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, Strict

from pipeline.plugins import Plugin, build
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from pipeline.fits import Fit, Fitter

__all__ = ["Model", "Network", "Predict"]

Predict = Callable[[Any, Sequence["Fit"]], Any]
"""``predict(pixels_BCYX, fits)``.

Args:
    pixels_BCYX: raw values as stored (no normalisation), numpy; B tiles of one size, each a multiple of ``stride``.
    fits: B mappings, what the fit phase found for each tile's image.

Returns:
    Logits (B, K, Y, X), float, numpy or torch; or classes (B, Y, X), unsigned integers, where the
    model decides itself. Y and X may be smaller than the input by the same margin on opposite
    sides (valid padding); the centre is meant.
"""


class Model(Plugin):
    """Base of everything that segments."""

    @property
    def num_classes(self) -> int:
        """K, the number of classes in the mask, at least 2."""
        raise TypeError(f"{type(self).__name__} must define num_classes")

    @property
    def num_channels(self) -> int | None:
        """Channels that the input must have; None: any."""
        return None

    @property
    def stride(self) -> int:
        """Total stride: core and halo are rounded up to its multiples, so that every tile origin is one."""
        return 1

    @property
    def field(self) -> int | None:
        """How far, in pixels, an input pixel can be from the output pixels it changes; None: not finite or not known."""
        return None

    @property
    def gives_scores(self) -> bool:
        """Whether ``predict`` returns logits, so that blending, probs and cross-entropy are possible."""
        return False

    @property
    def takes_normalize(self) -> bool:
        """Whether the YAML's ``normalize`` means anything to this model."""
        return False

    @property
    def class_list(self) -> Sequence[Mapping[str, Any]]:
        """Classes that the model itself names, as in the YAML's ``classes``; empty when it names none."""
        return ()

    @property
    def normalize(self) -> Any:
        """The normalisation that the model asks for, as in the YAML's ``normalize``; None: raw values."""
        return None

    def files(self) -> Sequence[Path]:
        """Files that the model is made of; they are hashed into the block key and must exist."""
        return ()

    def fitter(self) -> Fitter | None:
        """What the fit phase gathers over a whole image before it is predicted; None: nothing."""
        return None

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Bytes that ``predict`` needs at its peak for one tile, above the loaded model."""
        height, width = tile
        return height * width * (channels * 4 + self.num_classes * 8)

    @abstractmethod
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> AbstractContextManager[Predict]:
        """Load once an actor; the context yields :data:`Predict`.

        Args:
            recipe: backend, device, precision and threads to use.
            normalize: fixed ``{"mean": [..], "std": [..]}`` in raw units; None: raw values, or per image by ``fit["normalize"]``.
        """


class Network(Model):
    """A model that is a torch module; the recipe's backend runs it."""

    weights: Annotated[Path, Strict(strict=False)] | None = Field(default=None, description="a .safetensors file; null: random weights of the seed")
    seed: int = Field(default=0, description="of the random weights, where no file is given")

    @property
    def gives_scores(self) -> bool:
        """Networks return logits."""
        return True

    @property
    def takes_normalize(self) -> bool:
        """Networks are fed normalised values."""
        return True

    def files(self) -> Sequence[Path]:
        """The weights file."""
        return (self.weights,) if self.weights else ()

    @abstractmethod
    def build(self) -> nn.Module:
        """Build the module, without weights; torch is imported here and not before."""

    def load(self) -> nn.Module:
        """Build the module and give it its weights.

        Raises:
            InputError: keys or shapes of the file do not match the module; the first few are named.
        """
        from pipeline.models._weights import load_weights

        return load_weights(self.build, self.weights, self.seed)

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predict]:
        """Load the network into the recipe's backend."""
        backend = build("backends", {"name": recipe.backend})
        with backend.open(self.load(), recipe, normalize) as predict:
            yield predict
