"""The tasks of an array: each segments its share of the images, without the others, into an output folder of its own."""

from __future__ import annotations

import csv
import glob
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.config import Config, Mosaic, TruthSpec, is_url, read_yaml, to_yaml
from pipeline.errors import InputError, Problem, counted
from pipeline.inputs import CSV_COLUMNS, ListedImage, list_images
from pipeline.targets import say

__all__ = ["write_tasks"]


def write_tasks(config: Config, number: int) -> list[int]:
    """Write ``task-K.csv`` and ``task-K.yaml`` into the output folder, for the images of each task; return the tasks that have any.

    An image stays with the task that had it before, so that what is done is not done again.

    Raises:
        InputError: the images are wrong; or one of several in a file, which a list cannot name.
    """
    if is_url(config.output):
        raise InputError(Problem(config.where("output"), config.output, "a folder, where the tasks of an array find their lists"))
    found = list_images(config)
    problems = [*found.problems, *(problem for image in found.images for problem in _unlisted(config, image))]
    if problems:
        raise InputError(problems)
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    shares = _shares(found.images, _earlier(folder, number), number)
    for task, images in shares.items():
        mosaics = [_mosaic_of(image) for image in images if _is_mosaic(image)]
        sources: list[str | Mosaic] = [*mosaics]
        if listed := [image for image in images if not _is_mosaic(image)]:
            _write_list(folder / f"task-{task}.csv", listed)
            sources.insert(0, str(folder / f"task-{task}.csv"))
        truth = config.truth if mosaics else _options_of(config.truth)  # a list names the truth of an image, the YAML that of a mosaic
        own = {"images": tuple(sources), "truth": truth, "output": str(folder / f"task-{task}")}
        (folder / f"task-{task}.yaml").write_text(to_yaml(config.model_copy(update=own)))
    say(f"{counted(len(found.images), 'image')} in {counted(len(shares), 'task')}, each with its own report: {folder}/task-*/report")
    return sorted(shares)


def _options_of(truth: TruthSpec | str | None) -> TruthSpec | None:
    """Return the options of a truth without its path, which the list of a task holds for each image."""
    return truth.model_copy(update={"path": None}) if isinstance(truth, TruthSpec) else None


def _is_mosaic(image: ListedImage) -> bool:
    return image.overrides.get("name") == "mosaic"


def _mosaic_of(image: ListedImage) -> Mosaic:
    """Return the entry of ``images`` that stands for a mosaic, which no list can name."""
    options = {key: image.overrides[key] for key in ("overlap", "warp")}
    return Mosaic(mosaic=f"{glob.escape(image.path)}/{image.overrides['tiles']}", name=image.name, **options)


def _unlisted(config: Config, image: ListedImage) -> list[Problem]:
    unknown = [key for key in image.overrides if key not in CSV_COLUMNS and not _is_mosaic(image)]
    fix = "Leave out `array`, and let one job segment all of them."
    return [Problem(config.where("images"), f"{image.path}, a file of several images", "files of one image", fix)] if unknown else []


def _earlier(folder: Path, number: int) -> dict[str, int]:
    """Return the task of each image, by its name, as an earlier submission has shared them out."""
    tasks: dict[str, int] = {}
    for task in range(number):
        if (path := folder / f"task-{task}.csv").exists():
            with path.open(newline="", encoding="utf-8") as file:
                tasks |= {row["name"]: task for row in csv.DictReader(file)}
        if (path := folder / f"task-{task}.yaml").exists():
            sources = read_yaml(path).data["images"]
            tasks |= {source["name"]: task for source in sources if isinstance(source, dict)}
    return tasks


def _shares(images: Sequence[ListedImage], earlier: Mapping[str, int], number: int) -> dict[int, list[ListedImage]]:
    """Give each image to its earlier task, or to the one that has the fewest."""
    held = Counter(earlier[image.name] for image in images if image.name in earlier)
    shares: dict[int, list[ListedImage]] = {}
    for image in images:
        task = earlier.get(image.name)
        if task is None:
            task = min(range(number), key=lambda one: (held[one], one))
            held[task] += 1
        shares.setdefault(task, []).append(image)
    return shares


def _write_list(path: Path, images: Sequence[ListedImage]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS, restval="")
        writer.writeheader()
        for image in images:
            own = {key: _cell(value) for key, value in image.overrides.items()}
            truth = "" if image.truth_reader["name"] == "mosaic" else image.truth or ""  # the YAML names a mosaic of masks
            writer.writerow({"image": image.path, "name": image.name, "truth": truth, **own})


def _cell(value: object) -> str:
    """Return the value of an option as a list writes it; channels are separated by semicolons."""
    return ";".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
