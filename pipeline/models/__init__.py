"""Models: tiles in, class scores or class ids out. One file is one name under the YAML's ``model``.

Owns: the base classes, what an opened model is, and in its packages what the files share. May import: tiling, statistics and below.
Never touches: images, blocks, runs. A backend opens a :class:`TorchModel`; any other :class:`Model` brings its own ``open``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from pipeline.config import Recipe
from pipeline.errors import InputError, Problem, one_of
from pipeline.models._expectation import Expectation
from pipeline.models._network_key import network_key, packages_of
from pipeline.models._predictors import TTA, PredictFunction, Predictor, as_predictor, augmented
from pipeline.plugins import Plugin, build
from pipeline.storage import fetch, file_sha256

if TYPE_CHECKING:
    from torch import nn

    from pipeline.models.networks import Shapes
    from pipeline.statistics import Fitter

__all__ = [
    "Expectation",
    "Model",
    "Network",
    "PredictFunction",
    "Predictor",
    "TorchModel",
    "as_predictor",
    "fact_of",
    "network_key",
    "num_parameters",
    "packages_of",
]


def fact_of(path: str) -> Any:
    """Return a property that reads a fact off another object, such as ``architecture.stride``; its annotation is a ClassVar."""
    return property(attrgetter(path))


TURNING_MAPS = ("distances", "flows", "horizontal_vertical")
"""Maps whose values depend on the orientation of the image, so that they cannot be averaged over orientations."""


class Model(Plugin):
    """Base of every model. Its properties are known before anything is loaded."""

    _asked_maps: tuple[str, ...] = ()  # the maps that predictions hold, in the order of their channels: see `giving`

    @classmethod
    def implied_options(cls, options: Mapping[str, Any], yaml: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``classes`` from the YAML's list, for a model with that option, so that nobody writes the number twice."""
        del options
        listed = yaml.get("classes")
        return {"classes": len(listed)} if "classes" in cls.model_fields and isinstance(listed, list) and len(listed) > 1 else {}

    @property
    def num_classes(self) -> int:
        """K, the number of classes in the mask, at least 2."""
        raise TypeError(f"{type(self).__name__} must define num_classes")

    @property
    def num_channels(self) -> int | None:
        """Channels that the image must have; None: any number."""
        return None

    @property
    def stride(self) -> int:
        """Total stride, pixels. Core and halo are rounded up to multiples of it, so that every tile starts at a multiple."""
        return 1

    @property
    def field(self) -> int | None:
        """How far outside a cell of ``stride`` x ``stride`` pixels an input pixel can lie and still change the cell's output, pixels.

        Cores are whole cells, so a halo of at least this is exact. None: not finite, or not known.
        """
        return None

    @property
    def margin(self) -> int:
        """Pixels that a prediction loses on every side of a tile at most (valid padding); a smaller halo is refused."""
        return 0

    @property
    def fixed_size(self) -> int | None:
        """Side of the only tile size that the model takes, core and both halos, pixels; None: any multiple of ``stride``."""
        return None

    @property
    def uses_gpu(self) -> bool:
        """Whether the model computes faster on a GPU."""
        return False

    @property
    def takes_backend(self) -> bool:
        """Whether a backend runs the model, so that ``compute.backend`` applies."""
        return False

    @property
    def allows_bf16(self) -> bool:
        """Whether ``precision: auto`` may choose a 16-bit type for this model."""
        return self.gives_scores

    @property
    def tries_bf16(self) -> bool:
        """Whether a trial may choose bf16 in a backend that keeps the network's own casts, for a model that is else computed in float32."""
        return False

    @property
    def gives_scores(self) -> bool:
        """Whether predictions are logits, so that blending, probabilities and cross-entropy are possible; else they are class ids."""
        return False

    @property
    def takes_normalize(self) -> bool:
        """Whether the YAML's ``normalize`` applies to this model."""
        return False

    @property
    def takes_ids(self) -> bool:
        """Whether the image holds class ids already, so that a block with any other value fails."""
        return False

    @property
    def class_list(self) -> Sequence[Mapping[str, Any]]:
        """Classes that the model names, as in the YAML's ``classes``; empty where it names none."""
        return ()

    @property
    def maps(self) -> Mapping[str, int]:
        """Outputs that the model can give besides class scores, such as distances: number of channels by name."""
        return {}

    @property
    def instances(self) -> Mapping[str, Any] | None:
        """The method that tells its objects apart, as in the YAML's ``instances``; None: it declares none."""
        return None

    @property
    def normalize(self) -> Any:
        """The normalisation that the model asks for, as in the YAML's ``normalize``; None: raw values."""
        return None

    @property
    def tile(self) -> Mapping[str, int]:
        """``core`` and ``halo`` that the model was measured with, pixels; empty where it was not measured."""
        return {}

    @property
    def title(self) -> str:
        """What messages call the model."""
        return type(self).__name__.lower()

    @property
    def expects(self) -> Expectation:
        """The images that the model was trained on."""
        return Expectation()

    @property
    def licence(self) -> str:
        """Licence of the weights; empty: not known."""
        return ""

    @property
    def citation(self) -> str:
        """What to cite for the model; empty: not known."""
        return ""

    @property
    def card(self) -> Mapping[str, Any]:
        """What the model says of itself to people, as plain JSON, by the keys of a bundle's ``model.yaml``; empty: it has no card."""
        return {}

    def example_files(self) -> Sequence[Path]:
        """Return the small pictures of what the model does that its card lists, as far as they are there; most models have none."""
        return ()

    @property
    def constituents(self) -> Sequence[Model]:
        """The models that compute scores: the model itself, or those whose scores it joins."""
        return (self,)

    def files(self) -> Sequence[Path]:
        """Return the files that the model is made of; they must exist, and their hashes are part of the block key."""
        return ()

    def file_hashes(self) -> Sequence[str]:
        """Return the SHA-256 of each of :meth:`files`, in their order; of a file that holds more, that of what masks depend on."""
        return [file_sha256(path) for path in self.files()]

    def check(self) -> None:
        """Compare the model with the test data that come with it, once when a run begins; most models have none.

        Raises:
            InputError: the model computes something else.
        """

    def fitter(self) -> Fitter | None:
        """Return what gathers the statistics of a whole image in the fit phase; None: the model needs none."""
        return None

    def map_problems(self, maps: Sequence[str]) -> list[Problem]:
        """Return why the model cannot give some maps; empty: it can."""
        if all(name in self.maps for name in maps):
            return []
        known = f"a model that gives {one_of(list(self.maps))} besides classes" if self.maps else "a model that gives classes alone"
        return [Problem("model", known, f"one that gives {', '.join(maps)}")]

    def giving(self, maps: Sequence[str]) -> Self:
        """Return a copy of the model whose predictions hold the channels of some of its :attr:`maps` after the K logits.

        Raises:
            InputError: the model cannot give them.
        """
        if problems := self.map_problems(maps):
            raise InputError(problems)
        model = self.model_copy()
        model._asked_maps = tuple(maps)  # noqa: SLF001 - of a copy of itself
        return model

    @property
    def num_map_channels(self) -> int:
        """E, the number of channels that predictions hold after the K logits: see :meth:`giving`."""
        return sum(self.maps[name] for name in self._asked_maps)

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Return the peak bytes of one prediction on a tile (height, width), above the loaded model; ``channels`` are the image's."""
        height, width = tile
        return height * width * (channels * 4 + self.num_classes * 8)

    @abstractmethod
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> AbstractContextManager[PredictFunction]:
        """Load the model; the context yields :data:`PredictFunction`. A plug-in writes this method, the engine calls :meth:`predictor`.

        Args:
            recipe: backend, device, precision and threads to use.
            normalize: fixed ``{"mean": [..], "std": [..]}`` in raw units; None: raw values, or per image by ``fit["normalize"]``.
        """

    @contextmanager
    def predictor(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None, maps: Sequence[str] = ()) -> Iterator[Predictor]:
        """Open the model, once an actor.

        Args:
            recipe: as in :meth:`open`.
            normalize: as in :meth:`open`.
            maps: names of :attr:`maps`, whose channels follow the K logits in this order: predictions are then (B, K + E, Y, X).

        Raises:
            InputError: the model cannot be loaded, or cannot give the maps.
        """
        if maps and recipe.calibrated:
            raise InputError(Problem("compute.precision", "int8 with a model that gives more than classes", "auto, fp32, bf16"))
        model = self.giving(maps) if maps else self
        with model.open(recipe, normalize) as predict:
            yield as_predictor(predict)


class TorchModel(Model):
    """A model that is a torch module, run by the recipe's backend."""

    tta: TTA = Field(default="none", description="test-time augmentation: none, flips (4 passes), d4 (flips and quarter turns, 8 passes)")

    gives_scores: ClassVar[bool] = True
    takes_backend: ClassVar[bool] = True
    takes_normalize: ClassVar[bool] = True

    @property
    def uses_gpu(self) -> bool:
        """A network computes faster on a GPU."""
        return True

    @property
    def has_stride(self) -> bool:
        """Whether the stride is known: derived, declared or measured."""
        return True

    @property
    def has_field(self) -> bool:
        """Whether the field is known, or known not to be finite."""
        return True

    @property
    def unmeasured_key(self) -> str | None:
        """Key under which a measured stride and field are kept; None where both are known, or the file is missing."""
        return None

    def projected_bytes(self, tile: tuple[int, int], channels: int) -> int:
        """Estimate the peak as 128 float32 feature maps of the tile's size; a network that knows better overrides this."""
        height, width = tile
        return height * width * 4 * (channels + 128 + 2 * self.num_classes)

    def map_problems(self, maps: Sequence[str]) -> list[Problem]:
        """Return those of every model, and a problem for maps that cannot be averaged over orientations."""
        turning = [name for name in maps if name in TURNING_MAPS]
        if self.tta == "none" or not turning:
            return super().map_problems(maps)
        return [*super().map_problems(maps), Problem("model.tta", self.tta, f"none, as {', '.join(turning)} turn with the image")]

    @abstractmethod
    def load(self) -> nn.Module:
        """Return the module with its weights, which turns float32 (N, C, H, W) into logits (N, K, H, W), and the maps of :meth:`giving`.

        Raises:
            InputError: the file is missing, damaged or does not fit.
        """

    @property
    def code_packages(self) -> Sequence[str] | None:
        """Names of the installed packages that :meth:`load` takes code from, besides this one and torch; None: not known.

        Where they are known, backends may keep what they make of the network for later runs (:func:`network_key`). Each class
        declares them itself, because a subclass may run other code.
        """
        return None

    @contextmanager
    def open(self, recipe: Recipe, normalize: Mapping[str, Any] | None = None) -> Iterator[Predictor]:
        """Load the network into the recipe's backend, unless the backend has kept what it made of it."""
        backend = build("backends", {"name": recipe.backend})
        with backend.open_kept(self.load, network_key(self), recipe, normalize) as predict:
            yield augmented(as_predictor(predict), self.tta, self.num_classes)


class Network(TorchModel):
    """A torch module that this package builds, with weights from a file. A subclass has the options ``channels`` and ``classes``."""

    if TYPE_CHECKING:  # declared by the subclasses, each with a default of its own
        channels: int
        classes: int

    weights: Path | str | None = Field(default=None, description="a .safetensors file, or its URL; null: random weights of the seed")
    seed: int = Field(default=0, description="of the random weights, where no file is given")

    num_channels: ClassVar[int] = fact_of("channels")

    @property
    def num_classes(self) -> int:
        """At least 2: one logit separates two classes."""
        return max(self.classes, 2)

    def files(self) -> Sequence[Path]:
        """Return the weights file, if any."""
        return (self.weights_file,) if self.weights_file else ()

    @property
    def weights_file(self) -> Path | None:
        """Local path of the weights, if any; a file at a URL is fetched."""
        return fetch(self.weights) if self.weights else None

    @classmethod
    def guess_options(cls, shapes: Shapes) -> Iterable[dict[str, Any]]:
        """Infer options from the tensors of a weights file, for the message about a file that belongs to another network.

        Returns:
            Options that may give the network such tensors, the likeliest first; none where the names are not its own.
        """
        del shapes
        return ()

    @abstractmethod
    def build(self) -> nn.Module:
        """Build the module with random weights. This method imports torch; its module does not."""

    def load(self) -> nn.Module:
        """Build the module and load its weights."""
        from pipeline.models.networks import load_weights

        return load_weights(self.build, self.weights_file, self.seed)


def num_parameters(model: Model) -> int:
    """Count the trainable parameters. A :class:`Network` is built without memory for its weights; any other model is loaded.

    Raises:
        InputError: the model cannot be loaded.
    """
    if not isinstance(model, TorchModel):
        return 0
    if isinstance(model, Network):
        from pipeline.models.networks.recognition import weightless

        with weightless():
            module = model.build()
    else:
        module = model.load()
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
