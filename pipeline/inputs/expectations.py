"""Compares images with what the model was trained on: adapts an image, refuses it, or adds a note."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np

from pipeline.config import Config, Resolution
from pipeline.errors import InputError, Problem
from pipeline.inputs.file_groups import first_of
from pipeline.inputs.headers import Image, hash_values
from pipeline.inputs.working_grid import WorkingGrid, choose_grid, measured_size, size_text
from pipeline.models import Expectation, Model
from pipeline.raster import Header, SampleRange

__all__ = ["Fitted", "fit_to_model", "place_on_grids", "sample_range"]


@dataclass
class Fitted:
    """Images as the model sees them, their problems, and notes with the names of the images concerned."""

    images: list[Image] = field(default_factory=list)
    problems: list[Problem | str] = field(default_factory=list)
    names_by_note: dict[str, list[str]] = field(default_factory=dict)

    def add(self, image: Image, step: Callable[[Image], tuple[Image, str]]) -> Image:
        """Apply one step to an image; if the step refuses it, keep the image unchanged."""
        try:
            changed, note = step(image)
        except InputError as error:
            self.problems += error.problems
            return image
        if note:
            self.names_by_note.setdefault(note, []).append(image.name)
        return changed

    @property
    def notes(self) -> list[str]:
        """Each note once, with the names of its images first."""
        return [f"{first_of(names, 3)}: {note}" for note, names in self.names_by_note.items()]


def fit_to_model(images: Sequence[Image], model: Model, config: Config) -> Fitted:
    """Choose channels, working grid and sample range of every image to match the model's training."""
    fitted = Fitted()
    for image in images:
        changed = fitted.add(image, lambda one: _choose_channels(one, model))
        changed = fitted.add(changed, lambda one: _place(one, config.resolution, model.expects, config.where("resolution")))
        fitted.images.append(fitted.add(changed, lambda one: _bring_to_range(one, model, config)))
    own = model.normalize
    if config.normalize is not None and own is not None and config.normalize != own:
        note = f"normalize: {_short(config.normalize)} replaces the model's own normalisation, {_short(own)}"
        fitted.names_by_note[note] = [image.name for image in images]
    return fitted


def place_on_grids(images: Sequence[Image], resolution: Resolution | str, where: str) -> Fitted:
    """Choose the working grid of every image as the YAML says, without a model."""
    fitted = Fitted()
    for image in images:
        fitted.images.append(fitted.add(image, lambda one: _place(one, resolution, Expectation(), where)))
    return fitted


def _short(normalize: Any) -> str:
    return normalize if isinstance(normalize, str) else "fixed mean and std"


def _choose_channels(image: Image, model: Model) -> tuple[Image, str]:
    """Return the image with the model's channels: by name if both name them, else by number in files like those of the training.

    Refuse if the user must choose.
    """
    header, expects, needed = image.header, model.expects, model.num_channels
    names, wanted = [name.casefold() for name in header.channel_names], [name.casefold() for name in expects.channel_names]
    has_chosen = image.reader.get("channels") is not None
    is_named = bool(names) and bool(wanted) and all(names.count(name) == 1 for name in wanted)
    if is_named and names != wanted and not has_chosen and needed == len(wanted):
        chosen = _with_channels(image, tuple(names.index(name) for name in wanted))
        return chosen, f"channels {', '.join(chosen.header.channel_names)} are read in this order, by the model's names"
    if expects.channel_numbers and not has_chosen and header.channels == expects.file_channels and not is_named:
        if not names:
            listed = ", ".join(map(str, expects.channel_numbers))
            note = (
                f"channels {listed} of {header.channels}, counted from 0, are read in this order, as from the files of the model's training"
            )
            return _with_channels(image, expects.channel_numbers), note
        _refuse_names(image, expects)
    if expects.merges and header.channels > 1 and not header.is_color:
        fix = f"Choose one: reader.channels: [{_first_channel(header)}]. Or merge them with model.merge: true."
        raise InputError(Problem(image.path, _channels(header), "one channel, or a colour image", fix))
    if needed is not None and header.channels != needed:
        fix = f"Choose them with reader.channels: {list(range(needed))}." if header.channels > needed else ""
        if header.channel_names and header.channels > needed:
            fix = f"Choose them with reader.channels: [{', '.join(header.channel_names[:needed])}]."
        files = f", or files of {expects.file_channels} without names, as in its training" if expects.file_channels else ""
        raise InputError(Problem(image.path, _channels(header), f"{needed}, as the model takes{files}", fix))
    if len(wanted) > 1 and names and set(names) != set(wanted) and not has_chosen and not header.is_color:
        _refuse_names(image, expects)
    return image, ""


def _with_channels(image: Image, order: tuple[int, ...]) -> Image:
    """Return the image with channels of these numbers, in this order."""
    names = image.header.channel_names
    header = replace(image.header, channels=len(order), channel_names=tuple(names[index] for index in order) if names else ())
    reader = {**image.reader, "channels": order}
    return replace(image, header=header, reader=reader, identity=hash_values(image.identity, "channels", order))


def _refuse_names(image: Image, expects: Expectation) -> NoReturn:
    names, needed = image.header.channel_names, len(expects.channel_numbers or expects.channel_names)
    by_number = f"numbers {', '.join(map(str, expects.channel_numbers))} of {expects.file_channels} without names"
    known = f"channels {', '.join(expects.channel_names)}, as the model names them" if expects.channel_names else by_number
    fix = f"Choose them in the model's order: reader.channels: [{', '.join(names[:needed])}]."
    raise InputError(Problem(image.path, _channels(image.header), known, fix))


def _first_channel(header: Header) -> str:
    return header.channel_names[0] if header.channel_names else "0"


def _channels(header: Header) -> str:
    """Return the number of channels and their names, for messages."""
    names = header.channel_names
    return f"{header.channels} channels" + (f" ({first_of(names, 8)})" if names and any(names) else "")


def _place(image: Image, resolution: Resolution | str, expects: Expectation, where: str) -> tuple[Image, str]:
    """Return the image on its working grid, and a note or an empty text."""
    header = image.header
    grid = choose_grid(image, resolution, expects, where)
    if grid is not None:
        identity = hash_values(image.identity, *grid.key)
        changed = replace(image, header=grid.header, grid=grid, identity=identity)
        return changed, _grid_note(grid, changed.header) if resolution == "auto" else ""
    if resolution != "auto" or expects.pixel_size is None:
        return image, ""
    override = "set reader.pixel_size, or resample with resolution: {scale: ..}"
    measured = measured_size(header)
    if measured is None:
        return image, f"pixel size {size_text(header)}, the model was trained at {expects.size_text}: pixels are read unchanged; {override}"
    if measured[1] != expects.unit:
        return image, f"pixels of {size_text(header)}, the model was trained at {expects.size_text}: pixels are read unchanged; {override}"
    return image, ""


def _grid_note(grid: WorkingGrid, header: Header) -> str:
    level = f"level {grid.level}" if grid.level else "pixels"
    how = f"{level} resampled" if grid.is_resampled else f"{level} read"
    change = f"pixels of {size_text(grid.own)} resampled to {size_text(header)}, as the model was trained ({how})"
    return f"{change}; resolution: {{scale: 1}} reads pixels unchanged"


def _bring_to_range(image: Image, model: Model, config: Config) -> tuple[Image, str]:
    """Return the image with samples scaled to the range that the model was trained on; refuse an unknown range."""
    expects, header = model.expects, image.header
    if not expects.dtype or config.normalize is not None or isinstance(model.normalize, str):
        return image, ""  # the image's own statistics replace its range, or the user's normalize does
    known = expects.image_range or sample_range(header)
    if header.dtype == expects.dtype and (known == expects.range or known is None or expects.range is None):
        return image, ""
    if known is None or expects.range is None:
        found = f"samples of type {header.dtype}" + ("" if known else ", whose range the file does not say")
        trained = expects.dtype + (f" from {expects.range[0]:g} to {expects.range[1]:g}" if expects.range else "")
        fix = "Set model.range to the least and greatest sample of the images, such as [0, 4095], or set normalize."
        raise InputError(Problem(image.path, found, f"{trained}, as the model was trained on", fix if expects.range else "Set normalize."))
    samples = SampleRange(expects.dtype, known, expects.range)
    changed = replace(header, dtype=expects.dtype, nodata=None, has_mask=header.has_mask or header.nodata is not None, bits=0)
    identity = hash_values(image.identity, "samples", samples.dtype, samples.old, samples.new)
    note = f"samples of {known[0]:g} to {known[1]:g} are scaled to {expects.range[0]:g} to {expects.range[1]:g}, as in the model's training"
    return replace(image, header=changed, samples=samples, identity=identity), note


def sample_range(header: Header) -> tuple[float, float] | None:
    """Return the least and the greatest value of a sample; None if the file may use only a part of its type."""
    dtype = np.dtype(header.dtype)
    if dtype.kind != "u":
        return None
    if header.bits or dtype.itemsize == 1:  # cameras and satellites store 10 to 14 bits in 16, colours as well as grey values
        return 0.0, float(2 ** (header.bits or 8 * dtype.itemsize) - 1)
    return None
