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
    config = draw_run(folder, side=side, images=images)
    (folder / "images" / "broken.png").unlink()
    rows = [(f"images/well {index + 1}.png", f"well {index + 1}", f"truth/well {index + 1}.png") for index in range(images)]
    rows[-1] = (rows[-1][0], EVIL_NAME, rows[-1][2])
    with (folder / "images.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "name", "truth"), *rows])
    classes = [*CLASSES[:2], {**CLASSES[2], "name": EVIL_CLASS}]
    common = {**config, "images": ["images.csv"], "truth": None, "classes": classes, "tiling": {"core": 128, "block": 128}}
    for name, model in (("a", "histogram"), ("b", "kmeans")):
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump({**common, "model": {"name": model, "classes": 3}, "output": name}))
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
