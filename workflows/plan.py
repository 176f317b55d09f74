"""Say what a run would do, from the headers of its images; nothing is written."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.config import Config, Recipe, load_config, read_yaml
from pipeline.engine import Job, phase, skipped_share
from pipeline.inputs import Catalogue, WorkingGrid, build_catalogue
from pipeline.raster import ground_size, has_equal_rows
from pipeline.records import RunFolder
from pipeline.scheduling import Stage, make_job, plan_blocks
from pipeline.training import is_training
from pipeline.tuning import (
    Calibration,
    choose_recipe,
    expect_backend,
    format_bytes,
    project_actor_bytes,
    reuse_recipe,
)
from workflows.begun_run import runner_of, with_writers_of

__all__ = ["plan", "plan_config"]

SHOWN = 20  # images that get a line each; more are summarised
SHOWN_KINDS = 5
UNITS = {"micrometer": "um", "meter": "m", "degree": "degrees", "": "map units"}


def plan(config_path: Path, overrides: Sequence[str] = (), *, as_json: bool = False, every: bool = False) -> int:
    """Print what a run would do; for the YAML of a training, its images and classes.

    Args:
        config_path: the YAML of a run or of a training.
        overrides: ``key.sub=value`` each, as after ``--set``.
        as_json: print one object instead of text.
        every: print a line for each image and each file that is left out, however many there are.

    Returns:
        The exit code: 0, or 3 where an image cannot be read and the others can.

    Raises:
        InputError: every problem at once.
    """
    if is_training(read_yaml(config_path).data):
        from workflows.plan_training import plan_training

        return plan_training(config_path, overrides, as_json=as_json, every=every)
    content = plan_config(load_config(config_path, overrides))
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        print_plan(content, every=every)
    return 3 if content["unreadable"] else 0


def plan_config(config: Config) -> dict[str, Any]:
    """Return what a run would do as plain values: images, blocks, bytes, memory, recipe and notes.

    Raises:
        InputError: every problem at once.
    """
    folder = RunFolder(config.output)
    catalogue = with_writers_of(folder, build_catalogue(config), config)
    folder.refuse_other(catalogue.identity)
    recorded = folder.read()
    if "recipe" in recorded:
        choice = reuse_recipe(catalogue, recorded["recipe"])
    else:
        choice = choose_recipe(catalogue, backend=expect_backend(catalogue))
    notes = [*catalogue.notes, *choice.notes]
    if choice.recipe.precision == "int8":
        later = "compute.precision: int8 is calibrated on tiles of the images when the run begins; what it changes is said then"
        notes.append(str(Calibration(**recorded["calibration"])) if "calibration" in recorded else later)
    job = make_job(catalogue, choice.recipe)
    notes += skip_notes(catalogue, job)
    return plan_content(catalogue, choice.recipe, plan_blocks(catalogue, job), runner=runner_of(folder, catalogue), notes=notes)


def title_of_writer(spec: Mapping[str, Any]) -> str:
    """Return the name of a writer, and which images it leaves out."""
    return f"{spec['name']} (of images with a georeference)" if spec.get("only_georeferenced") else str(spec["name"])


def skip_notes(catalogue: Catalogue, job: Job) -> list[str]:
    """Return the share that is skipped, measured on coarse pictures of the first images."""
    if job.skip is None:
        return []
    images = catalogue.images[:SHOWN]
    shares = [skipped_share(job, image) for image in images]
    pixels = [math.prod(image.header.shape) * image.header.num_planes for image in images]
    pixel_share, tile_share = (
        sum(one * size for one, size in zip(some, pixels, strict=True)) / sum(pixels) for some in zip(*shares, strict=True)
    )
    more = f" of the first {len(images)} images" if len(images) < len(catalogue.images) else ""
    found = f"skip: {pixel_share:.0%} of the pixels{more}; it saves {tile_share:.0%} of the tiles, and so of the time"
    return [found, *(f"skip: nothing of {image.name}" for image, (share, _) in zip(images, shares, strict=True) if not share)][:SHOWN]


def plan_content(catalogue: Catalogue, recipe: Recipe, stages: Mapping[str, Sequence[Stage]], **said: Any) -> dict[str, Any]:
    """Gather the object that ``--json`` prints; ``said`` adds fields by name, such as notes."""
    blocks = {image: sum(len(stage.blocks) for stage in some if phase(stage.phase).is_result) for image, some in stages.items()}
    return {
        "images": [
            {
                "name": image.name,
                "path": image.path,
                "shape": list(image.header.shape),
                "planes": image.header.num_planes,
                "channels": image.header.channels,
                "channel_names": list(image.header.channel_names),
                "dtype": image.header.dtype,
                "pixel_size": image.header.pixel_size,
                "unit": image.header.unit,
                "ground_size": None if has_equal_rows(image.header) else ground_size(image.header),
                "pixel_size_from": image.header.pixel_size_from,
                "stack": dict(image.header.planes),
                "series": image.header.series,
                "blocks": blocks[image.name],
                "truth": image.truth,
                "decoded_whole_bytes": image.header.whole_bytes,
                "read": None if image.grid is None else what_is_read(image.grid),
            }
            for image in catalogue.images
        ],
        "unreadable": [{"name": image.name, "path": image.path, "cause": image.cause} for image in catalogue.rejected],
        "ignored_files": len(catalogue.left_out),
        "left_out": [asdict(one) for one in catalogue.left_out],
        "pixels": catalogue.pixels,
        "blocks": sum(blocks.values()),
        "mask_bytes_uncompressed": catalogue.pixels * (1 if len(catalogue.classes) <= 255 else 2),
        "memory_bytes_per_actor": project_actor_bytes(catalogue, recipe),
        "memory_budget_bytes": catalogue.config.compute.memory_bytes,
        "recipe": recipe.to_dict(),
        "writers": list(catalogue.config.writers),
        **said,
        "output": catalogue.config.output,
    }


def what_is_read(grid: WorkingGrid) -> dict[str, Any]:
    """Return the part of a file that a working grid is computed from; `shape` and `pixel_size` beside it are the working grid's."""
    size = grid.own.pixel_size
    return {
        "own_shape": list(grid.own.shape),
        "own_pixel_size": None if size is None else list(size),
        "level": grid.level,
        "level_shape": list(grid.level_shape),
        "factor": list(grid.factor),
    }


def print_plan(content: Mapping[str, Any], *, every: bool = False) -> None:
    """Print the plan as text: images, files left out, tiles, compute, memory and notes; summarise many images unless ``every``."""
    images, unreadable, left_out = content["images"], content["unreadable"], content["left_out"]
    if every or len(images) <= SHOWN:
        for image in images:
            print(f"{image['name']}: {describe_image(image)}")
    else:
        print_summary(images)
    shown = len(unreadable) if every else SHOWN // 2
    for image in unreadable[:shown]:
        print(f"unreadable: {image['path']}: {image['cause'].removeprefix(image['path']).removeprefix(': ')}")
    if len(unreadable) > shown:
        print(f"unreadable: {len(unreadable) - shown} more; --list names all")
    for one in left_out if every else ():
        print(f"left out: {one['path']}: {one['reason']}")
    recipe, megapixels = content["recipe"], content["pixels"] / 1e6
    halo_cost = ((recipe["core"] + 2 * recipe["halo"]) / recipe["core"]) ** 2
    need, budget = format_bytes(content["memory_bytes_per_actor"], up=True), format_bytes(content["memory_budget_bytes"])
    counts = f"{counted(len(images), 'image')}, {megapixels:.1f} Mpx, {counted(content['blocks'], 'block')}"
    print(f"{counts}; {counted(len(left_out), 'other file')} left out")
    print(f"tiles: core {recipe['core']}, halo {recipe['halo']}, block {recipe['block']}, stitch {recipe['stitch']}")
    print(f"halo: {halo_cost:.2f} x the pixels are computed on full tiles")
    how = f"{recipe['backend']} {recipe['precision']} on {recipe['device']}, batch {recipe['batch']}, {recipe['threads']} threads an actor"
    print(f"compute: runner {content['runner']}, {how}")
    print(f"memory: {need} an actor above its model, of {budget}")
    print(f"writers: {', '.join(map(title_of_writer, content['writers']))}")
    for note in content["notes"]:
        print(f"note: {note}")
    print(f"output: {content['output']}")


def describe_image(image: Mapping[str, Any]) -> str:
    """Return one line on an image: size in pixels and as a length, planes, channels, blocks."""
    parts = [
        f"{describe_shape(image)}{describe_extent(image)}",
        describe_pixel(image),
        describe_read(image),
        f"series {image['series']}" if image["series"] else "",
        describe_stack(image),
        describe_channels(image),
        counted(image["blocks"], "block"),
        "decoded whole" if image["decoded_whole_bytes"] else "",
        "" if image["truth"] else "no truth",
    ]
    return ", ".join(part for part in parts if part)


def counted(number: int, word: str) -> str:
    """Return a number and a word, in the plural unless the number is 1.

    Example:
        >>> counted(1, "block"), counted(0, "block")
        ('1 block', '0 blocks')
    """
    return f"{number} {word}{'' if number == 1 else 's'}"


def print_summary(images: Sequence[Mapping[str, Any]]) -> None:
    """Print the numbers of images by size, pixel size, channels and stack, and how many have truth."""
    kinds = {"sizes": describe_shape, "pixel sizes": describe_pixel, "channels": describe_channels, "stacks": describe_stack}
    for title, describe in kinds.items():
        groups = Counter(describe(image) for image in images)
        named = [f"{count} of {text}" for text, count in groups.most_common(SHOWN_KINDS) if text]
        more = [f"{len(groups) - SHOWN_KINDS} other kinds"] if len(groups) > SHOWN_KINDS else []
        if named:
            print(f"{title}: {'; '.join([*named, *more])}")
    sides = sorted((image["shape"] for image in images), key=math.prod)
    print(f"smallest {sides[0][0]} x {sides[0][1]} px, largest {sides[-1][0]} x {sides[-1][1]} px; --list names every image")
    print(f"truth: {sum(image['truth'] is not None for image in images)} of {len(images)} images")


def describe_shape(image: Mapping[str, Any]) -> str:
    """Return height and width in pixels."""
    return f"{image['shape'][0]} x {image['shape'][1]} px"


def describe_extent(image: Mapping[str, Any]) -> str:
    """Return height and width in the unit of the pixel size; empty if it is unknown."""
    if image["pixel_size"] is None:
        return ""
    height, width = (side * size for side, size in zip(image["shape"], image["pixel_size"], strict=True))
    return f" = {height:.6g} x {width:.6g} {UNITS[image['unit']]}"


def describe_pixel(image: Mapping[str, Any]) -> str:
    """Return the size of a pixel, and its source."""
    if image["pixel_size"] is None:
        return "pixel size unknown"
    height, width = image["pixel_size"]
    size = f"{height:.6g}" if math.isclose(height, width, rel_tol=1e-6) else f"{height:.6g} x {width:.6g}"
    source = f" by {image['pixel_size_from']}" if image["pixel_size_from"] else ""
    ground = f" = {image['ground_size'][0]:.4g} x {image['ground_size'][1]:.4g} m on the ground" if image.get("ground_size") else ""
    return f"{size} {UNITS[image['unit']]} a pixel{ground}{source}"


def describe_read(image: Mapping[str, Any]) -> str:
    """Return the level that is read and how it is resampled; empty if pixels are read unchanged."""
    read = image["read"]
    if read is None:
        return ""
    height, width = read["factor"]
    factor = f"{height:.4g}" if math.isclose(height, width, rel_tol=1e-3) else f"{height:.4g} x {width:.4g}"
    how = "unchanged" if (height, width) == (1.0, 1.0) else f"resampled, {factor} pixels to one"
    own = {**image, "shape": read["own_shape"], "pixel_size": read["own_pixel_size"], "pixel_size_from": "", "ground_size": None}
    level = f"level {read['level']} of {read['level_shape'][0]} x {read['level_shape'][1]} px"
    return f"from {describe_shape(own)} of {describe_pixel(own)}: {level}, {how}"


def describe_channels(image: Mapping[str, Any]) -> str:
    """Return number, type and names of the channels."""
    names = f" ({', '.join(image['channel_names'])})" if image["channel_names"] else ""
    return f"{counted(image['channels'], 'channel')} {image['dtype']}{names}"


def describe_stack(image: Mapping[str, Any]) -> str:
    """Return the length of each stack axis; empty for a single plane."""
    return " x ".join(f"{axis} {length}" for axis, length in image["stack"].items())
