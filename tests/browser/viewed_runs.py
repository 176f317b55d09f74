"""Two small runs on the same images, and a server that shows them, for the tests of the viewer."""

from __future__ import annotations

import csv
import threading
from contextlib import contextmanager

import yaml

from pipeline.viewer import ViewedRun
from tests.browser.runs import CLASSES, draw_run
from workflows.run import run

__all__ = ["EVIL_CLASS", "EVIL_NAME", "make_runs", "serving", "viewed"]

EVIL_NAME = "<img src=x onerror='window.ran=1'> \"quoted\" \u202eabc & " + " ".join(["long"] * 12)
EVIL_CLASS = "<script>window.ran=1</script><b>spot</b> \u202exyz " + "y" * 200
TOKEN = "token-of-the-tests"  # noqa: S105 - of a server that lives as long as a test


def make_runs(folder, *, side=256, images=3):
    """Run two models on the same drawn images; the last image and the last class have hostile names. Return the two outputs."""
    files = [f"well {index + 1}" for index in range(images)]
    classes = [*CLASSES[:2], {**CLASSES[2], "name": EVIL_CLASS}]
    config = draw_run(folder, side=side, names=files, classes=classes)
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
        names = [*files[:-1], EVIL_NAME]
        rows = [(f"images/{one}.png", name, f"truth/{one}.png") for one, name in zip(files, names, strict=True)]
        csv.writer(file).writerows([("image", "name", "truth"), *rows])
    common = {**config, "images": ["images.csv"], "truth": None, "tiling": {"core": 128, "block": 128}}
    for name, changes in (
        ("a", {"model": {"name": "histogram", "classes": 3}}),
        ("b", {"model": {"name": "kmeans", "classes": 3}, "instances": None}),
    ):
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**common, **changes, "output": name}))
        assert run(path) == 0
    return folder / "a", folder / "b"


@contextmanager
def viewed(*outputs):
    """Open runs as the viewer does, by ``a`` and ``b``."""
    runs = {key: ViewedRun(str(output)) for key, output in zip("ab", outputs, strict=False)}
    yield runs
    for one in runs.values():
        one.close()


@contextmanager
def serving(runs):
    """Serve runs from a thread of this process, and return the URL that lets a browser in."""
    import socket

    import uvicorn

    from pipeline.viewer.server import make_app

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(make_app(runs, TOKEN, port), log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}/?token={TOKEN}"
        server.should_exit = True
        thread.join(10)
