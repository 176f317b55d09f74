"""The viewer: a run, its images and its masks as tiles of pictures, on a page of this machine.

Owns: layers, tiles, the local server and its page, the static copy. May import: report, engine, records, inputs, readers and below.
Never touches: what a run has written, except to read it; files outside the run and its inputs.
"""

from __future__ import annotations

from pipeline.viewer.export import MAX_SIZE, export_run
from pipeline.viewer.runs import ViewedRun
from pipeline.viewer.server import make_app, serve

__all__ = ["MAX_SIZE", "ViewedRun", "export_run", "make_app", "serve"]
