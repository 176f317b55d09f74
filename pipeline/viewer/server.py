"""The local server: the page, its files, and what it asks of runs."""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import InputError, Problem, cause_of, printable
from pipeline.system import say
from pipeline.viewer.colors import transparent
from pipeline.viewer.images import LAYERS
from pipeline.viewer.runs import ViewedRun
from pipeline.viewer.security import Guard
from pipeline.viewer.worst import RANKS
from pipeline.web import VENDOR

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp

__all__ = ["PAGE", "SHARED", "make_app", "serve"]

PAGE = Path(__file__).parent / "page"
SHARED = (VENDOR / "openseadragon.min.js", VENDOR.parent / "colors.css")
TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}
KEEP_OPEN_S = 75  # connections on which nothing is asked
END_S = 5  # for requests that are being answered at Ctrl-C
NUM_THREADS = 4  # that read and draw
KEPT = "private, max-age=3600"  # tiles of a run that has ended
MOST = 2**31  # of any number in a request
Found = TypeVar("Found")
MOST_ROWS = 1000  # of a table, or of worst blocks, in one answer


class _Refused(Exception):
    """A request that cannot be answered: the status and what to say."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def serve(runs: Mapping[str, ViewedRun], *, port: int = 0, opened: Callable[[str], None]) -> None:
    """Answer requests on 127.0.0.1 until the process is interrupted.

    Args:
        runs: by ``a`` and ``b``.
        port: 0: a free one.
        opened: is told the URL, which holds the token, when the server listens.

    Raises:
        InputError: the port is taken.
    """
    import uvicorn

    # Without its protocol named, asyncio leaves out TCP_NODELAY, and every answer waits 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("127.0.0.1", port))
        except OSError as error:
            found = f"{port}, where this machine lets nobody listen ({error.strerror})"
            raise InputError(Problem("--port", found, "a free port")) from error
        port, token = listening.getsockname()[1], secrets.token_urlsafe(32)
        listening.listen()
        pool = ThreadPoolExecutor(NUM_THREADS, "viewer")
        quiet: dict[str, Any] = {"access_log": False, "log_level": "error", "server_header": False}
        times: dict[str, Any] = {"timeout_keep_alive": KEEP_OPEN_S, "timeout_graceful_shutdown": END_S}
        config = uvicorn.Config(make_app(runs, token, port, pool), lifespan="off", ws="none", **times, **quiet)
        try:
            with suppress(KeyboardInterrupt):  # uvicorn raises it again when it has ended
                opened(f"http://127.0.0.1:{port}/?token={token}")
                pool.submit(_open_first, runs["a"])  # what it raises is told where a page asks for the same
                uvicorn.Server(config).run(sockets=[listening])
        finally:
            pool.shutdown(cancel_futures=True)  # nothing reads any more when the caller closes the runs


def _open_first(run: ViewedRun) -> None:
    """Look at the first image while the browser starts: libraries are imported then, and the run's files are listed."""
    from PIL import Image  # noqa: F401 - the first tile needs it

    for name in list(run.names)[:1]:
        run.image(name)


def make_app(runs: Mapping[str, ViewedRun], token: str, port: int, pool: Executor | None = None) -> ASGIApp:
    """Return the application behind its guard; ``pool`` reads and draws, None: one of its own does."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    answers = _Answers(runs, pool or ThreadPoolExecutor(NUM_THREADS, "viewer"))
    asked = {name: getattr(answers, name) for name in ("run", "image", "worst", "at", "state", "objects", "object")}
    routes = [
        Route("/", answers.page, methods=["GET"]),
        Route("/static/{file}", answers.file, methods=["GET"]),
        *(Route(f"/api/{name}", partial(answers.json, answer), methods=["GET"]) for name, answer in asked.items()),
        Route("/tile/{run}/{layer}/{level}/{place}", answers.tile, methods=["GET"]),
    ]
    return Guard(Starlette(routes=routes, exception_handlers={404: _not_found, 405: _not_found}), token, port)


class _Answers:
    """Answers requests about runs; whatever a request names is looked up among what is known, and is never a path."""

    def __init__(self, runs: Mapping[str, ViewedRun], pool: Executor) -> None:
        self._runs, self._pool = runs, pool
        self._files = {path.name: path for path in (*PAGE.iterdir(), *SHARED)}
        self._told: set[str] = set()

    # ---- files of the page

    async def page(self, request: Request) -> Response:
        """Return the page."""
        return await self._served(lambda: _file(PAGE / "index.html"))

    async def file(self, request: Request) -> Response:
        """Return a script or a style of the page."""
        path = self._files.get(request.path_params["file"])
        return await self._served(lambda: _file(_known(path, "no such file")))

    # ---- values

    async def json(self, answer: Callable[[Request], Any], request: Request) -> Response:
        """Return what one of the methods below finds."""
        from starlette.responses import JSONResponse

        return await self._served(lambda: JSONResponse(answer(request)))

    def run(self, request: Request) -> dict[str, Any]:
        """Answer ``/api/run``."""
        return {**self._run(request).run(), "other": "b" in self._runs}

    def image(self, request: Request) -> dict[str, Any]:
        """Answer ``/api/image``."""
        run = self._run(request)
        return run.image(_name(run, request), self._other(run))

    def worst(self, request: Request) -> list[dict[str, Any]]:
        """Answer ``/api/worst``."""
        run, by = self._run(request), request.query_params.get("by", "error")
        name = _name(run, request) if "name" in request.query_params else None
        return run.worst(_known(by if by in RANKS else None, "no such rank"), name, _number(request, "count", 50, least=1, most=MOST_ROWS))

    def at(self, request: Request) -> dict[str, Any]:
        """Answer ``/api/at``."""
        run = self._run(request)
        return run.at(_name(run, request), *(_number(request, key) for key in ("plane", "y", "x")))

    def objects(self, request: Request) -> dict[str, Any]:
        """Answer ``/api/objects``."""
        run, query = self._run(request), request.query_params
        return run.objects(
            _name(run, request),
            sort=query.get("sort", "id"),
            descending=_number(request, "descending") > 0,
            offset=_number(request, "offset"),
            limit=_number(request, "limit", 50, most=MOST_ROWS),
            class_id=_number(request, "class") if query.get("class") else None,
        )

    def object(self, request: Request) -> dict[str, Any]:
        """Answer ``/api/object``."""
        run = self._run(request)
        return _known(run.object(_name(run, request), _number(request, "id", most=2**63)), "no such object")

    def state(self, request: Request) -> dict[str, Any]:
        """Answer ``/api/state``."""
        return self._run(request).state(_number(request, "since"))

    # ---- tiles

    async def tile(self, request: Request) -> Response:
        """Return a tile."""
        return await self._served(lambda: self._tile(request))

    def _tile(self, request: Request) -> Response:
        from starlette.responses import Response

        path = request.path_params
        run, layer = (
            _known(self._runs.get(path["run"]), "no such run"),
            _known(path["layer"] if path["layer"] in LAYERS else None, "no such layer"),
        )
        place = _known(re.fullmatch(r"(\d{1,7})_(\d{1,7})\.png", path["place"]), "no such tile")
        level = _known(re.fullmatch(r"\d{1,2}", path["level"]), "no such level")
        shown = request.query_params.get("classes")
        tile = run.tile(
            layer,
            int(level[0]),
            int(place[1]),
            int(place[2]),
            name=_name(run, request),
            plane=_number(request, "plane"),
            classes=None if shown is None else _numbers(shown, "classes"),
            channels=request.query_params.get("channels") or None,
            chosen=_number(request, "object"),
            other=self._other(run),
        )
        found = _known(tile, "outside the picture")
        data = transparent(*found.size) if found.data is None else found.data
        kept = KEPT if found.is_final and not run.progress.goes_on else "no-store"
        kind = "image/jpeg" if data[:2] == b"\xff\xd8" else "image/png"
        return Response(data, media_type=kind, headers={"cache-control": kept})

    # ---- how requests are answered

    def _run(self, request: Request) -> ViewedRun:
        return _known(self._runs.get(request.query_params.get("run", "a")), "no such run")

    def _other(self, run: ViewedRun) -> ViewedRun | None:
        """Return the run that a run is compared with."""
        return next((other for other in self._runs.values() if other is not run), None)

    async def _served(self, answer: Callable[[], Response]) -> Response:
        """Answer in a thread of the pool; errors are JSON, without a traceback."""
        from starlette.responses import JSONResponse

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, answer)
        except _Refused as error:
            return JSONResponse({"error": str(error)}, error.status)
        except InputError as error:
            return JSONResponse({"error": "; ".join(map(str, error.problems))}, 400)
        except Exception as error:  # noqa: BLE001 - decoders of damaged files raise anything
            self._tell(error)
            return JSONResponse({"error": "this part cannot be read; the terminal of `gigaseg view` says why"}, 500)

    def _tell(self, error: Exception) -> None:
        """Print an error once: every tile of a damaged file has the same one."""
        text = printable(f"gigaseg: {cause_of(error)}")
        if text not in self._told and len(self._told) < 1000:
            self._told.add(text)
            say(text, event="unreadable", level="warning")


async def _not_found(request: Request, error: Exception) -> Response:
    from starlette.responses import JSONResponse

    del request, error
    return JSONResponse({"error": "no such page"}, 404)


def _file(path: Path) -> Response:
    from starlette.responses import Response

    return Response(path.read_bytes(), media_type=TYPES[path.suffix], headers={"cache-control": "no-cache"})


def _known(value: Found | None, text: str) -> Found:
    """Return what was found; nothing found is answered with 404."""
    if value is None:
        raise _Refused(404, text)
    return value


def _name(run: ViewedRun, request: Request) -> str:
    name = request.query_params.get("name", "")
    return _known(name if name in run.names else None, "no such image")


def _number(request: Request, key: str, default: int = 0, *, least: int = 0, most: int = MOST) -> int:
    text = request.query_params.get(key)
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,15}", text):
        raise _Refused(400, f"{key} is no whole number")
    return max(least, min(most, int(text)))


def _numbers(text: str, key: str) -> frozenset[int]:
    parts = [part for part in text.split(",") if part]
    if not all(re.fullmatch(r"\d{1,5}", part) for part in parts):
        raise _Refused(400, f"{key} are no whole numbers")
    return frozenset(map(int, parts))
