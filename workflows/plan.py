"""Say what a run would do, from the headers of its images; nothing is written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Config, Recipe, load_config, read_yaml
from pipeline.engine import phase
from pipeline.inputs import Catalogue, build_catalogue
from pipeline.records import RunFolder
from pipeline.scheduling import Stage, make_job, plan_blocks
from pipeline.training import is_training
from pipeline.tuning import (
    Calibration,
    choose_recipe,
    choose_runner,
    expect_backend,
    format_bytes,
    project_actor_bytes,
    reuse_recipe,
)

__all__ = ["plan", "plan_config"]


def plan(config_path: Path, overrides: Sequence[str] = (), *, as_json: bool = False) -> int:
    """Print what a run would do, or, for the YAML of a training, what it would learn from.

    Args:
        config_path: the YAML of a run or of a training.
        overrides: ``key.sub=value`` each, as after ``--set``.
        as_json: print one object instead of text.

    Returns:
        The exit code: 0, or 3 where an image cannot be read and the others can.

    Raises:
        InputError: every problem at once.
    """
    if is_training(read_yaml(config_path).data):
        from workflows.plan_training import plan_training

        return plan_training(config_path, overrides, as_json=as_json)
    content = plan_config(load_config(config_path, overrides))
    if as_json:
        print(json.dumps(content, indent=1))
    else:
        print_plan(content)
    return 3 if content["unreadable"] else 0


def plan_config(config: Config) -> dict[str, Any]:
    """Return what a run would do as plain values: images, blocks, bytes, memory, recipe and notes.

    Raises:
        InputError: every problem at once.
    """
    catalogue = build_catalogue(config)
    folder = RunFolder(config.output)
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
    stages = plan_blocks(catalogue, make_job(catalogue, choice.recipe))
    return plan_content(catalogue, choice.recipe, stages, notes)


def plan_content(catalogue: Catalogue, recipe: Recipe, stages: Mapping[str, Sequence[Stage]], notes: list[str]) -> dict[str, Any]:
    """Gather the object that ``--json`` prints."""
    blocks = {image: sum(len(stage.blocks) for stage in some if phase(stage.phase).is_result) for image, some in stages.items()}
    return {
        "images": [
            {
                "name": image.name,
                "path": image.path,
                "shape": list(image.header.shape),
                "planes": image.header.num_planes,
                "channels": image.header.channels,
                "dtype": image.header.dtype,
                "pixel_size": image.header.pixel_size,
                "blocks": blocks[image.name],
                "truth": image.truth,
                "decoded_whole_bytes": image.header.whole_bytes,
            }
            for image in catalogue.images
        ],
        "unreadable": [{"name": image.name, "path": image.path, "cause": image.cause} for image in catalogue.rejected],
        "ignored_files": catalogue.ignored,
        "pixels": catalogue.pixels,
        "blocks": sum(blocks.values()),
        "mask_bytes_uncompressed": catalogue.pixels * (1 if len(catalogue.classes) <= 255 else 2),
        "memory_bytes_per_actor": project_actor_bytes(catalogue, recipe),
        "memory_budget_bytes": catalogue.config.compute.memory_bytes,
        "recipe": recipe.to_dict(),
        "runner": choose_runner(catalogue),
        "notes": notes,
        "output": catalogue.config.output,
    }


def print_plan(content: Mapping[str, Any]) -> None:
    """Print the plan as text: a line an image, then tiles, compute, memory and notes."""
    for image in content["images"]:
        parts = [
            " x ".join(map(str, image["shape"])),
            f"{image['planes']} planes" if image["planes"] > 1 else "",
            f"{image['channels']} channels {image['dtype']}",
            f"{image['blocks']} blocks",
            "decoded whole" if image["decoded_whole_bytes"] else "",
            "" if image["truth"] else "no truth",
        ]
        print(f"{image['name']}: {', '.join(part for part in parts if part)}")
    for image in content["unreadable"]:
        print(f"unreadable: {image['path']}: {image['cause']}")
    recipe, megapixels = content["recipe"], content["pixels"] / 1e6
    halo_cost = ((recipe["core"] + 2 * recipe["halo"]) / recipe["core"]) ** 2
    need, budget = format_bytes(content["memory_bytes_per_actor"], up=True), format_bytes(content["memory_budget_bytes"])
    print(
        f"{len(content['images'])} images, {megapixels:.1f} Mpx, {content['blocks']} blocks; {content['ignored_files']} other files ignored"
    )
    print(f"tiles: core {recipe['core']}, halo {recipe['halo']}, block {recipe['block']}, stitch {recipe['stitch']}")
    print(f"halo: {halo_cost:.2f} x the pixels are computed on full tiles")
    how = f"{recipe['backend']} {recipe['precision']} on {recipe['device']}, batch {recipe['batch']}, {recipe['threads']} threads an actor"
    print(f"compute: runner {content['runner']}, {how}")
    print(f"memory: {need} an actor above its model, of {budget}")
    for note in content["notes"]:
        print(f"note: {note}")
    print(f"output: {content['output']}")
