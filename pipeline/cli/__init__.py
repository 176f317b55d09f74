"""The command line: arguments in, one workflow called, an exit code out.

Nothing heavy is imported before a command runs, so that ``--help`` answers at once.

Owns: arguments, options, exit codes, how an error is printed. May import: workflows, inside commands, and base modules.
Never touches: what a command does.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline import __version__
from pipeline.cli import models
from pipeline.cli.endings import done, explain
from pipeline.cli.options import (
    LOOPBACK,
    BlockName,
    CompareJson,
    ComparisonFolder,
    ConfigFile,
    CopiedImages,
    CopyFolder,
    CopySize,
    Folder,
    Fresh,
    Images,
    Json,
    LogJson,
    MaybeModel,
    MetricsHost,
    MetricsPort,
    ModelName,
    MosaicName,
    OtherFolder,
    Output,
    Overrides,
    Subject,
    TakeOver,
    TrainFile,
    ViewPort,
    refuse_alone,
)
from pipeline.system import remember_interrupts, write_json

__all__ = ["app", "main"]

app = typer.Typer(
    name="gigaseg",
    help="Segment images too large for memory: a YAML goes in; masks and a per-class IoU report come out.",
    epilog="Exit codes: 0 done; 1 could not go on; 2 wrong input; 3 done but for what is quarantined; 4 already running; "
    "130 interrupted, resumable.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models.app, name="models")


def show_version(asked: bool) -> None:
    """Print the version and end; other options are ignored."""
    if asked:
        print(f"gigaseg {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; GIGASEG_DEBUG=1 does the same.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=show_version)] = False,  # noqa: ARG001 - the callback answers
) -> None:
    """Options of every command."""
    if debug:
        os.environ["GIGASEG_DEBUG"] = "1"


@app.command()
def run(
    config: ConfigFile,
    overrides: Overrides = None,
    *,
    fresh: Fresh = False,
    take_over: TakeOver = False,
    max_failed: Annotated[int | None, typer.Option("--max-failed", min=0, metavar="N", help="Give up above N quarantined blocks.")] = None,
    no_queue: Annotated[bool, typer.Option("--no-queue", help="Refuse a cluster that is busy instead of waiting for room.")] = False,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    log_json: LogJson = False,
) -> None:
    """Plan, segment, report; run again to resume."""
    from workflows import run as workflow

    use_json(log_json)
    limits: dict[str, Any] = {"max_failed": max_failed, "queues": not no_queue}
    refuse_alone("--metrics-host", metrics_host, "--metrics-port", metrics_port)
    metrics: dict[str, Any] = {"metrics_port": metrics_port, "metrics_host": metrics_host or LOOPBACK}
    done(workflow.run(config, overrides or [], fresh=fresh, take_over=take_over, **limits, **metrics))


@app.command()
def segment(
    images: Images,
    model: ModelName,
    output: Output,
    overrides: Overrides = None,
    *,
    instances: Annotated[bool, typer.Option("--instances", help="Tell objects apart by the method that the model declares.")] = False,
    mosaic: MosaicName = None,
    fresh: Fresh = False,
    take_over: TakeOver = False,
) -> None:
    """Segment images without a YAML; the output folder's config.yaml is the one that was used."""
    from workflows import segment as workflow

    done(workflow.segment(images, model, output, overrides or [], instances=instances, mosaic=mosaic, fresh=fresh, take_over=take_over))


@app.command()
def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    *,
    as_json: Json = False,
    every: Annotated[bool, typer.Option("--list", help="Name every image and every file that is left out.")] = False,
) -> None:
    """Print what a run or a training would do; nothing is written."""
    from workflows import plan as workflow

    done(workflow.plan(config, overrides or [], as_json=as_json, every=every))


@app.command()
def status(
    folder: Folder,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="Print again whenever something changes, and end as the run ends.")] = False,
    every: Annotated[float | None, typer.Option("--every", min=0.1, metavar="S", help="Seconds between two looks of --watch.")] = None,
    as_json: Json = False,
) -> None:
    """Print how far a run is, from its output alone."""
    from workflows import status as workflow

    refuse_alone("--every", every, "--watch", watch or None)
    done(workflow.status(folder, as_json=as_json, watch=watch, every=every))


@app.command()
def retry(folder: Folder, block: BlockName = None, *, log_json: LogJson = False) -> None:
    """Try quarantined blocks again."""
    from workflows import retry as workflow

    use_json(log_json)
    done(workflow.retry(folder, block))


@app.command()
def report(folder: Folder, other: OtherFolder = None, output: ComparisonFolder = None, *, as_json: CompareJson = False) -> None:
    """Write the report of a run again, from its ledger; with OTHER, compare two runs or two trainings over the images that both have."""
    from workflows import compare
    from workflows import report as workflow

    refuse_alone("--output", output, "OTHER", other)
    refuse_alone("--json", as_json or None, "OTHER", other)
    if other is None:
        done(workflow.report(folder))
    done(compare.compare(folder, other, output, as_json=as_json))


@app.command()
def view(
    folder: Folder,
    other: OtherFolder = None,
    *,
    port: ViewPort = 0,
    opens: Annotated[bool, typer.Option("--open", help="Open the page in the browser as well.")] = False,
    export: CopyFolder = None,
    images: CopiedImages = None,
    max_size: CopySize = None,
) -> None:
    """Look at the images, masks and errors of a run on a page of this machine.

    To see it from another machine: give --port N here, run `ssh -L N:127.0.0.1:N HOST` there, and open the printed URL there.
    """
    from workflows import view as workflow

    refuse_alone("--images", images, "--export", export)
    refuse_alone("--max-size", max_size, "--export", export)
    size: dict[str, Any] = {} if max_size is None else {"max_size": max_size}
    done(workflow.view(folder, other, port=port, opens=opens, export=export, names=images or (), **size))


@app.command()
def stop(folder: Folder) -> None:
    """Ask a run to stop after the blocks in flight; it can be resumed."""
    from workflows import stop as workflow

    done(workflow.stop(folder))


@app.command()
def watch(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where images arrive: a folder or a bucket; it replaces `images`.")],
    config: Annotated[Path, typer.Option("--config", "-c", metavar="CONFIG.yaml", help="The YAML of the run.")],
    overrides: Overrides = None,
    settle: Annotated[float, typer.Option("--settle", min=0, metavar="S", help="Seconds without a change until an image is taken.")] = 30.0,
    every: Annotated[float, typer.Option("--every", min=0.1, metavar="S", help="Seconds between two looks at the folder.")] = 10.0,
    schedule: Annotated[str | None, typer.Option("--schedule", metavar="CRON", help="Print lines for cron and scrontab, and end.")] = None,
    *,
    once: Annotated[bool, typer.Option("--once", help="Wait --settle seconds, take what has not changed, and end.")] = False,
    as_json: Json = False,
) -> None:
    """Segment images that arrive and have stopped growing, each once."""
    from workflows import watch as workflow

    if schedule is not None:
        done(workflow.print_schedule(schedule, folder, config, overrides or [], settle_s=settle, every_s=every, as_json=as_json))
    done(workflow.watch(folder, config, overrides or [], settle_s=settle, every_s=every, once=once, as_json=as_json))


@app.command()
def evaluate(
    pred: Annotated[str, typer.Option("--pred", metavar="P", help="Masks that hold class ids: a file, folder or glob.")],
    truth: Annotated[
        str, typer.Option("--truth", metavar="T", help="Masks or polygons: a file, folder, truth/{stem}.png; or an earlier run.")
    ],
    output: Output,
    classes: Annotated[Path | None, typer.Option("--classes", metavar="FILE.yaml", help="The `classes` list of a config.")] = None,
    ignore: Annotated[
        str | None, typer.Option("--ignore", metavar="V", help="Truth value, colour or names left out of every count.")
    ] = None,
    attribute: Annotated[str | None, typer.Option("--attribute", metavar="A", help="Attribute of polygons that names the class.")] = None,
    layer: Annotated[str | None, typer.Option("--layer", metavar="L", help="Layer of the file of polygons.")] = None,
    *,
    all_touched: Annotated[bool, typer.Option("--all-touched", help="Polygons cover every pixel that they touch.")] = False,
    instances: Annotated[
        bool, typer.Option("--instances", help="The masks are label images: match their objects with the truth objects.")
    ] = False,
    change: Annotated[bool, typer.Option("--change", help="T is an earlier state: report areas from class to class.")] = False,
) -> None:
    """Score masks that exist."""
    from workflows import evaluate as workflow

    options = {"attribute": attribute, "layer": layer, "all_touched": all_touched or None}
    given = {key: value for key, value in options.items() if value is not None}
    source = {"path": truth, **given} if given else truth
    done(workflow.evaluate(pred, source, classes, ignore, output, instances=instances, change=change))


@app.command()
def train(
    config: TrainFile, overrides: Overrides = None, *, fresh: Fresh = False, take_over: TakeOver = False, log_json: LogJson = False
) -> None:
    """Train a network; run again to resume."""
    from workflows import train as workflow

    use_json(log_json)
    done(workflow.train(config, overrides or [], fresh=fresh, take_over=take_over))


@app.command()
def convert(images: Images, output: Output, overrides: Overrides = None) -> None:
    """Copy anything readable into OME-Zarr."""
    from workflows import convert as workflow

    done(workflow.convert(images, output, overrides or []))


@app.command()
def submit(
    config: ConfigFile,
    to: Annotated[str, typer.Option("--to", metavar="TARGET", help="The kind of cluster: ray, slurm or kuberay.")],
    overrides: Overrides = None,
    address: Annotated[str | None, typer.Option("--address", metavar="URL", help="Ray: address of the Jobs API, http://HEAD:8265.")] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, metavar="N", help="Slurm, KubeRay: machines.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option("--gpus-per-node", min=0, metavar="G", help="Slurm, KubeRay: GPUs of each.")] = None,
    time: Annotated[str | None, typer.Option("--time", metavar="T", help="Slurm: time limit, such as 08:00:00.")] = None,
    partition: Annotated[str | None, typer.Option("--partition", metavar="P", help="Slurm: partition.")] = None,
    array: Annotated[
        int | None, typer.Option("--array", min=2, metavar="N", help="Slurm: tasks that share the images, without Ray.")
    ] = None,
    schedule: Annotated[str | None, typer.Option("--schedule", metavar="CRON", help='Slurm, KubeRay: times to run: "0 2 * * *".')] = None,
    image: Annotated[str | None, typer.Option("--image", metavar="NAME", help="KubeRay: container image.")] = None,
    options: Annotated[Path | None, typer.Option("--options", metavar="FILE.yaml", help="More options of the target.")] = None,
    *,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run ends, and return its exit code.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent; contact nothing.")] = False,
    logs: Annotated[bool, typer.Option("--logs", help="Print what the last job of this run printed.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Ask the job of this run to end; it can be resumed.")] = False,
) -> None:
    """Start a run on a cluster."""
    from workflows import submit as workflow

    asked = {"wait": wait, "dry_run": dry_run, "logs": logs, "stop": stop}
    flags = {"address": address, "nodes": nodes, "gpus_per_node": gpus_per_node, "time": time, "partition": partition}
    flags |= {"array": array, "schedule": schedule, "image": image}
    done(workflow.submit(config, overrides or [], to=to, flags=flags, options=options, action=workflow.only_one(asked)))


@app.command()
def readers(*, as_json: Json = False) -> None:
    """List the readers and what they read."""
    from workflows import plugins as workflow

    done(workflow.list_plugins("readers", as_json=as_json))


@app.command()
def writers(*, as_json: Json = False) -> None:
    """List the writers."""
    from workflows import plugins as workflow

    done(workflow.list_plugins("writers", as_json=as_json))


@app.command()
def schema(*, training: Annotated[bool, typer.Option("--training", help="The schema of a training's YAML.")] = False) -> None:
    """Print the JSON schema of the YAML, for editors."""
    from workflows import schema as workflow

    done(workflow.schema(training=training))


@app.command()
def init(kind: Annotated[str, typer.Argument(metavar="KIND", help="microscopy, aerial or training.")]) -> None:
    """Write a ready, commented YAML into this folder."""
    from workflows import init as workflow

    done(workflow.init(kind, Path.cwd()))


@app.command()
def bench(what: Subject = None, model: MaybeModel = None, overrides: Overrides = None, *, as_json: Json = False) -> None:
    """Measure the speed here: of the model alone, and of a piece of the run."""
    from workflows import bench as workflow

    done(workflow.bench(what, model, overrides or [], as_json=as_json))


@app.command()
def doctor(*, as_json: Json = False) -> None:
    """Print what this machine has, and what is missing."""
    from workflows import doctor as workflow

    done(workflow.doctor(as_json=as_json))


def use_json(asked: bool) -> None:
    """Write messages as JSON from now on where ``--log-json`` was given."""
    if asked:
        write_json()


@remember_interrupts()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, by default with the arguments of this process, and return its exit code, as ``--help`` lists them."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that the terminal cannot encode must not end a run
    try:
        exit_code = invoke(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of stdout is gone; without this, Python prints another error when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the user gets one line and an exit code whatever is raised
        return explain(error)
    return exit_code


def invoke(arguments: Sequence[str] | None) -> int:
    """Parse the arguments, run the command and return its exit code; typer explains wrong usage, which is 2."""
    try:
        typer.main.get_command(app).main(args=arguments, prog_name="gigaseg")
    except SystemExit as end:
        return int(end.code or 0)
    return 0
