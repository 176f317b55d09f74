"""The catalogue of a run: every image with its header and its truth, and all problems that headers can tell.

Everything that does not depend on how an image is cut is checked here. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline.config import Config, default_colors
from pipeline.errors import InputError, Problem
from pipeline.inputs.discovery import list_images
from pipeline.inputs.expectations import fit_to_model
from pipeline.inputs.file_groups import first_of
from pipeline.inputs.headers import Image, UnreadableImage, read_headers
from pipeline.inputs.left_out import LeftOut
from pipeline.inputs.limits import set_huge_apart
from pipeline.inputs.map_notes import map_notes
from pipeline.inputs.objects import find_truth_ids, object_classes_of, object_notes, object_problems
from pipeline.inputs.overlaps import overlap_notes
from pipeline.inputs.truth import TruthMap
from pipeline.inputs.truth_checks import check_truth, truth_notes
from pipeline.inputs.zones import find_zones
from pipeline.instances import Instances
from pipeline.models import Model
from pipeline.plugins import build
from pipeline.skips import Skip, SkippedImage
from pipeline.writers import Writer

__all__ = ["Catalogue", "build_catalogue", "config_problems"]


@dataclass(frozen=True)
class Catalogue:
    """The images of a run, before it is decided how they are cut."""

    config: Config
    model: Model
    images: Sequence[Image]  # those that can be read, in the plan's order
    rejected: Sequence[UnreadableImage] = ()  # those of folders, globs and lists that cannot be read
    left_out: Sequence[LeftOut] = ()  # files of folders and globs that are no images
    classes: Sequence[Mapping[str, Any]] = ()  # `{"id", "name", "color"}` of each class, in the order of the ids
    truth_map: TruthMap | None = None  # how truth becomes class ids; None when no image has truth
    instances: Instances | None = None  # how objects are told apart; None: they are not
    object_classes: Sequence[int] = ()  # ids of the classes that have objects
    notes: Sequence[str] = field(default_factory=tuple)  # what the user should know, such as which images have no truth

    @property
    def pixels(self) -> int:
        """Number of pixels, in all planes of all images."""
        return sum(image.header.shape[0] * image.header.shape[1] * image.header.num_planes for image in self.images)

    @property
    def scores_objects(self) -> bool:
        """Whether predicted objects are matched with truth objects."""
        return bool(self.object_classes) and any(spec["name"] == "instances" for spec in self.config.metrics)

    @property
    def identity(self) -> dict[str, Any]:
        """What the masks of this run depend on, the images aside: a run with another identity may not use its folder."""
        compute = self.config.compute.model_dump(include={"device", "threads", "backend", "precision", "batch"})
        files = list(enumerate(zip(self.model.files(), self.model.file_hashes(), strict=True)))
        times = Counter(path.name for _, (path, _) in files)  # members of an ensemble may have files of one name
        weights = {path.name if times[path.name] == 1 else f"{index}/{path.name}": found for index, (path, found) in files}
        keys = self.config.model_dump(mode="json", include={"model", "normalize", "stain", "reader", "tiling"})
        grid = self.config.model_dump(mode="json", include={"resolution", "masks", "skip"}, exclude_defaults=True)
        return {**keys, **grid, "compute": compute, "weights": weights, "num_classes": len(self.classes)}


def build_catalogue(config: Config, accepted: Collection[str] | None = None) -> Catalogue:
    """List the images, read their headers, and check all that headers can tell; an InputError holds every problem.

    ``accepted`` are the paths below folders that may be taken; None: all (:func:`list_images`).
    """
    model: Model = build("models", config.model, "model")
    listed = list_images(config, accepted)
    images, rejected, header_problems = read_headers(listed.images, config)
    classes, class_problems = _resolve_classes(config, model)
    problems = [*listed.problems, *_missing_files(model), *header_problems, *class_problems]
    truth_map = None
    if any(image.truth for image in images) and not class_problems:
        truth_map = TruthMap(len(classes), config.classes, config.ignore)
        problems += check_truth(images, truth_map)
    fitted = fit_to_model(images, model, config)
    problems += fitted.problems
    kept, huge, too_many = set_huge_apart(fitted.images, {one.name for one in listed.images if one.direct}, config)
    rejected, problems = [*rejected, *huge], [*problems, *too_many]
    if config.normalize is not None and not model.takes_normalize:
        problems.append(Problem("normalize", repr(config.normalize), f"null, as {config.model['name']} works on raw values"))
    problems += _stain_problems(config, model, images)
    problems += _skip_problems(config, kept)
    kept, zone_problems, zone_notes = find_zones(kept, config)
    problems += zone_problems
    instances: Instances | None = build("instances", config.instances, "instances") if config.instances else None
    problems += object_problems(config, instances, model, classes)
    if not images and not problems and not rejected:
        problems.append(Problem("images", "no image", "at least one"))
    if problems:
        raise InputError(problems)
    notes = [*listed.notes, *truth_notes(images), *_header_notes(images), *_place_notes(images, config), *fitted.notes, *zone_notes]
    notes += object_notes(instances, model)
    object_classes = object_classes_of(instances, classes)
    found = Catalogue(
        _with_default_writers(config, kept), model, kept, rejected, listed.left_out, classes, truth_map, instances, object_classes, notes
    )
    if found.scores_objects and truth_map is not None:
        with_ids, more = find_truth_ids(found.images, truth_map, object_classes)
        found = replace(found, images=with_ids, notes=[*notes, *more])
    return found


def _place_notes(images: Sequence[Image], config: Config) -> list[str]:
    """Return notes on maps; where nothing is segmented, borders do not show, and without truth nothing is counted either."""
    is_segmented = config.model["name"] != "identity"
    is_counted = is_segmented or config.truth is not None
    return [*map_notes(images), *(overlap_notes(images, is_segmented=is_segmented) if is_counted else [])]


def _with_default_writers(config: Config, images: Sequence[Image]) -> Config:
    """Return the config with a writer for maps too, if nobody chose writers, an image has a georeference and the writer can run."""
    added: Writer = build("writers", {"name": "cog", "only_georeferenced": True})
    if not config.has_default_writers or added.missing() or not any(added.takes(image.header) for image in images):
        return config
    return config.with_writers([*config.writers, {"name": "cog", **added.model_dump(mode="json")}])


def config_problems(config: Config) -> list[Problem]:
    """Return what is wrong whatever the images are: files of the model that are missing, and classes that are not the model's."""
    model: Model = build("models", config.model, "model")
    return [*_missing_files(model), *_resolve_classes(config, model)[1]]


def _missing_files(model: Model) -> list[Problem]:
    return [Problem("model", f"{path}, which does not exist", "a file") for path in model.files() if not Path(path).is_file()]


def _stain_problems(config: Config, model: Model, images: Sequence[Image]) -> list[Problem]:
    """Return the problems of stain normalisation: it needs 8-bit colours, and a model that takes normalised values."""
    if config.stain is None:
        return []
    where = config.where("stain")
    no_network = not model.takes_normalize
    problems = [Problem(where, config.stain, f"null, as {config.model['name']} works on raw values")] if no_network else []
    no_color = [image.path for image in images if not image.header.is_color or image.header.dtype != "uint8" or image.header.channels != 3]
    if no_color:
        problems.append(Problem(where, f"{config.stain}, and {first_of(no_color, 3)}", "8-bit RGB images of H&E", "Leave stain out."))
    normalize = model.normalize if config.normalize is None else config.normalize
    if model.takes_normalize and normalize == "contrast":
        expected, fix = "null, as stains are fitted to colours, which have no edges", "Leave stain out, or use normalize: percentile."
        problems.append(Problem(where, f"{config.stain} with normalize: contrast", expected, fix))
    return problems


def _skip_problems(config: Config, images: Sequence[Image]) -> list[Problem]:
    """Return the problems of the files that the skip reads."""
    if config.skip is None:
        return []
    skip: Skip = build("skips", config.skip, "skip")
    seen = [SkippedImage(image.name, image.path, image.grid.own if image.grid else image.header, image.header) for image in images]
    return [problem for image in seen for problem in skip.problems(image)]


def _header_notes(images: Sequence[Image]) -> list[str]:
    """Return each note of the headers once, with the names of its images first."""
    names_by_note: dict[str, list[str]] = {}
    for image in images:
        for note in (*image.header.notes, *_nodata_notes(image)):
            names_by_note.setdefault(note, []).append(image.name)
    return [f"{first_of(names, 3)}: {note}" for note, names in names_by_note.items()]


def _nodata_notes(image: Image) -> list[str]:
    """Return a note if no sample of the image's type can have the value of ``reader.nodata``."""
    declared, header = image.reader.get("nodata"), image.header
    if declared in (None, "none") or header.nodata is not None or header.has_mask:
        return []
    return [f"reader.nodata {declared} has no effect: no sample of type {header.dtype} can have this value"]


def _resolve_classes(config: Config, model: Model) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Return the classes that the YAML lists, else the model's, else numbered ones; and what is wrong with them."""
    named: Sequence[Mapping[str, Any]] = [spec.model_dump() for spec in config.classes] if config.classes else model.class_list
    named = named or [{"name": f"class {k}"} for k in range(model.num_classes)]
    problems = []
    if len(named) != model.num_classes:
        fix = "List as many classes as the model predicts."
        problems.append(Problem("classes", f"{len(named)} classes", f"{model.num_classes}, as {config.model['name']} predicts", fix))
    colors = default_colors(len(named))
    classes = [{"id": k, "name": spec["name"], "color": spec.get("color") or colors[k]} for k, spec in enumerate(named)]
    return classes, problems
