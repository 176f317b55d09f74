"""Map tiles that share a grid, as one image: context crosses their borders, and each pixel is written once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from pipeline.errors import BlockError, InputError, Problem, counted
from pipeline.plugins import build
from pipeline.raster import Header, Raster
from pipeline.readers import Reader
from pipeline.readers._file_states import State, state_of
from pipeline.readers._files import is_remote
from pipeline.readers._layout import check_level
from pipeline.readers._map_mosaic import MapMosaic, OpenTiles, TilePlaces
from pipeline.readers._mosaic_plan import MosaicPlan, make_plan
from pipeline.readers._tile_files import TileFile, list_tiles
from pipeline.readers._tile_grids import MOST_SHOWN, place_tiles
from pipeline.readers._tile_warp import GridMap, WarpedTile

__all__ = ["Mosaic"]

NUM_THREADS = 8
MOST_KEPT = 8  # mosaics whose plan is kept in memory

_kept: OrderedDict[tuple[Any, ...], tuple[list[TileFile], MosaicPlan]] = OrderedDict()
_keeping = threading.Lock()


class Mosaic(Reader):
    """Tiles below a folder that share coordinate system, pixel size, channels and type, and lie whole pixels apart.

    Each tile is opened by ``auto`` with the same options, and read by region. Where tiles overlap, the uppermost one that has data
    shows; gaps have no data. Tiles that do not fit are refused by name; with ``warp`` those of another grid are resampled: linear,
    or with ``palette: index``, as truth is read, by nearest pixels.

    Example::

        reader: {name: mosaic, tiles: "*.tif", overlap: last}
    """

    tiles: str = Field(default="*", min_length=1, description="glob of the tiles below the folder; ** is any number of folders")
    overlap: Literal["first", "last", "newest"] = Field(
        default="last", description="which tile shows where several overlap: the first or last by name, or the one written last"
    )
    warp: bool = Field(default=False, description="resample tiles of another coordinate system or pixel size; false: refuse them")
    index: str = Field(default="", description="the tiles as a plan found them, which a run passes to its actors; empty: look now")

    def companions(self, path: str) -> Sequence[str]:
        """Every tile, and the files beside it."""
        return [state[0] for state in self.file_states(path)]

    def file_states(self, path: str) -> tuple[State, ...]:
        """Return the states of every tile and of the files beside it."""
        return tuple(state for file in self._files(path) for state in file.states)

    def pinned(self, path: str) -> Mapping[str, Any]:
        """Return the list of tiles as an option, so that other processes read no header and see no tile that comes later."""
        return {"index": self._plan(path).to_text()}

    @contextmanager
    def open(self, path: str) -> Iterator[Raster]:
        """Open the tile that stands for all; others are opened when they are read."""
        plan = MosaicPlan.from_text(self.index, "reader.index") if self.index else self._plan(path)
        level = check_level(self, len(plan.zooms), path)
        folder = path.removeprefix("file://").rstrip("/")
        paths = [f"{folder}/{name}" for name in plan.names]
        with self._tile_reader(level).open(paths[plan.main]) as raster:
            header = plan.header(raster.header, level)
        y, x = plan.zooms[level]
        places = TilePlaces(plan.boxes // (y, x, y, x), plan.order)
        tiles = OpenTiles(self._opener(plan, paths, header, level, places))
        try:
            yield MapMosaic(header, places, tiles, _checker(plan) if self.index else lambda _: None)
        finally:
            tiles.close()

    def _tile_reader(self, level: int) -> Reader:
        """Return the reader of the tiles: ``auto`` with the options that all readers have."""
        return self._tile_readers.setdefault(level, self._build(level))

    @cached_property
    def _tile_readers(self) -> dict[int, Reader]:
        return {}

    def _build(self, level: int) -> Reader:
        options = {name: getattr(self, name) for name in Reader.model_fields} | {"level": level}
        options |= {"series": "largest"} if self.series == "all" else {}
        reader: Reader = build("readers", {"name": "auto", **options})
        return reader

    def _opener(
        self, plan: MosaicPlan, paths: Sequence[str], header: Header, level: int, places: TilePlaces
    ) -> Callable[[int], AbstractContextManager[Raster]]:
        """Return what opens a tile on the grid of the mosaic."""
        reader, warped = self._tile_reader(level), set(plan.warped)

        @contextmanager
        def open_tile(number: int) -> Iterator[Raster]:
            with reader.open(paths[number]) as raster:
                box, found = places.box(number), raster.header
                if number in warped:
                    grids = GridMap.between(found, header, paths[number])
                    yield WarpedTile(raster, box, grids, nearest=self.palette == "index")
                    return
                if (found.shape, found.channels, found.dtype) != (box.shape, header.channels, header.dtype):
                    found_text = f"{found.shape[0]} x {found.shape[1]} pixels, {counted(found.channels, 'channel')} of {found.dtype}"
                    expected = f"{box.shape[0]} x {box.shape[1]}, {header.channels} of {header.dtype}, as when the run was planned"
                    raise InputError(Problem(paths[number], found_text, expected, "Run again: the image is then segmented anew."))
                yield raster

        return open_tile

    def _files(self, path: str) -> list[TileFile]:
        return list_tiles(path, self.tiles, self._tile_reader(0))

    def _plan(self, path: str) -> MosaicPlan:
        """Read the headers of all tiles, or return what was found before if no file has changed."""
        files = self._files(path)
        key = path, self.model_dump_json(exclude={"level", "index"})
        with _keeping:
            known, plan = _kept.get(key, ([], None))
        if plan is None or known != files:
            plan = self._read_plan(files)
            with _keeping:
                _kept[key] = files, plan
                _kept.move_to_end(key)
                while len(_kept) > MOST_KEPT:
                    _kept.popitem(last=False)
        return plan

    def _read_plan(self, files: Sequence[TileFile]) -> MosaicPlan:
        if self.overlap == "newest" and is_remote(files[0].path):
            found = "overlap: newest, of tiles at a URL, whose times are not known"
            raise InputError(Problem(files[0].path.rpartition("/")[0], found, "overlap: first or last"))
        headers = self._headers(files)
        placed = place_tiles([file.path for file in files], headers, warp=self.warp)
        return make_plan(files, headers, placed, overlap=self.overlap, nearest=self.palette == "index")

    def _headers(self, files: Sequence[TileFile]) -> list[Header]:
        """Read the header of every tile; refuse the mosaic where one cannot be read."""
        reader = self._tile_reader(0)

        def header_of(file: TileFile) -> Header | InputError:
            try:
                with reader.open(file.path) as raster:
                    return raster.header
            except InputError as error:
                return error

        with ThreadPoolExecutor(NUM_THREADS) as pool:
            found = list(pool.map(header_of, files))
        errors = [one for one in found if isinstance(one, InputError)]
        if errors:
            more = len(errors) - MOST_SHOWN
            rest = [f"{counted(more, 'more tile')} of the mosaic cannot be opened"] if more > 0 else []
            raise InputError([*(problem for error in errors[:MOST_SHOWN] for problem in error.problems), *rest])
        return [one for one in found if isinstance(one, Header)]


def _checker(plan: MosaicPlan) -> Callable[[int], None]:
    """Return a function that raises BlockError where a tile, or a file beside it, is not as it was planned."""

    def check(number: int) -> None:
        for state in plan.states[number]:
            now = state_of(state[0])
            if now and now != state:
                raise BlockError(f"{state[0]}: changed while it was read. Run again: the image is then segmented anew")

    return check
