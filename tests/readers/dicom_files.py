"""Small DICOM slides of known pixels, one file an instance, as pydicom writes them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

TILE = 64
MPP = 0.25  # micrometres, of level 0


def _raw(tile: NDArray[Any]) -> bytes:
    return tile.tobytes()


def _rle(tile: NDArray[Any]) -> bytes:
    from pydicom.pixels.encoders import RLELosslessEncoder

    bits = tile.dtype.itemsize * 8
    facts = {"bits_allocated": bits, "bits_stored": bits, "pixel_representation": 0, "number_of_frames": 1, "planar_configuration": 0}
    kind = {"samples_per_pixel": tile[0, 0].size, "photometric_interpretation": "RGB" if tile.ndim == 3 else "MONOCHROME2"}
    return RLELosslessEncoder.encode(tile, rows=tile.shape[0], columns=tile.shape[1], **facts, **kind)


CODECS: dict[str, tuple[UID, Callable[[NDArray[Any]], bytes], str]] = {  # transfer syntax, encoder of a tile, photometric of colours
    "raw": (ExplicitVRLittleEndian, _raw, "RGB"),
    "rle": (RLELossless, _rle, "RGB"),
    "jpeg2000": (JPEG2000Lossless, lambda tile: imagecodecs.jpeg2k_encode(tile, codecformat="j2k", reversible=True), "YBR_RCT"),
    "jpegls": (JPEGLSLossless, imagecodecs.jpegls_encode, "RGB"),
    "jpeg": (JPEGBaseline8Bit, lambda tile: imagecodecs.jpeg8_encode(tile, level=98, subsampling="444"), "YBR_FULL_422"),
    "jpeg-rgb": (JPEGBaseline8Bit, lambda tile: imagecodecs.jpeg8_encode(tile, level=98, outcolorspace="RGB"), "RGB"),
}


def series(study: str | None = None) -> dict[str, str]:
    """Return the identifiers that the instances of one slide share."""
    return {"StudyInstanceUID": study or generate_uid(), "SeriesInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid()}


def slide(
    path: Path,
    planes_ZCYXS: NDArray[Any],
    uids: dict[str, str],
    *,
    codec: str = "raw",
    level: int = 0,
    kind: str = "VOLUME",
    absent: Collection[tuple[int, int]] = (),
    sparse: bool = False,
    names: Sequence[str] = (),
    bits: int = 0,
    origin: tuple[float, float] = (10.0, 20.0),
    offsets: str = "basic",
    **changes: Any,
) -> Dataset:
    """Write one instance: focal planes Z, optical paths C and samples S of a level; ``absent`` are (row, column) of tiles.

    ``changes`` are attributes that differ from those of a valid file. Where tiles are absent, or ``sparse`` says so, each frame
    has a position of its own.
    """
    num_planes, num_paths, height, width, samples = planes_ZCYXS.shape
    syntax, encode, photometric = CODECS[codec]
    data = _header(path, uids, syntax, planes_ZCYXS.dtype, bits)
    data.ImageType = ["ORIGINAL" if level == 0 else "DERIVED", "PRIMARY", kind, "NONE" if level == 0 else "RESAMPLED"]
    data.SamplesPerPixel, data.Rows, data.Columns = samples, TILE, TILE
    data.PhotometricInterpretation = photometric if samples == 3 else "MONOCHROME2"
    if samples == 3:
        data.PlanarConfiguration = 0
    data.TotalPixelMatrixRows, data.TotalPixelMatrixColumns = height, width
    data.TotalPixelMatrixFocalPlanes, data.NumberOfOpticalPaths = num_planes, num_paths
    data.TotalPixelMatrixOriginSequence = Items([_item(XOffsetInSlideCoordinateSystem=origin[0], YOffsetInSlideCoordinateSystem=origin[1])])
    data.ImagedVolumeWidth, data.ImagedVolumeHeight = width * MPP / 1e3 * 2**level, height * MPP / 1e3 * 2**level
    data.ImagedVolumeDepth = 1.0
    data.OpticalPathSequence = Items([_optical_path(index, names) for index in range(num_paths)])
    measures = _item(PixelSpacing=[MPP / 1e3 * 2**level] * 2, SliceThickness=0.001, SpacingBetweenSlices=0.0015)
    data.SharedFunctionalGroupsSequence = Items([_item(PixelMeasuresSequence=Items([measures]))])
    frames, groups = [], []
    for path_index in range(num_paths):
        for plane in range(num_planes):
            for row in range(-(-height // TILE)):
                for column in range(-(-width // TILE)):
                    if (row, column) not in absent:
                        part = planes_ZCYXS[plane, path_index, row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
                        tile = np.pad(part, [(0, TILE - part.shape[0]), (0, TILE - part.shape[1]), (0, 0)], mode="edge")
                        frames.append(encode(np.ascontiguousarray(tile if samples == 3 else tile[..., 0])))
                        groups.append(_position(row, column, plane, path_index))
    data.NumberOfFrames = len(frames)
    data.DimensionOrganizationType = "TILED_SPARSE" if absent or sparse else "TILED_FULL"
    if absent or sparse:
        data.PerFrameFunctionalGroupsSequence = Items(groups)
    _set_pixels(data, frames, syntax, offsets)
    for name, value in changes.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return data


def computed_tomography(path: Path) -> None:
    """Write a slice of a CT, which is no slide."""
    data = _header(path, series(), ExplicitVRLittleEndian, np.dtype(np.uint16), 0)
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = CTImageStorage
    data.Modality, data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = "CT", 8, 8, 1, "MONOCHROME2"
    data.PixelData = bytes(128)
    data.save_as(path, enforce_file_format=True)


def _header(path: Path, uids: dict[str, str], syntax: UID, dtype: np.dtype[Any], bits: int) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.Modality, data.PatientID, data.PatientName, data.ContainerIdentifier = "SM", "a", "a", "a"
    data.StudyDate = data.StudyTime = data.AccessionNumber = data.StudyID = data.PatientBirthDate = data.PatientSex = ""
    data.SeriesNumber, data.InstanceNumber = 1, 1
    for name, value in uids.items():
        setattr(data, name, value)
    data.BitsAllocated = dtype.itemsize * 8
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    data.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    data.LossyImageCompression = "01" if syntax == JPEGBaseline8Bit else "00"
    data.BurnedInAnnotation, data.VolumetricProperties, data.SpecimenLabelInImage, data.FocusMethod = "NO", "VOLUME", "NO", "AUTO"
    data.ExtendedDepthOfField = "NO"
    return data


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return item


def _optical_path(index: int, names: Sequence[str]) -> Dataset:
    item = _item(OpticalPathIdentifier=str(index))
    if names:
        item.OpticalPathDescription = names[index]
    return item


def _position(row: int, column: int, plane: int, path_index: int) -> Dataset:
    place = _item(
        ColumnPositionInTotalImagePixelMatrix=column * TILE + 1,
        RowPositionInTotalImagePixelMatrix=row * TILE + 1,
        XOffsetInSlideCoordinateSystem=0.0,
        YOffsetInSlideCoordinateSystem=0.0,
        ZOffsetInSlideCoordinateSystem=1.5 * plane,
    )
    identifier = _item(OpticalPathIdentifier=str(path_index))
    return _item(PlanePositionSlideSequence=Items([place]), OpticalPathIdentificationSequence=Items([identifier]))


def _set_pixels(data: Dataset, frames: Sequence[bytes], syntax: UID, offsets: str) -> None:
    """Store frames, with a basic table of offsets, an extended one, or none."""
    if not syntax.is_encapsulated:
        data.PixelData = b"".join(frames)
        data["PixelData"].VR = "OB" if data.BitsAllocated == 8 else "OW"
        return
    if offsets == "extended":
        data.PixelData, data.ExtendedOffsetTable, data.ExtendedOffsetTableLengths = encapsulate_extended(list(frames))
    else:
        data.PixelData = encapsulate(list(frames), has_bot=offsets == "basic")
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
