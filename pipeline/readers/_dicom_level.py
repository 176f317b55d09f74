"""One level of a DICOM slide: finds the frame of a tile among the instances, and decodes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, Problem
from pipeline.readers._color import holds_ycc, ycbcr_to_rgb

if TYPE_CHECKING:
    from wsidicom.codec import Decoder
    from wsidicom.file.io import WsiDicomReader

__all__ = ["DicomLevel"]

RLE = "1.2.840.10008.1.2.5"  # transfer syntaxes
JPEG2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", *(f"1.2.840.10008.1.2.4.{number}" for number in (201, 202, 203)))
JPEG_LS, END_OF_IMAGE = ("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), b"\xff\xd9"


class DicomLevel:
    """The instances of one level, with the frame of each tile."""

    def __init__(self, readers: Sequence[WsiDicomReader], path: str) -> None:
        first = readers[0].dataset
        if len({(one.dataset.tile_size, one.dataset.bits, one.dataset.samples_per_pixel) for one in readers}) > 1:
            raise InputError(Problem(path, "instances of one level whose tiles differ in size or type"))
        if not readers[0].transfer_syntax.is_encapsulated and first.bits not in (8, 16):
            raise InputError(Problem(path, f"uncompressed samples of {first.bits} bits", "8 or 16", "Convert the slide first."))
        self.readers = readers
        self.tile: tuple[int, int] = (first.tile_size.height, first.tile_size.width)
        self.bits: int = first.bits
        self.samples: int = first.samples_per_pixel
        self.dtype = np.dtype(np.uint8 if self.bits <= 8 else np.uint16)
        self.tile_bytes = self.tile[0] * self.tile[1] * self.samples * self.dtype.itemsize
        self.columns = -(-first.image_size.width // self.tile[1])  # of tiles
        parts: dict[str, list[WsiDicomReader]] = {}
        for reader in sorted(readers, key=lambda one: one.frame_offset):
            parts.setdefault(str(reader.uids.identifier), []).append(reader)  # files of one concatenation share it
        self.planes: dict[tuple[str, float], _Plane] = {}
        for instance in parts.values():
            for key, plane in _planes(instance, path).items():
                if key in self.planes:
                    raise InputError(Problem(path, f"two instances of one level for optical path {key[0]!r} at {key[1]:g} micrometres"))
                self.planes[key] = plane
        self.paths = tuple(dict.fromkeys(identifier for identifier, _ in self.planes))
        self.depths = tuple(sorted({depth for _, depth in self.planes}))
        is_whole = len(self.planes) == len(self.paths) * len(self.depths) and all(one.places is None for one in self.planes.values())
        self.is_sparse = not is_whole

    def decode(self, channel: int, depth: int, row: int, column: int) -> NDArray[Any] | None:
        """Decode a tile (Y, X, S) of an optical path and a focal plane; None if no instance holds it."""
        plane = self.planes.get((self.paths[channel], self.depths[depth]))
        number = plane.number(row * self.columns + column) if plane else None
        if plane is None or number is None:
            return None
        reader = next((one for one in plane.readers if 0 <= number - one.frame_offset < one.frame_count), None)
        if reader is None:
            raise ValueError(f"frame {number} is in none of the instance's files")
        frame = reader.read_frame(number)
        if reader.transfer_syntax in JPEG_LS and frame.rstrip(b"\0")[-2:] != END_OF_IMAGE:  # the decoder would take minutes on it
            raise ValueError(f"frame {number} is cut short")
        pixels: NDArray[Any] = np.asarray(plane.decoder.decode(frame))
        expected = (*self.tile, self.samples)
        if pixels.size != np.prod(expected) or pixels.shape[:2] != self.tile or pixels.dtype.itemsize > self.dtype.itemsize:
            raise ValueError(f"frame {number} holds {pixels.dtype} of {pixels.shape} instead of {self.dtype} of {expected}")
        return ycbcr_to_rgb(pixels) if self._leaves_ycc(reader, frame) else pixels.reshape(expected)

    def _leaves_ycc(self, reader: WsiDicomReader, frame: bytes) -> bool:
        """Whether decoded samples are still YCbCr: RLE, and JPEG 2000 without a colour transform of its own, do not convert."""
        if reader.dataset.photometric_interpretation not in ("YBR_FULL", "YBR_FULL_422", "YBR_ICT"):
            return False
        return reader.transfer_syntax == RLE or (reader.transfer_syntax in JPEG2000 and holds_ycc(frame))


@dataclass(frozen=True)
class _Plane:
    """The frames of one optical path at one focal depth."""

    readers: Sequence[WsiDicomReader]  # files of the instance in frame order
    decoder: Decoder
    first: int = 0  # frame of the first tile, if all tiles are stored row after row
    places: NDArray[np.int64] | None = None  # sorted indices of the stored tiles, counted row after row; None: all are stored
    numbers: NDArray[np.int64] | None = None  # the frames of these tiles

    def number(self, place: int) -> int | None:
        """Return the frame of a tile; None if it is not stored."""
        if self.places is None or self.numbers is None:
            return self.first + place
        index = int(np.searchsorted(self.places, place))
        return int(self.numbers[index]) if index < len(self.places) and self.places[index] == place else None


def _planes(readers: Sequence[WsiDicomReader], path: str) -> dict[tuple[str, float], _Plane]:
    """Return the planes of an instance by optical path and depth in micrometres."""
    from wsidicom.codec import Decoder
    from wsidicom.geometry import Point
    from wsidicom.instance import TileType
    from wsidicom.instance.tile_index.full_tile_index import FullTileIndex

    datasets = [reader.dataset for reader in readers]
    first = datasets[0]
    decoder = Decoder.create(
        readers[0].transfer_syntax, first.samples_per_pixel, first.bits, first.tile_size, first.photometric_interpretation
    )
    if first.tile_type == TileType.FULL:
        index = FullTileIndex(datasets)
        keys = [(identifier, depth) for identifier in index.optical_paths for depth in index.focal_planes]
        if sum(reader.frame_count for reader in readers) != len(keys) * index.tiled_size.area:
            raise InputError(Problem(path, "a tiled slide with missing frames", "", "Copy every file of the series."))
        return {(name, depth): _Plane(readers, decoder, index.get_frame_index(Point(0, 0), depth, name)) for name, depth in keys}
    return _sparse_planes(readers, decoder, path)


def _sparse_planes(readers: Sequence[WsiDicomReader], decoder: Decoder, path: str) -> dict[tuple[str, float], _Plane]:
    """Return the planes of an instance whose frames state their positions."""
    first = readers[0].dataset
    grid = first.image_size.ceil_div(first.tile_size)
    tiles: dict[tuple[str, float], list[NDArray[np.int64]]] = {}
    for reader in readers:
        frames = reader.dataset.frame_positions
        rows, row_rest = np.divmod(frames.rows - 1, first.tile_size.height)
        columns, column_rest = np.divmod(frames.columns - 1, first.tile_size.width)
        is_inside = (rows >= 0) & (rows < grid.height) & (columns >= 0) & (columns < grid.width)
        if row_rest.any() or column_rest.any() or not is_inside.all() or grid.area > np.iinfo(np.int64).max:
            raise InputError(Problem(path, "frames that do not lie on the grid of the slide's tiles"))
        count = len(rows)
        depths = np.full(count, reader.dataset.read_z_offset()) if frames.z_offsets is None else np.round(frames.z_offsets, 3)
        named = frames.optical_path_identifiers
        names = np.full(count, reader.dataset.read_optical_path_identifier()) if named is None else named
        stored = np.stack([rows * grid.width + columns, np.arange(count) + reader.frame_offset])
        for name, depth in sorted({(str(name), float(depth)) for name, depth in zip(names, depths, strict=True)}):
            tiles.setdefault((name, depth), []).append(stored[:, (names == name) & (depths == depth)])
    planes = {}
    for key, parts in tiles.items():
        places, numbers = np.concatenate(parts, axis=1)
        order = np.argsort(places, kind="stable")
        planes[key] = _Plane(readers, decoder, 0, places[order], numbers[order])
    return planes
