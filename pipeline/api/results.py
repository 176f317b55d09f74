"""What the functions of the API return: plans, runs, reports and trainings, which show themselves in a notebook."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from pipeline.api.lazy_arrays import LazyArray, first_channel, open_lazily, open_path, resampled
from pipeline.config import Config
from pipeline.errors import InputError, Problem, nearest, one_of
from pipeline.inputs import TRUTH_READER, Image, TruthMap, fit_to_model, list_images, open_image, open_truth, read_headers
from pipeline.plugins import build
from pipeline.records import RunFolder
from pipeline.storage import LocalStorage, Storage
from workflows.report import plan_of, report_now
from workflows.status import state_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Plan", "Report", "Run", "TrainingRun"]

ENDED = ("done", "partial")
SHOWN = ("name", "iou", "dice", "precision", "recall", "truth", "predicted")
"""Columns of the table that a notebook shows."""


class _Content:
    """Plain values that are read as attributes; ``content`` is the object itself, as ``--json`` prints it or report.json holds it."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = dict(content)

    def __getattr__(self, name: str) -> Any:
        """Return a field of the content."""
        if name.startswith("_") or name == "content" or name not in self.content:
            raise AttributeError(f"{type(self).__name__} has no {name!r}")
        return self.content[name]

    @override
    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.content})


class Report(_Content):
    """The report of a run: every field of report.json is an attribute (``mean_iou``, ``pixels``, ...), and tables are DataFrames.

    What is undefined is None, and NaN in a table.
    """

    @property
    def classes(self) -> pd.DataFrame:
        """One row a class: ``id``, ``name``, ``iou``, ``dice``, ``precision``, ``recall``, ``f1``; pixels: ``truth``, ``predicted``."""
        return _frame(self.content["classes"], ["id", "name"])

    @property
    def per_image(self) -> pd.DataFrame:
        """One row an image: the fields that the whole has, then the IoU of each class, ``iou NAME``."""
        rows = [
            {key: value for key, value in image.items() if key not in ("classes", "instances")}
            | {f"iou {spec['name']}": spec.get("iou") for spec in image["classes"]}
            for image in self.content["per_image"]
        ]
        return _frame(rows, ["name"])

    @property
    def instances(self) -> pd.DataFrame:
        """One row per class that has objects: their number and scores over all images; no rows where objects are not told apart."""
        return _frame(self.content.get("instances", ()), ["class"])

    @property
    def instances_per_image(self) -> pd.DataFrame:
        """One row per image and class that has objects: ``image``, then the columns of :attr:`instances`."""
        per_image = self.content["per_image"]
        return _frame([{"image": image["name"], **one} for image in per_image for one in image.get("instances", ())], ["image", "class"])

    @property
    def confusion(self) -> pd.DataFrame | None:
        """Pixels of each true class (rows) that were predicted as each class (columns); None without truth."""
        import pandas as pd

        names = [spec["name"] for spec in self.content["classes"]]
        matrix = self.content["confusion"]
        return None if matrix is None else pd.DataFrame(matrix, index=names, columns=names)

    @property
    def change(self) -> pd.DataFrame:
        """One row per pair of classes: ``from`` (truth), ``to`` (predicted), ``pixels``, ``area`` in square metres.

        There are no rows where no maps were compared.
        """
        return _frame(self.content.get("change") or (), ["from", "to", "pixels", "area"])

    @property
    def failures(self) -> pd.DataFrame:
        """One row a failure: ``image``, ``block``, ``phase``, ``cause``, ``attempts``; no rows where nothing failed."""
        return _frame(self.content["failures"], ["image", "block", "phase", "cause", "attempts"])

    @override
    def __repr__(self) -> str:
        return f"Report({self.state}, {self.images} images, mean IoU {_number(self.content.get('mean_iou'))})"

    def _repr_html_(self) -> str:
        shown = self.classes
        parts = [_table(shown[[name for name in SHOWN if name in shown]])]
        parts.append(f"<p>mean IoU {_number(self.content.get('mean_iou'))}, {self.pixels:,} pixels of {self.images} images</p>")
        if self.content["failures"]:
            parts += [f"<p>{len(self.content['failures'])} failures</p>", _table(self.failures.head(10))]
        return "".join(parts)


@dataclass(frozen=True)
class Run:
    """A run, as its output tells: every property is read when it is asked for.

    Attributes:
        storage: the output.
        arrays: arrays that the run reads and that live as long as this object.
    """

    storage: Storage
    arrays: tuple[Any, ...] = ()

    @property
    def path(self) -> Path:
        """The output folder.

        Raises:
            InputError: the output is in no folder; :attr:`storage` reads it.
        """
        if not isinstance(self.storage, LocalStorage):
            raise InputError(Problem(str(self.storage), "a run in no folder", "the output folder of a run", "Use Run.storage."))
        return self.storage.root

    @property
    def state(self) -> str:
        """``done``, ``partial`` (some blocks are quarantined), ``running``, ``interrupted`` or ``failed``."""
        return state_of(self._folder)

    @property
    def report(self) -> Report:
        """The report; of a run that has not ended, from what its ledger holds now.

        Raises:
            InputError: the run ended before its first block.
        """
        if self.state in ENDED and (written := self.storage.get("report/report.json")):
            return Report(json.loads(written))
        return Report(report_now(self._folder, self.state))

    @property
    def failures(self) -> pd.DataFrame:
        """What was not done and why, as in the report."""
        return self.report.failures

    @property
    def images(self) -> tuple[str, ...]:
        """NAME of each image that could be opened, in the order of the run."""
        return tuple(image["name"] for image in plan_of(self._folder)["images"])

    def mask(self, name: str | None = None) -> LazyArray:
        """Open the mask of an image: class ids (Y, X); 255, or 65535 above 255 classes, is no prediction.

        Args:
            name: NAME of the image; None where there is only one.

        Raises:
            InputError: there is no such image, or no mask of it yet.
        """
        name, config = self._named(name), self._folder.read_config()
        writers = [build("writers", spec, "writers") for spec in config.writers]
        suffixes = [".ome.zarr", *(writer.suffix for writer in writers if writer.holds_mask)]
        key = next((key for suffix in suffixes if self.storage.has(key := f"masks/{name}{suffix}")), None)
        if key is None:
            raise InputError(Problem(f"{self.storage}/masks", f"no mask of {name!r}", "one", "Run it again, to the end."))
        return open_lazily(name, partial(open_path, f"{self.storage}/{key}", TRUTH_READER), to_ids=first_channel, classes=self._classes)

    def instances(self, name: str | None = None) -> LazyArray:
        """Open the label image of an image, named as in :meth:`mask`: id of the object at each pixel (Y, X), 0 where there is none.

        Raises:
            InputError: there is no such image, or the run tells no objects apart, or has not come so far.
        """
        key = self._of_objects(name, "instances", ".ome.zarr")
        return open_lazily(self._named(name), partial(open_path, f"{self.storage}/{key}", TRUTH_READER), to_ids=first_channel)

    def objects(self, name: str | None = None) -> pd.DataFrame:
        """Read the table of an image's objects, named as in :meth:`mask`: one row per object, with ``id`` as in :meth:`instances`.

        The whole table is in memory: read many millions of objects in parts, with pyarrow from ``objects/NAME.parquet``.

        Raises:
            InputError: there is no such image, or the run tells no objects apart, or has not come so far.
        """
        import pandas as pd

        with self.storage.open(self._of_objects(name, "objects", ".parquet")) as file:
            return pd.read_parquet(file)

    def _of_objects(self, name: str | None, folder: str, suffix: str) -> str:
        name = self._named(name)
        if not self.storage.has(key := f"{folder}/{name}{suffix}"):
            way_out = "Set `instances` in its YAML." if self._folder.read_config().instances is None else "Run it again, to the end."
            raise InputError(Problem(f"{self.storage}/{folder}", f"no objects of {name!r}", "the objects of the image", way_out))
        return key

    def image(self, name: str | None = None) -> LazyArray:
        """Open an image as the run reads it, on the grid of its mask: pixels (C, Y, X). Names are those of :meth:`mask`.

        Raises:
            InputError: the run has no such image, or its file is gone.
        """
        name, config = self._named(name), self._folder.read_config()
        image = self._own_image(name, config)
        if config.masks != "native":
            image = fit_to_model([image], build("models", config.model, "model"), config).images[0]
        return open_lazily(name, partial(open_image, image))

    def _own_image(self, name: str, config: Config) -> Image:
        """Return an image on its own grid, and its truth, as the run's YAML names them now."""
        listed = next((image for image in list_images(config).images if image.name == name), None)
        if listed is None:
            raise InputError(Problem(str(self.storage), f"{name!r}, which is no longer among the inputs", "the images of the run"))
        images, unreadable, problems = read_headers([listed], config)
        if not images:
            raise InputError(problems or [f"{one.path}: {one.cause}" for one in unreadable])
        return images[0]

    def truth(self, name: str | None = None) -> LazyArray:
        """Open the truth of an image, named as in :meth:`mask`, on the grid of its mask: class ids (Y, X) as counted.

        255, or 65535 above 255 classes, is ignored, and so is what the truth does not cover.

        Raises:
            InputError: there is no such image, or no truth of it.
        """
        name, config = self._named(name), self._folder.read_config()
        planned = next(image for image in plan_of(self._folder)["images"] if image["name"] == name)
        image = None if planned["truth"] is None else self._own_image(name, config)
        if image is None or image.truth is None:
            raise InputError(Problem(str(self.storage), f"no truth of {name!r}", "an image with truth"))
        truth_map = TruthMap(len(self._classes), config.classes, config.ignore)
        dtype = "uint8" if len(self._classes) <= 255 else "uint16"
        factor = None if config.masks == "native" else planned.get("own_factor")
        opener = partial(resampled, partial(open_truth, image), factor)
        return open_lazily(name, opener, to_ids=truth_map.apply, dtype=dtype, classes=self._classes)

    @override
    def __repr__(self) -> str:
        return f"Run({str(self.storage)!r}, {self.state})"

    def _repr_html_(self) -> str:
        table = self.report._repr_html_() if self._folder.last_plan() else ""
        return f"<p><b>{html.escape(str(self.storage))}</b>: {html.escape(self.state)}</p>{table}"

    @property
    def _folder(self) -> RunFolder:
        return RunFolder(self.storage)

    @property
    def _classes(self) -> tuple[str, ...]:
        return tuple(spec["name"] for spec in plan_of(self._folder)["classes"])

    def _named(self, name: str | None) -> str:
        names = self.images
        if name is None and len(names) == 1:
            return names[0]
        if name not in names:
            raise InputError(Problem(str(self.storage), repr(name), one_of(names), nearest(name or "", names)))
        return name


class Plan(_Content):
    """What a run would do: every field of ``gigaseg plan --json`` is an attribute (``pixels``, ``blocks``, ``recipe``, ``runner``, ...)."""

    @property
    def images(self) -> pd.DataFrame:
        """One row an image: ``name``, ``path``, ``shape``, ``planes``, ``channels``, ``dtype``, ``pixel_size``, ``blocks``, ``truth``."""
        return _frame(self.content["images"], ["name", "path", "shape", "planes", "channels", "dtype", "pixel_size", "blocks", "truth"])

    @property
    def unreadable(self) -> pd.DataFrame:
        """Images that were found and cannot be opened: ``name``, ``path``, ``cause``."""
        return _frame(self.content["unreadable"], ["name", "path", "cause"])

    @override
    def __repr__(self) -> str:
        return f"Plan({len(self.content['images'])} images, {self.pixels:,} pixels, {self.blocks} blocks)"

    def _repr_html_(self) -> str:
        memory = f"{self.memory_bytes_per_actor / 2**20:,.0f} MiB an actor above its model, of {self.memory_budget_bytes / 2**20:,.0f}"
        lines = [f"{self.pixels:,} pixels, {self.blocks} blocks, runner {self.runner}", f"memory: {memory}"]
        lines += [f"unreadable: {image['path']}: {image['cause']}" for image in self.content["unreadable"]]
        lines += [f"note: {note}" for note in self.notes]
        return _table(self.images) + "".join(f"<p>{html.escape(line)}</p>" for line in lines)


@dataclass(frozen=True)
class TrainingRun:
    """A training, as its output folder ``path`` tells."""

    path: Path

    @property
    def state(self) -> str:
        """``done``, ``running``, ``interrupted`` or ``failed``."""
        return state_of(RunFolder(self.path))

    @property
    def bundle(self) -> Path:
        """The trained model: ``model=str(training.bundle)`` uses it."""
        return self.path / "bundle"

    @property
    def history(self) -> pd.DataFrame:
        """One row a report of loss or scores, as in history.csv."""
        import pandas as pd

        return pd.read_csv(self.path / "history.csv")

    @property
    def validation(self) -> Run:
        """The run over the validation images, with the best weights."""
        return Run(LocalStorage(self.path / "val"))

    @property
    def report(self) -> Report:
        """The report of :attr:`validation`."""
        return self.validation.report

    @override
    def __repr__(self) -> str:
        return f"TrainingRun({str(self.path)!r}, {self.state})"

    def _repr_html_(self) -> str:
        scores = self.report._repr_html_() if (self.path / "val").is_dir() else ""
        return f"<p><b>{html.escape(str(self.path))}</b>: training {html.escape(self.state)}</p>{scores}"


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    """Make a table whose columns are there without any row, too."""
    import pandas as pd

    return pd.DataFrame(list(rows)) if rows else pd.DataFrame(columns=list(columns))


def _table(frame: pd.DataFrame) -> str:
    return str(frame.to_html(index=False, escape=True, na_rep="–", float_format=_number))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
