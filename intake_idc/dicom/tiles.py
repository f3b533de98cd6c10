"""The tiles of a slide: which frame holds which pixels of the total matrix.

An object of whole slide microscopy is one large image, the total pixel matrix
(PS3.3 C.8.12.4), cut into tiles that are its frames. Either all tiles are there, in
order (TILED_FULL, C.7.6.17.3), and a tile's frame is arithmetic; or each frame says
where it lies (TILED_SPARSE), and some places have none. A matrix may be spread over
several objects, by runs of its frames (concatenation, C.7.6.16.2.2.4).

Rows, columns and frames count from 0; DICOM counts them from 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from intake_idc.dicom.frames import BITS
from intake_idc.dicom.positions import read_positions
from intake_idc.dicom.reading import PYDICOM_RAISES, Dataset, read_until
from intake_idc.dicom.walking import Read
from intake_idc.errors import DicomReadError, GeometryError, RequestError

if TYPE_CHECKING:
    import numpy.typing as npt

    from intake_idc.dicom.tables import ReadMany

__all__ = ["ROLES", "OpticalPath", "Places", "Tiling", "read_tiling"]

PER_FRAME = 0x52009230
"""Per-Frame Functional Groups Sequence (PS3.3 C.7.6.16): 2 kB for each frame."""
ROLES = ("VOLUME", "LABEL", "OVERVIEW", "THUMBNAIL")
"""What an image of a slide is, by the third value of its Image Type
(PS3.3 C.8.12.4.1.1)."""
MOST_CHANNELS = 2**16
"""Optical paths, and focal planes."""
MOST_TILES = 2**26
"""Tiles of one plane; a slide of 300,000 x 300,000 pixels has 1.4 million."""


class OpticalPath(NamedTuple):
    """One channel of a slide (PS3.3 C.8.12.5), or one segment of a segmentation."""

    identifier: str
    """Its Optical Path Identifier, or Segment Number."""
    description: str = ""
    """What it is, in words; may be empty."""


class Places(NamedTuple):
    """Some frames of an object, and where they lie: arrays of one length, int64."""

    frame: npt.NDArray[np.int64]
    """Frame of this object, from 0."""
    row: npt.NDArray[np.int64]
    """Row of the total matrix that its first row is; may be below 0 where sparse."""
    column: npt.NDArray[np.int64]
    """Column of the total matrix that its first column is."""
    plane: npt.NDArray[np.int64]
    """Place of its focal plane in `Tiling.heights`."""
    path: npt.NDArray[np.int64]
    """Place of its optical path in `Tiling.paths`."""


@dataclass(frozen=True)
class Tiling:
    """What an object says of the matrix that it is cut from. It travels."""

    rows: int
    """Rows of the total pixel matrix."""
    columns: int
    """Columns of it."""
    tile_rows: int
    """Rows of a tile."""
    tile_columns: int
    """Columns of a tile."""
    frames: int
    """Frames of this object."""
    samples: int
    """1, or 3 for colour."""
    bits_stored: int
    """Bits of a sample that count."""
    dtype: str
    """Type of a stored value, as NumPy writes it, such as ``"|u1"``."""
    photometric_interpretation: str
    """What the samples mean, such as ``"YBR_FULL_422"``."""
    role: str
    """One of `ROLES`, or empty where the Image Type names none of them."""
    paths: tuple[OpticalPath, ...]
    """Optical paths, in order."""
    heights: tuple[float, ...]
    """Focal planes: height above the slide in mm, in order."""
    spacing: tuple[float, float] | None
    """Distance in mm between rows, between columns; None where it is not said."""
    matrix: tuple[tuple[float, ...], ...] | None
    """Rows of the `affine`; None where the object does not say where it lies."""
    sop_instance_uid: str
    """SOP Instance UID."""
    concatenation: str = ""
    """Concatenation UID, where the matrix is spread over several objects."""
    first_frame: int = 0
    """Which frame of the whole concatenation the first of this object is."""
    absent: tuple[int, int, int] | None = None
    """Recommended Absent Pixel CIELab Value: what missing tiles are to be shown in."""
    positions: bytes = b""
    """Of a sparse matrix: row, column, plane and path of each frame, int32, little
    endian; empty where all tiles are there."""

    @property
    def affine(self) -> npt.NDArray[np.float64] | None:
        """3x3, float64: from ``(row, column, 1)`` to ``(x, y, 1)``, in mm.

        In the coordinates of the slide (PS3.3 C.8.12.2.1), at the centres of pixels.
        """
        return None if self.matrix is None else np.array(self.matrix)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.rows // self.tile_rows), -(-self.columns // self.tile_columns)

    @property
    def sparse(self) -> bool:
        """Whether each frame says where it lies."""
        return bool(self.positions)

    def places(
        self,
        row: int = 0,
        column: int = 0,
        height: int | None = None,
        width: int | None = None,
    ) -> Places:
        """Give the frames that hold pixels of a region, in order of the frames.

        Parameters
        ----------
        row, column : int
            First row and column of the region.
        height, width : int, optional
            Its size; the rest of the matrix by default.
        """
        bottom = self.rows if height is None else min(row + height, self.rows)
        right = self.columns if width is None else min(column + width, self.columns)
        box = max(row, 0), max(column, 0), bottom, right
        return self._said(*box) if self.sparse else self._counted(*box)

    def _counted(self, top: int, left: int, bottom: int, right: int) -> Places:
        down, across = self.grid
        rows = np.arange(top // self.tile_rows, -(-bottom // self.tile_rows))
        columns = np.arange(left // self.tile_columns, -(-right // self.tile_columns))
        # Columns run fastest, then rows, focal planes, optical paths.
        path, plane, at_row, at_column = (
            axis.ravel()
            for axis in np.meshgrid(
                np.arange(len(self.paths)),
                np.arange(len(self.heights)),
                rows,
                columns,
                indexing="ij",
            )
        )
        frame = (path * len(self.heights) + plane) * down + at_row
        frame = frame * across + at_column - self.first_frame
        places = Places(
            frame,
            at_row * self.tile_rows,
            at_column * self.tile_columns,
            plane,
            path,
        )
        return _where((frame >= 0) & (frame < self.frames), places)

    def _said(self, top: int, left: int, bottom: int, right: int) -> Places:
        said = np.frombuffer(self.positions, "<i4").reshape(-1, 4)
        row, column = said[:, 0], said[:, 1]
        inside = (
            (row < bottom)
            & (row > top - self.tile_rows)
            & (column < right)
            & (column > left - self.tile_columns)
            & (row < self.rows)
            & (column < self.columns)
        )
        found = np.flatnonzero(inside)
        return Places(found, *said[found].astype(np.int64).T)

    def tile_of(
        self, row: int, column: int, *, plane: int = 0, path: int = 0
    ) -> int | None:
        """Give the frame that holds a pixel; None where this object has none.

        Where sparse tiles overlap it is the last.

        Raises
        ------
        RequestError
            The pixel is outside the matrix, or there is no such plane or path.
        """
        within = 0 <= row < self.rows and 0 <= column < self.columns
        planes, paths = len(self.heights), len(self.paths)
        if not within or not 0 <= plane < planes or not 0 <= path < paths:
            msg = (
                f"no pixel ({row}, {column}), plane {plane}, path {path}; the matrix "
                f"has {self.rows} x {self.columns} pixels, {planes} planes and "
                f"{paths} paths"
            )
            raise RequestError(msg)
        found = self.places(row, column, 1, 1)
        frames = found.frame[(found.plane == plane) & (found.path == path)]
        return int(frames[-1]) if len(frames) else None

    def missing(self) -> npt.NDArray[np.bool_]:
        """Say which tiles this object has no frame for.

        Returns
        -------
        numpy.ndarray
            ``(path, plane, tile row, tile column)``, bool: no frame holds the first
            pixel of the tile.
        """
        missing = np.ones((len(self.paths), len(self.heights), *self.grid), bool)
        found = self.places()
        down, across = self.grid
        last_row, last_column = (
            found.row + self.tile_rows - 1,
            found.column + self.tile_columns - 1,
        )
        at_row, at_column = last_row // self.tile_rows, last_column // self.tile_columns
        held = (at_row >= 0) & (at_row < down) & (at_column >= 0) & (at_column < across)
        held &= (last_row >= 0) & (last_column >= 0)
        index = found.path[held], found.plane[held], at_row[held], at_column[held]
        missing[index] = False
        return missing


def _where(mask: npt.NDArray[np.bool_], places: Places) -> Places:
    return Places(*(values[mask] for values in places))


def read_tiling(
    read: Read, size: int, url: str = "", *, read_many: ReadMany | None = None
) -> Tiling:
    """Read how an object is cut into tiles.

    The header is read up to the descriptions of the single frames. These are read only
    where they say where the tiles lie.

    Parameters
    ----------
    read : callable
        ``read(start, stop)`` gives the bytes of that range.
    size : int
        Bytes of the whole object.
    url : str
        Where it lies, for errors.
    read_many : callable, optional
        ``read_many([(start, stop), ...])`` gives the bytes of each, best in parallel.

    Raises
    ------
    GeometryError
        It is no tiled image (``verdict="not tiled"``).
    DicomReadError
        It is not DICOM, is cut short or malformed, or says of itself what cannot be.
    """
    kept = _Kept(read)
    met: list[int] = []

    def ends(tag: int) -> bool:
        if tag >= PER_FRAME:
            met.append(tag)
        return tag >= PER_FRAME

    header = read_until(ends, kept.read, size, url)
    try:
        tiling, sparse = _described(header, url)
    except PYDICOM_RAISES as error:
        if isinstance(error, DicomReadError | GeometryError):
            raise
        msg = f"{url}: malformed: the tiles cannot be told ({error})"
        raise DicomReadError(msg, kind="malformed", url=url) from error
    if not met:
        # It may have been cut between two elements.
        msg = f"{url}: no pixels: the object ends before them"
        raise DicomReadError(msg, kind="no pixels", url=url)
    if sparse is False:
        return _checked(tiling, url)
    many = read_many or (lambda ranges: [read(*one) for one in ranges])
    said = read_positions(kept.read, size, url, tiling.frames, many)
    if said is None and sparse is None:
        return _checked(tiling, url)
    if said is None:
        msg = f"{url}: malformed: tiles that say nowhere where they lie"
        raise DicomReadError(msg, kind="malformed", url=url)
    return _placed(tiling, said)


class _Kept:
    """Remembers what was read from the beginning on, so that it is not read again."""

    def __init__(self, read: Read) -> None:
        self._read, self._head = read, b""

    def read(self, start: int, stop: int) -> bytes:
        head = self._head
        if stop <= len(head):
            return head[start:stop]
        if start > len(head):
            return self._read(start, stop)
        self._head = head + self._read(len(head), stop)
        return self._head[start:stop]


def _described(header: Dataset, url: str) -> tuple[Tiling, bool | None]:
    """Take what the header says, and whether it says that tiles are sparse."""
    rows, columns = (
        _count(header, "TotalPixelMatrixRows"),
        _count(header, "TotalPixelMatrixColumns"),
    )
    tile = _count(header, "Rows"), _count(header, "Columns")
    organized = str(header.get("DimensionOrganizationType") or "")
    if not rows or not columns or not all(tile) or organized.startswith("3D"):
        msg = f"{url} is no tiled image: it has no total pixel matrix"
        raise GeometryError(msg, verdict="not tiled", reasons=(msg,))
    frames = max(_count(header, "NumberOfFrames"), 1)
    measures = _measures(header)
    spacing = _spacing(header, measures, rows, columns)
    planes = max(_count(header, "TotalPixelMatrixFocalPlanes"), 1)
    concatenation = str(header.get("ConcatenationUID") or "")
    grid = -(-rows // tile[0]) * -(-columns // tile[1])
    if max(rows, columns) >= 2**31 or planes > MOST_CHANNELS or grid > MOST_TILES:
        msg = f"{url}: malformed: {rows} x {columns} pixels, {planes} focal planes"
        raise DicomReadError(msg, kind="malformed", url=url)
    samples, bits_stored, dtype = _stored(header, url)
    origin, between = _origin(header), _number(measures, "SpacingBetweenSlices")
    bottom = origin[2] if origin else 0.0
    tiling = Tiling(
        rows=rows,
        columns=columns,
        tile_rows=tile[0],
        tile_columns=tile[1],
        frames=frames,
        samples=samples,
        bits_stored=bits_stored,
        dtype=dtype,
        photometric_interpretation=str(header.get("PhotometricInterpretation", "")),
        role=_role(header),
        paths=_paths(header),
        heights=tuple(bottom + (between or 0.0) * n for n in range(planes)),
        spacing=spacing,
        matrix=_matrix(header, origin, spacing),
        sop_instance_uid=str(header.get("SOPInstanceUID") or ""),
        concatenation=concatenation,
        first_frame=_count(header, "ConcatenationFrameOffsetNumber"),
        absent=_absent(header),
    )
    if organized == "TILED_SPARSE":
        return tiling, True
    return tiling, False if organized == "TILED_FULL" or frames == 1 == grid else None


def _count(header: Dataset, keyword: str) -> int:
    value = header.get(keyword)
    return 0 if value is None or value == "" else max(int(value), 0)


def _number(header: Any, keyword: str) -> float | None:
    value = None if header is None else header.get(keyword)
    if value is None or value == "" or not math.isfinite(float(value)):
        return None
    return float(value)


def _first(header: Any, keyword: str) -> Any:
    items = header.get(keyword) if header is not None else None
    return items[0] if items else None


def _measures(header: Dataset) -> Any:
    shared = _first(header, "SharedFunctionalGroupsSequence")
    return _first(shared, "PixelMeasuresSequence")


def _spacing(
    header: Dataset, measures: Any, rows: int, columns: int
) -> tuple[float, float] | None:
    said = measures.get("PixelSpacing") if measures is not None else None
    if said and len(said) == 2:  # noqa: PLR2004
        between = float(said[0]), float(said[1])
    else:
        # Imaged Volume Width and Height (PS3.3 C.8.12.2): of the whole matrix, in mm.
        height = _number(header, "ImagedVolumeHeight")
        width = _number(header, "ImagedVolumeWidth")
        if not height or not width:
            return None
        between = height / rows, width / columns
    return between if all(0 < one < math.inf for one in between) else None


def _origin(header: Dataset) -> tuple[float, float, float] | None:
    item = _first(header, "TotalPixelMatrixOriginSequence")
    x, y, z = (_number(item, f"{axis}OffsetInSlideCoordinateSystem") for axis in "XYZ")
    return None if x is None or y is None else (x, y, z or 0.0)


def _matrix(
    header: Dataset,
    origin: tuple[float, float, float] | None,
    spacing: tuple[float, float] | None,
) -> tuple[tuple[float, ...], ...] | None:
    said = header.get("ImageOrientationSlide")
    if origin is None or spacing is None or not said or len(said) != 6:  # noqa: PLR2004
        return None
    along_row = np.array([float(said[0]), float(said[1])])
    along_column = np.array([float(said[3]), float(said[4])])
    affine = np.eye(3)
    affine[:2, 0] = along_column * spacing[0]
    affine[:2, 1] = along_row * spacing[1]
    affine[:2, 2] = origin[:2]
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) == 0:
        return None
    return tuple(tuple(row) for row in affine.tolist())


def _paths(header: Dataset) -> tuple[OpticalPath, ...]:
    """Give the optical paths, or the segments; none where the header names none."""
    paths = [
        OpticalPath(
            str(item.get("OpticalPathIdentifier") or ""),
            str(item.get("OpticalPathDescription") or ""),
        )
        for item in header.get("OpticalPathSequence") or ()
    ]
    # The frames of a label map hold all segments at once.
    labelled = str(header.get("SegmentationType") or "") == "LABELMAP"
    if not paths and not labelled:
        paths = [
            OpticalPath(
                str(item.get("SegmentNumber") or ""),
                str(item.get("SegmentLabel") or ""),
            )
            for item in header.get("SegmentSequence") or ()
        ]
    count = min(_count(header, "NumberOfOpticalPaths"), MOST_CHANNELS) or len(paths)
    return (*paths[:count], *_numbered(len(paths), count))


def _numbered(first: int, stop: int) -> list[OpticalPath]:
    return [OpticalPath(str(n + 1)) for n in range(first, stop)]


def _stored(header: Dataset, url: str) -> tuple[int, int, str]:
    """Give samples, bits stored and type of a value (PS3.3 C.7.6.3)."""
    samples, allocated = (
        _count(header, "SamplesPerPixel"),
        _count(header, "BitsAllocated"),
    )
    signed = _count(header, "PixelRepresentation")
    # Pixels that are floats have neither Bits Stored nor a representation.
    bits = _count(header, "BitsStored") or allocated
    floats = "BitsStored" not in header and allocated > 16  # noqa: PLR2004
    if samples not in (1, 3) or allocated not in BITS or not 0 < bits <= allocated:
        msg = f"{url}: malformed: {samples} samples of {bits} bits in {allocated}"
        raise DicomReadError(msg, kind="malformed", url=url)
    kind = "f" if floats else "ui"[min(signed, 1)]
    return samples, bits, np.dtype(f"{kind}{max(allocated // 8, 1)}").str


def _role(header: Dataset) -> str:
    said = header.get("ImageType") or ()
    kinds = [str(one) for one in said] if not isinstance(said, str) else [said]
    return next((kind for kind in kinds[2:] if kind in ROLES), "")


def _absent(header: Dataset) -> tuple[int, int, int] | None:
    said = header.get("RecommendedAbsentPixelCIELabValue")
    if not said or len(said) != 3:  # noqa: PLR2004
        return None
    lightness, a, b = (int(one) for one in said)
    return lightness, a, b


def _checked(tiling: Tiling, url: str) -> Tiling:
    """Hold the number of frames against the number of tiles."""
    down, across = tiling.grid
    tiles = down * across * len(tiling.heights)
    if not tiling.paths:
        many = 1 if tiling.concatenation else max(tiling.frames // tiles, 1)
        paths = tuple(_numbered(0, min(many, MOST_CHANNELS)))
        tiling = replace(tiling, paths=paths)
    tiles *= len(tiling.paths)
    last = tiling.first_frame + tiling.frames
    if last > tiles or (last != tiles and not tiling.concatenation):
        msg = (
            f"{url}: malformed: {tiling.frames} frames from {tiling.first_frame} on "
            f"where {down} x {across} tiles, {len(tiling.heights)} focal planes and "
            f"{len(tiling.paths)} optical paths make {tiles}"
        )
        raise DicomReadError(msg, kind="malformed", url=url)
    return tiling


def _placed(tiling: Tiling, said: npt.NDArray[np.void]) -> Tiling:
    """Give each frame its place, and the matrix the planes and paths that are met."""
    heights, plane = np.unique(said["height"], return_inverse=True)
    names = {path.identifier: n for n, path in enumerate(tiling.paths)}
    paths = list(tiling.paths)
    path = np.zeros(len(said), np.int64)
    for name in dict.fromkeys(said["path"].tolist()):
        if name and name not in names:
            names[name] = len(paths)
            paths.append(OpticalPath(name))
        path[said["path"] == name] = names.get(name, 0)
    columns = (said["row"] - 1, said["column"] - 1, plane.ravel(), path)
    positions = np.stack(columns, axis=1).astype("<i4").tobytes()
    return replace(
        tiling,
        positions=positions,
        heights=tuple(heights.tolist()),
        paths=tuple(paths) or (OpticalPath("1"),),
    )
