"""Show a run on a page of this machine, or write a copy of that page."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from pipeline.inputs import Catalogue
from pipeline.records import RunFolder
from pipeline.storage import StorageLike
from pipeline.viewer import MAX_SIZE, ViewedRun, export_run, serve

__all__ = ["view"]


def view(
    output: StorageLike,
    other: StorageLike | None = None,
    *,
    port: int = 0,
    opens: bool = False,
    export: Path | None = None,
    names: Sequence[str] = (),
    max_size: int = MAX_SIZE,
) -> int:
    """Print the URL of a page that shows a run, and serve it until Ctrl-C; or write a copy that needs no server.

    Args:
        output: folder or URL of the run, which may go on.
        other: of a run that it is compared with.
        port: to listen on, of 127.0.0.1; 0: a free one.
        opens: whether to open the page in the browser as well.
        export: folder of the copy; None: serve.
        names: images that are copied; empty: all.
        max_size: longer side of the largest level that is copied, pixels; 0: the full size.

    Returns:
        0.

    Raises:
        InputError: no run is here, or the port is taken.
    """
    with ExitStack() as stack:
        runs: dict[str, ViewedRun] = {}
        for key, where in (("a", output), ("b", other)):
            if where is not None:
                runs[key] = ViewedRun(where, catalogue_of(RunFolder(where)))
                stack.callback(runs[key].close)
        if export is not None:
            export_run(runs, export, names=names, max_size=max_size)
            return 0
        serve(runs, port=port, opened=lambda url: show(url, opens=opens))
    return 0


def catalogue_of(folder: RunFolder) -> Callable[[], Catalogue] | None:
    """Return what gives the masks that a run scored; None: it made its masks itself."""
    from workflows.evaluate import scored_masks  # imports all that scoring needs

    recorded = folder.require()
    return (lambda: scored_masks(folder)) if "evaluate" in recorded.get("identity", {}) else None


def show(url: str, *, opens: bool) -> None:
    """Print where the page is, and open it if asked."""
    print(url, flush=True)
    print("Ctrl-C ends it.", file=sys.stderr)
    if opens:
        import webbrowser

        webbrowser.open(url)
