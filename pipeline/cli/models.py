"""The commands ``gigaseg models`` and ``gigaseg models export``."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli.endings import done
from pipeline.cli.options import ExportFile, Json

__all__ = ["app"]

app = typer.Typer()


@app.callback(invoke_without_command=True)
def models(
    context: typer.Context,
    *,
    describe: Annotated[
        str | None,
        typer.Option("--describe", metavar="SPEC", help="Print parameters, stride, field, channels and classes of a model or bundle."),
    ] = None,
    probe: Annotated[str | None, typer.Option("--probe", metavar="SPEC", help="As --describe, and measure stride and field.")] = None,
    as_json: Json = False,
) -> None:
    """List the models and the trained bundles, or describe one."""
    if context.invoked_subcommand is not None:
        return
    from workflows import models as workflow

    if describe is not None or probe is not None:
        done(workflow.describe_model(probe or describe or "", measure=probe is not None, as_json=as_json))
    done(workflow.list_models(as_json=as_json))


@app.command()
def export(
    spec: Annotated[str, typer.Argument(metavar="NAME", help="A model's name, a trained bundle, or {name: ..}.")],
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="onnx, torchscript or bioimageio.")],
    output: ExportFile = None,
    *,
    channels: Annotated[
        int | None, typer.Option("--channels", min=1, metavar="C", help="Number of input channels, if the model accepts any.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a network for other programs."""
    from workflows import export as workflow

    done(workflow.export(spec, to, output, channels=channels, as_json=as_json))
