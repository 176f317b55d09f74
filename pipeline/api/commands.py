"""The functions of the API: each does what the command of its name does, and returns a result instead of printing it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from os import PathLike, fspath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from pipeline.api.array_inputs import ArrayInputs, gather_inputs
from pipeline.api.results import Plan, Report, Run, TrainingRun
from pipeline.config import Config, absolute_path, config_from_mapping, is_sample, is_url, load_config, load_yaml, resolve_mapping
from pipeline.errors import InputError
from pipeline.inputs import build_catalogue
from pipeline.models.bundle_files import parse_model
from pipeline.readers import array_name
from pipeline.records import RunFolder
from pipeline.scheduling import EXIT_INTERRUPTED
from pipeline.storage import Storage, StorageLike, open_storage
from pipeline.system import remember_interrupts
from pipeline.training import TRAINING_YAML, prepare_training
from pipeline.tuning import choose_runner
from workflows.evaluate import listed_classes, score_masks
from workflows.plan import plan_config
from workflows.run import execute_config, refuse_training

__all__ = ["evaluate", "open_run", "plan", "run", "segment", "train"]

INPUTS = "inputs"
"""Folder in the output for arrays that are written to files, and for the list of files that were given a name."""

Location = str | PathLike[str]


def run(
    config: Location | Mapping[str, Any] | Config,
    *,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the command's option is called
    fresh: bool = False,
    take_over: bool = False,
    max_failed: int | None = None,
    store_arrays: bool = False,
) -> Run:
    """Segment what a config describes, as ``gigaseg run`` does; a second call resumes.

    Notes and progress go to stderr. Quarantined blocks raise nothing: the run's ``state`` is ``partial``, and ``failures`` lists them.

    Args:
        config: a YAML file; or its content as a dict, in which ``images`` and ``truth`` may hold arrays, see :func:`segment`; or a Config.
        set: keys of the config to override, such as ``{"tiling.core": 512}``.
        fresh: remove earlier results from the output folder first.
        take_over: take the run from the live process that holds it.
        max_failed: give up above so many quarantined blocks; None: never.
        store_arrays: write arrays to OME-Zarr below the output folder first, so that other processes can resume the run.

    Raises:
        GigasegError: the input is wrong, or the run could not go on; with the text that the command prints.
        KeyboardInterrupt: the run was interrupted; the same call goes on where it stopped.
    """
    with remember_interrupts():
        resolved, inputs = _resolved(config, set)
        with _removed_if_refused(open_storage(resolved.output)):
            resolved = _placed(resolved, inputs, store=store_arrays)
            exit_code, _ = execute_config(resolved, fresh=fresh, take_over=take_over, max_failed=max_failed)
    if exit_code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt(f"interrupted; the same call goes on where it stopped. {resolved.output}")
    return Run(open_storage(resolved.output), (*inputs.arrays, *inputs.truth_arrays))


def segment(
    images: Any,
    model: str | Mapping[str, Any],
    output: Location,
    *,
    truth: Any = None,
    instances: bool | str | Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the command's option is called
    fresh: bool = False,
    take_over: bool = False,
    max_failed: int | None = None,
    store_arrays: bool = False,
) -> Run:
    """Segment images with one model, as ``gigaseg segment`` does; a second call resumes.

    Arrays are numpy, dask or Zarr: (Y, X), (Y, X, C) where C is at most 4, else (C, Y, X); ``reader.axes`` says otherwise. A dask array
    is computed block by block where pixels are needed. Ray's actors, being other processes, read arrays from OME-Zarr files that are
    written below the output folder first. A Zarr array that lies on a disk is read from there.

    ``images`` is a path, a glob, an array or a mosaic as in the YAML, such as ``{"mosaic": "tiles/*.tif", "name": "county"}``; a list of
    these, or of (name, array) pairs; or a mapping from names to arrays. Arrays without
    a name are called ``array0``, ``array1``, ...; files come first in the results, arrays after them. ``truth`` is a path, template or
    mapping as in the YAML, an array, or a mapping from names of images to arrays. ``instances`` is as in the YAML, or True:
    the method that the model declares. ``output`` is a folder, or a URL such as ``memory://NAME``. All else is as in :func:`run`.
    """
    spec = parse_model(model, "model") if isinstance(model, str) else model
    given = {"truth": truth, "instances": {True: "auto", False: None}[instances] if isinstance(instances, bool) else instances}
    config = {"images": images, "model": spec, "output": output} | {key: value for key, value in given.items() if value is not None}
    return run(config, set=set, fresh=fresh, take_over=take_over, max_failed=max_failed, store_arrays=store_arrays)


def plan(
    config: Location | Mapping[str, Any] | Config,
    *,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the command's option is called
    store_arrays: bool = False,
) -> Plan:
    """Return what :func:`run`, which takes the same arguments, would do, from the headers of the images; nothing is written.

    Raises:
        InputError: every problem at once, with the text that the command prints.
    """
    resolved, inputs = _resolved(config, set)
    with TemporaryDirectory(prefix="gigaseg-plan-") as folder:
        content = plan_config(_named(resolved, inputs, folder))
    if inputs.arrays and (store_arrays or content["runner"] != "serial"):
        content["notes"].append(_storing_note(resolved, inputs))
    return Plan(content)


def evaluate(
    pred: Any,
    truth: Any,
    *,
    classes: Location | Sequence[Mapping[str, Any]] | None = None,
    ignore: int | str | None = None,
    instances: bool = False,
    change: bool = False,
    output: Location | None = None,
) -> Report:
    """Score masks that exist, as ``gigaseg evaluate`` does.

    Args:
        pred: masks of class ids: a path, a glob, a run, an array, or several of these as in :func:`segment`.
        truth: a path or template, a mapping such as ``{"path": "a.gpkg", "attribute": "class"}``, an array, a mapping from names of
            masks to arrays, or an earlier run, for what its classes have become (:attr:`Report.change`).
        classes: the list of classes of a config, or a YAML file with it; None: as many as the largest id in masks and truth says.
        ignore: a truth value, or a colour ``#rrggbb``, that is left out of every count.
        instances: whether the masks are label images, which hold ids of objects, to be matched with the truth objects.
        change: whether the truth is an earlier state of the masks, for :attr:`Report.change`; an earlier run is.
        output: folder of the report; None: no file is kept.

    Raises:
        InputError: the input is wrong, or a mask holds a value that is no class id.
    """
    earlier = truth.storage.url if isinstance(truth, Run) else truth
    inputs = gather_inputs(pred.storage.url if isinstance(pred, Run) else pred, earlier, mosaics=False)
    images = [text if is_url(text) or is_sample(text) else absolute_path(text, Path.cwd()) for text in inputs.images]
    specs = listed_classes(Path(classes)) if isinstance(classes, str | PathLike) else _plain(classes)
    scratch = TemporaryDirectory(prefix="gigaseg-scores-") if output is None else nullcontext(fspath(output))
    with remember_interrupts(), scratch as folder, TemporaryDirectory(prefix="gigaseg-lists-") as lists:
        masks = [str(one) for one in inputs.names_given(images, lists)]
        options = {"instances": instances, "change": change}
        exit_code, content = score_masks(masks, inputs.truth or "", specs, ignore, folder, **options)
    if exit_code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    return Report(content)


def train(
    config: Location | Mapping[str, Any],
    *,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - as the command's option is called
    fresh: bool = False,
    take_over: bool = False,
) -> TrainingRun:
    """Train what a YAML file or its content describes, as ``gigaseg train`` does; a second call continues from the checkpoint.

    The options are those of :func:`run`.

    Raises:
        GigasegError: the input is wrong, or the training could not go on; with the text that the command prints.
        KeyboardInterrupt: the training was interrupted; the same call goes on from its checkpoint.
    """
    with remember_interrupts():
        overrides = _overrides(set)
        if isinstance(config, Mapping):
            resolved = resolve_mapping(TRAINING_YAML, _plain(config), Path.cwd(), overrides=overrides)
        else:
            resolved = load_yaml(TRAINING_YAML, Path(config), overrides)
        training = prepare_training(resolved, resume=not fresh)
        for note in training.plan.notes:
            sys.stderr.write(f"{note}\n")
        is_done = training.run(fresh=fresh, take_over=take_over)
        exit_code = execute_config(training.validation_run())[0] if is_done else EXIT_INTERRUPTED
        if exit_code == EXIT_INTERRUPTED:
            raise KeyboardInterrupt(f"interrupted; the same call goes on from its checkpoint. {resolved.output}")
        training.write_results()
    return TrainingRun(Path(resolved.output))


def open_run(output: StorageLike) -> Run | TrainingRun:
    """Open the output folder (or storage, or URL) of a run or of a training, in whatever state it is.

    Raises:
        InputError: no run is there.
    """
    folder = RunFolder(output)
    is_training = folder.require().get("kind") == "training"
    return TrainingRun(Path(folder.storage.url)) if is_training else Run(folder.storage)


def _resolved(config: Location | Mapping[str, Any] | Config, changes: Mapping[str, Any] | None) -> tuple[Config, ArrayInputs]:
    overrides = _overrides(changes)
    if isinstance(config, str | PathLike):
        refuse_training(Path(config))
        return load_config(Path(config), overrides), ArrayInputs()
    if isinstance(config, Config):
        mapping = config.model_dump(mode="json")
        return config_from_mapping(mapping, Path.cwd(), overrides=overrides) if overrides else config, ArrayInputs()
    inputs, given = ArrayInputs(), dict(config)
    if "images" in given:
        inputs = gather_inputs(given["images"], given.get("truth"))
        given |= {"images": inputs.images, "truth": inputs.truth}
    return config_from_mapping(_plain(given), Path.cwd(), overrides=overrides), inputs


def _overrides(changes: Mapping[str, Any] | None) -> list[str]:
    """Return what the command line would hold after ``--set``.

    Example:
        >>> _overrides({"tiling.core": 512, "writers": [{"name": "tiff"}]})
        ['tiling.core=512', 'writers=[{name: tiff}]']
    """

    def dump(value: Any) -> str:
        return yaml.safe_dump(_plain(value), default_flow_style=True, width=2**31).removesuffix("...\n").strip()

    return [f"{key}={dump(value)}" for key, value in (changes or {}).items()]


def _plain(value: Any) -> Any:
    """Return YAML's own types: paths as text, numpy's numbers as Python's, tuples as lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(member) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in value]
    if isinstance(value, PathLike):
        return fspath(value)
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", None) == 0 else value


def _placed(config: Config, inputs: ArrayInputs, *, store: bool) -> Config:
    """Return the config that reads every input, after writing what has to be files."""
    folder = f"{config.output}/{INPUTS}"
    if inputs.arrays and not store:
        with TemporaryDirectory(prefix="gigaseg-plan-") as scratch:
            store = choose_runner(build_catalogue(_named(config, inputs, scratch))) != "serial"
    if inputs.arrays and store:
        sys.stderr.write(f"{_storing_note(config, inputs)}\n")
        inputs, config = inputs.stored(config, folder)
    return _named(config, inputs, folder)


def _named(config: Config, inputs: ArrayInputs, lists: str) -> Config:
    """Return the config in which files have the names that they were given."""
    return config.model_copy(update={"images": inputs.names_given(config.images, lists)})


def _storing_note(config: Config, inputs: ArrayInputs) -> str:
    names = ", ".join(array_name(array.path) for array in (*inputs.arrays, *inputs.truth_arrays))
    return f"arrays are written to {config.output}/{INPUTS} as OME-Zarr first, so that other processes can read them: {names}"


@contextmanager
def _removed_if_refused(output: Storage) -> Iterator[None]:
    """Remove new inputs, and the output folder around them if nothing else is there, where the input proves wrong."""
    is_new = not output.has(INPUTS)
    try:
        yield
    except InputError:
        if is_new and output.has(INPUTS):
            output.delete_tree(INPUTS)
            output.remove_if_empty()
        raise
