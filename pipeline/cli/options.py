"""Arguments and options of the command line that several commands have, or that are long."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import InputError, Problem

__all__ = [
    "LOOPBACK",
    "BlockName",
    "CompareJson",
    "ComparisonFolder",
    "ConfigFile",
    "CopiedImages",
    "CopyFolder",
    "CopySize",
    "ExportFile",
    "Folder",
    "Fresh",
    "Images",
    "Json",
    "LogJson",
    "MaybeModel",
    "MetricsHost",
    "MetricsPort",
    "ModelName",
    "MosaicName",
    "OtherFolder",
    "Output",
    "Overrides",
    "Subject",
    "TakeOver",
    "TrainFile",
    "ViewPort",
    "refuse_alone",
]

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The YAML; `gigaseg init` writes one to start from.")]
TrainFile = Annotated[Path, typer.Argument(metavar="TRAIN.yaml", help="The YAML; `gigaseg init training` writes one to start from.")]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="The output folder of a run.")]
OtherFolder = Annotated[
    str | None, typer.Argument(metavar="OTHER", help="The output of another run, of `evaluate`, or of another training, to compare.")
]
ComparisonFolder = Annotated[
    str | None, typer.Option("--output", "-o", metavar="FOLDER", help="Where a comparison goes; by default beside the report of DIR.")
]
CompareJson = Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")]
ViewPort = Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="Port on 127.0.0.1; by default a free one.")]
CopyFolder = Annotated[
    Path | None, typer.Option("--export", metavar="FOLDER", help="Write a copy that opens from disk into a new folder, and end.")
]
CopiedImages = Annotated[list[str] | None, typer.Option("--images", metavar="NAME", help="Copy this image; may be repeated.")]
CopySize = Annotated[
    int | None, typer.Option("--max-size", min=0, metavar="PX", help="Longer side of what is copied, 8192 by default; 0: the full size.")
]
Images = Annotated[list[str], typer.Argument(metavar="IMAGES...", help="Files, folders, globs, URLs or a CSV.")]
Output = Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="Where the results go.")]
ModelName = Annotated[str, typer.Option("--model", "-m", metavar="NAME|BUNDLE", help="A model's name, or a trained bundle.")]
MosaicName = Annotated[
    str | None, typer.Option("--mosaic", metavar="NAME", help="The map tiles of one folder or quoted glob are one image of this name.")
]
MaybeModel = Annotated[
    str | None, typer.Option("--model", "-m", metavar="NAME|BUNDLE", help="Needed where an image is given instead of a YAML.")
]
BlockName = Annotated[str | None, typer.Option("--block", metavar="ID", help="Only this block, as failures.csv names it.")]
Subject = Annotated[str | None, typer.Argument(metavar="[CONFIG.yaml|IMAGE]", help="By default a sample image and a shipped bundle.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY.SUB=VALUE", help="Override a key of the YAML; repeatable.")]
ExportFile = Annotated[Path | None, typer.Option("--output", "-o", metavar="PATH", help="The file to write; by default in this folder.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Remove earlier results from the output folder and start over.")]
TakeOver = Annotated[bool, typer.Option("--take-over", help="Take the output folder from the live process that holds it.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
LogJson = Annotated[
    bool, typer.Option("--log-json", envvar="GIGASEG_LOG_JSON", help="Write messages on stderr as JSON, one object a line.")
]
MetricsPort = Annotated[
    int | None, typer.Option("--metrics-port", min=1, max=65535, metavar="N", help="Serve metrics for Prometheus on this port.")
]
LOOPBACK = "127.0.0.1"
MetricsHost = Annotated[
    str | None,
    typer.Option(
        "--metrics-host",
        metavar="ADDRESS",
        help=f"Address to serve them on, by default {LOOPBACK}; anybody who reaches it may read them.",
    ),
]


def refuse_alone(option: str, value: object, needed: str, given: object) -> None:
    """Raise InputError where an option is given without the one that it belongs to; None: not given."""
    if value is not None and given is None:
        raise InputError(Problem(option, f"{value} without {needed}", "both", f"Add {needed}, or leave out {option}."))
