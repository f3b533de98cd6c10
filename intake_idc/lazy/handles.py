"""A DICOM object that has not been read: where it lies, and how to read it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from intake_idc import dicom
from intake_idc.storage import Ranged, each, read_instance

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

    from intake_idc.dicom import Dataset, FrameIndex
    from intake_idc.lazy.opened import ObjectFile
    from intake_idc.storage import Instance, Mirror

__all__ = ["DicomObject", "Source"]

SMALL_BYTES = 1024**2
"""An object up to this is read whole at once: the bytes that are not needed take less
time than a second request."""
BATCH_BYTES = 64 * 1024**2
"""Decoded bytes of the frames that are read at once."""
KEPT_INDEXES = 64
"""Indexes of frames that a process keeps; one of 20,000 frames takes 160 kB."""


class Source:
    """Ranges of an object: by requests, or, of a small one, out of its bytes.

    With ``known``, the first range is held against the version that was listed, too.
    """

    def __init__(
        self, instance: Instance, mirror: Mirror, *, known: bool = False
    ) -> None:
        self._ranged = Ranged(instance, mirror, known=known)
        self._data: bytes | None = None
        if instance.size <= SMALL_BYTES:
            self._data = read_instance(instance, mirror)

    @property
    def etag(self) -> str | None:
        """Tag of the version that is read; None of a small object, or if untold."""
        return None if self._data is not None else self._ranged.etag

    def read(self, start: int, stop: int) -> bytes:
        """Give the bytes of a range."""
        if self._data is not None:
            return self._data[start:stop]
        return self._ranged.read(start, stop)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Give the bytes of some ranges, read side by side."""
        if self._data is not None:
            return [self._data[start:stop] for start, stop in ranges]
        return self._ranged.read_many(ranges)


@dataclass(frozen=True)
class DicomObject:
    """One DICOM object, as a mirror lists it; nothing of it is held.

    It is small, and travels to workers and back. Every method reads what it needs,
    each time, from where the object lies.
    """

    instance: Instance
    """The object in its series: key, size, entity tag."""
    mirror: Mirror
    """Where it is read."""

    @property
    def url(self) -> str:
        """Full URL or path."""
        return self.instance.url

    @property
    def size(self) -> int:
        """Bytes."""
        return self.instance.size

    @property
    def crdc_series_uuid(self) -> str:
        """IDC's identifier of the series, and of its version."""
        return self.instance.part.crdc_series_uuid

    @property
    def crdc_instance_uuid(self) -> str:
        """IDC's identifier of the object, and of its version."""
        return self.instance.crdc_instance_uuid

    def __repr__(self) -> str:
        return f"<DicomObject {self.url}, {self.size:,} bytes>"

    def read(self) -> bytes:
        """Read the whole object.

        Raises
        ------
        StorageError
            It cannot be read.
        WrongSize
            Another number of bytes came than was listed.
        """
        return read_instance(self.instance, self.mirror)

    def open(self) -> ObjectFile:
        """Open it as a file: seekable, read by ranges, of the version that was listed.

        For libraries that take a file. Nothing is read yet, and the file travels as
        the object and the position.
        """
        from intake_idc.lazy.opened import ObjectFile

        return ObjectFile(self)

    def header(self) -> Dataset:
        """Read everything before the pixel data.

        Of an object of annotations, whose groups of points stand in place of pixels
        (PS3.3 C.37.1.2), everything before those; `dataset` has them.

        Raises
        ------
        DicomReadError
            It is not DICOM, is cut short, or is malformed.
        StorageError
            It cannot be read.
        """
        read = Ranged(self.instance, self.mirror).read
        return dicom.read_header(read, self.size, self.url)

    def dataset(self) -> Dataset:
        """Read the whole object, its pixel data still encoded.

        Raises
        ------
        DicomReadError
            It is not DICOM, is cut short, or is malformed.
        StorageError
            It cannot be read.
        """
        return dicom.read_dataset(self.read(), self.url)

    def frame_index(self) -> FrameIndex:
        """Find where its frames lie; a process keeps the last 64 that it found.

        Raises
        ------
        DicomReadError
            It is not DICOM, is cut short or malformed, or has no pixels
            (``kind="no pixels"``).
        """
        return _indexed(self)[1]

    def frames(
        self,
        numbers: Iterable[int] | None = None,
        *,
        rgb: bool = False,
        pad: bool = False,
    ) -> Iterator[npt.NDArray[Any]]:
        """Read frames, and give them one by one, decoded.

        Neighbours are read in one range, and about 64 MiB of decoded frames at once.

        Parameters
        ----------
        numbers : iterable of int, optional
            Which frames, from 0, in any order; all of them by default.
        rgb : bool
            Convert luminance and chrominance to red, green and blue.
        pad : bool
            Fill up a tile at the edge of a slide that is smaller than the others with
            zeros; it is an error otherwise.

        Yields
        ------
        numpy.ndarray
            ``(row, column)``, or ``(row, column, sample)`` in colour: stored values,
            as `intake_idc.dicom.decode` gives them.

        Raises
        ------
        DicomReadError
            A frame cannot be read or decoded.
        RequestError
            There is no such frame.
        """
        source, index = _indexed(self)
        wanted = range(index.frames) if numbers is None else list(numbers)
        yield from _frames(source, index, wanted, rgb=rgb, pad=pad)

    def pixels(
        self, frame: int | Sequence[int] | None = None, *, rgb: bool = False
    ) -> npt.NDArray[Any]:
        """Read stored values: of one frame, of some, or of all.

        Parameters
        ----------
        frame : int or sequence of int, optional
            Which, from 0. None is all of them.
        rgb : bool
            Convert luminance and chrominance to red, green and blue.

        Returns
        -------
        numpy.ndarray
            Of one frame, and of an object that has only one, ``(row, column)``; else
            ``(frame, row, column)``. In colour with ``sample`` as the last axis.

        Raises
        ------
        DicomReadError
            A frame cannot be read or decoded, or the object has no pixels.
        RequestError
            There is no such frame.
        """
        source, index = _indexed(self)
        if isinstance(frame, int | np.integer):
            return next(_frames(source, index, [int(frame)], rgb=rgb))
        wanted = range(index.frames) if frame is None else list(frame)
        count = len(wanted)
        if frame is None and count == 1:
            return next(_frames(source, index, [0], rgb=rgb))
        out = np.empty((count, *index.shape), index.dtype)
        for at, one in enumerate(_frames(source, index, wanted, rgb=rgb)):
            out[at] = one
        return out


def _decoded(
    read: tuple[bytes, int], index: FrameIndex, *, rgb: bool, pad: bool
) -> npt.NDArray[Any]:
    data, frame = read
    return dicom.decode(index, data, frame, rgb=rgb, pad=pad)


class _Kept(NamedTuple):
    frames: FrameIndex
    etag: str
    """Of the version that it is of."""


_kept: dict[tuple[str, int], _Kept] = {}


def _indexed(found: DicomObject) -> tuple[Source, FrameIndex]:
    """Give the index of an object's frames, and what reads them of the same version."""
    instance, mirror = found.instance, found.mirror
    key = instance.url, instance.size
    kept = _kept.get(key)
    if kept is not None and instance.etag in (None, kept.etag):
        same = replace(instance, etag=kept.etag)
        return Source(same, mirror, known=True), kept.frames
    source = Source(instance, mirror)
    index = dicom.read_index(
        source.read, instance.size, instance.url, read_many=source.read_many
    )
    if source.etag is not None:
        # A list, since other threads put theirs in meanwhile.
        for oldest in [*_kept][: 1 - KEPT_INDEXES]:
            _kept.pop(oldest, None)
        _kept[key] = _Kept(index, source.etag)
    return source, index


def _frames(
    source: Source,
    index: FrameIndex,
    wanted: Sequence[int],
    *,
    rgb: bool,
    pad: bool = False,
) -> Iterator[npt.NDArray[Any]]:
    """Read and decode frames, as many at once as `BATCH_BYTES` hold."""
    step = max(1, BATCH_BYTES // max(index.decoded_bytes, 1))
    for first in range(0, len(wanted), step):
        batch = wanted[first : first + step]
        held = dicom.read_frames(index, batch, source.read_many)
        read = zip(held, batch, strict=True)
        yield from each(partial(_decoded, index=index, rgb=rgb, pad=pad), read)
