"""Models: tiles in, class scores or classes out.

Two kinds share one engine. A :class:`Model` brings its own ``open`` (thresholds, k-means, ...); a
:class:`TorchModel` only loads a torch module, and the backend that the recipe names runs it. Most are a
:class:`Network`: the module is built here, its weights are a file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, Strict

from pipeline.config import Recipe
from pipeline.models._orientations import TTA, Orientations
from pipeline.models._predictor import Predict, Predictor, as_predictor
from pipeline.plugins import Plugin, build

if TYPE_CHECKING:
    from torch import nn

    from pipeline.models.networks import Shapes
    from pipeline.statistics import Fitter

__all__ = ["Model", "Network", "Predict", "Predictor", "TorchModel", "as_predictor", "num_parameters"]


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
        """How far, in pixels, an input pixel can be outside a cell of ``stride`` x ``stride`` pixels and still change the cell's output.

        Cores are whole cells, so a halo of at least this is exact. None: not finite, or not known.
        """
        return None

    @property
    def margin(self) -> int:
        """Pixels that ``predict`` takes off every side of a tile at most (valid padding); a smaller halo is refused."""
        return 0

    @property
    def fixed_size(self) -> int | None:
        """Side of the only tile that the model takes, core and both halos, pixels; None: any multiple of ``stride``."""
        return None

    @property
    def uses_gpu(self) -> bool:
        """Whether there is anything for a GPU to do."""
        return False

    @property
    def takes_backend(self) -> bool:
        """Whether ``compute.backend`` decides what runs it."""
        return False

    @property
    def allows_bf16(self) -> bool:
        """Whether ``precision: auto`` may choose a 16-bit type for this model."""
        return self.gives_scores

    @property
    def gives_scores(self) -> bool:
        """Whether ``predict`` returns logits, so that blending, probs and cross-entropy are possible."""
        return False

    @property
    def takes_normalize(self) -> bool:
        """Whether the YAML's ``normalize`` means anything to this model."""
        return False

    @property
    def takes_ids(self) -> bool:
        """Whether pixels are class ids already, so that a block with anything else fails."""
        return False

    @property
    def class_list(self) -> Sequence[Mapping[str, Any]]:
        """Classes that the model itself names, as in the YAML's ``classes``; empty when it names none."""
        return ()

    @property
    def normalize(self) -> Any:
        """The normalisation that the model asks for, as in the YAML's ``normalize``; None: raw values."""
        return None

    @property
    def tile(self) -> Mapping[str, int]:
        """``core`` and ``halo`` that the model was measured with, pixels; empty when nobody has measured."""
        return {}

    @property
    def pixel_size(self) -> float | None:
        """Pixel size that the model was trained at: micrometres, metres for maps; None: not known."""
        return None

    @property
    def constituents(self) -> Sequence[Model]:
        """The models that run: itself, or those whose scores it joins."""
        return (self,)

    def files(self) -> Sequence[Path]:
        """Files that the model is made of; they are hashed into the block key and must exist."""
        return ()

    def check(self) -> None:
        """Prove, once when a run begins, that the model does what its makers say of it; most have nothing to compare with.

        Raises:
            InputError: it does something else.
        """

    def fitter(self) -> Fitter | None:
        """What the fit phase gathers over a whole image before it is predicted; None: nothing."""
        return None

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Bytes that ``predict`` needs at its peak for one tile, above the loaded model."""
        height, width = tile
        return height * width * (channels * 4 + self.num_classes * 8)

    @abstractmethod
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> AbstractContextManager[Predict]:
        """Load what predicts; written by a plug-in, called through :meth:`predictor`. The context yields :data:`Predict`.

        Args:
            recipe: backend, device, precision and threads to use.
            normalize: fixed ``{"mean": [..], "std": [..]}`` in raw units; None: raw values, or per image by ``fit["normalize"]``.
        """

    @contextmanager
    def predictor(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predictor]:
        """Open the model, once an actor; takes what :meth:`open` takes."""
        with self.open(recipe, normalize) as predict:
            yield as_predictor(predict)


class TorchModel(Model):
    """A model that is a torch module; the recipe's backend runs it."""

    tta: TTA = Field(default="none", description="test-time augmentation: none, flips (4 passes), d4 (flips and quarter turns, 8)")

    @property
    def gives_scores(self) -> bool:
        """Networks return logits."""
        return True

    @property
    def uses_gpu(self) -> bool:
        """Networks are what GPUs are for."""
        return True

    @property
    def takes_backend(self) -> bool:
        """Backends run torch modules."""
        return True

    @property
    def takes_normalize(self) -> bool:
        """Networks are fed normalised values."""
        return True

    @property
    def unmeasured(self) -> str | None:
        """Key under which a measured stride and field are kept; None where both are known, or the file is missing."""
        return None

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """A guess, for networks that do not say better: 128 float32 feature maps of the tile's size at the widest moment."""
        height, width = tile
        return height * width * 4 * (channels + 128 + 2 * self.num_classes)

    @abstractmethod
    def load(self) -> nn.Module:
        """Return the module with its weights: float32 (N, C, H, W) in, logits (N, K, H, W) out.

        Raises:
            InputError: the file is missing, damaged or does not fit.
        """

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predictor]:
        """Load the network into the recipe's backend."""
        backend = build("backends", {"name": recipe.backend})
        with backend.open(self.load(), recipe, normalize) as predict:
            predictor = as_predictor(predict)
            yield predictor if self.tta == "none" else Orientations(predictor, self.tta)


class Network(TorchModel):
    """A torch module that is built here, with weights from a file."""

    weights: Annotated[Path, Strict(strict=False)] | None = Field(
        default=None, description="a .safetensors file; null: random weights of the seed"
    )
    seed: int = Field(default=0, description="of the random weights, where no file is given")

    def files(self) -> Sequence[Path]:
        """The weights file."""
        return (self.weights,) if self.weights else ()

    @classmethod
    def guesses(cls, shapes: Shapes) -> Iterable[dict[str, Any]]:
        """Read options off the tensors of a file of weights, for the message where a file belongs to another network.

        Args:
            shapes: of the file's tensors, by name.

        Returns:
            Options under which this network may have such tensors, the likeliest first; nothing where the names are not its own.
        """
        del shapes
        return ()

    @abstractmethod
    def build(self) -> nn.Module:
        """Build the module, without weights; torch is imported here and not before."""

    def load(self) -> nn.Module:
        """Build the module and give it its weights.

        Raises:
            InputError: keys or shapes of the file do not match the module; the first few are named.
        """
        from pipeline.models.networks import load_weights

        return load_weights(self.build, self.weights, self.seed)


def num_parameters(model: Model) -> int:
    """Count the trainable parameters; a :class:`Network` is built without memory for its weights, others are loaded.

    Raises:
        InputError: the model cannot be loaded.

    Example:
        >>> num_parameters(build("models", {"name": "histogram"}))
        0
    """
    if not isinstance(model, TorchModel):
        return 0
    import torch

    if isinstance(model, Network):
        with torch.device("meta"):
            module = model.build()
    else:
        module = model.load()
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
