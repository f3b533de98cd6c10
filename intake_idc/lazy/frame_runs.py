"""Bags of frames: every frame of every object, in partitions of about equal bytes.

The index does not say how many frames an object has. So a partition is a share of a
piece of the manifest, by bytes: a worker lists the piece, sees which of its objects,
and which parts of them, lie in its share, and asks only those for their number of
frames. Nothing is read to build the bag.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import tokenize

from intake_idc import dicom
from intake_idc.errors import DicomReadError, RequestError
from intake_idc.lazy.bags import (
    PARTITION_BYTES,
    PARTITIONS,
    PIXEL_INSTANCES,
    bag_from,
    check_rows,
    size_in_bytes,
)
from intake_idc.lazy.failures import (
    Failure,
    OnError,
    Outcome,
    attempt,
    check_on_error,
)
from intake_idc.lazy.handles import DicomObject
from intake_idc.lazy.tasks import list_objects
from intake_idc.storage import Ranged

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

    from intake_idc.lazy.bags import InstanceBag
    from intake_idc.manifest import Manifest, Piece
    from intake_idc.storage import Mirror

__all__ = ["Frames", "frames"]


@dataclass(frozen=True)
class Frames:
    """Some neighbouring frames of one object, not yet read; small where it travels."""

    found: DicomObject
    """The object."""
    first: int
    """The first frame, from 0."""
    last: int
    """One past the last frame."""

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[npt.NDArray[Any]]:
        """Give the frames one by one, as `DicomObject.frames` does."""
        return self.found.frames(range(self.first, self.last))

    def __repr__(self) -> str:
        return f"<Frames {self.first} to {self.last - 1} of {self.found.url}>"

    def pixels(self, *, rgb: bool = False, pad: bool = False) -> npt.NDArray[Any]:
        """Read all of them.

        Parameters
        ----------
        rgb : bool
            Convert luminance and chrominance to red, green and blue.
        pad : bool
            Fill up a tile at the edge of a slide that is smaller than the others with
            zeros; it is an error otherwise.

        Returns
        -------
        numpy.ndarray
            ``(frame, row, column)``, in colour with ``sample`` as the last axis.

        Raises
        ------
        DicomReadError
            A frame cannot be read or decoded.
        """
        numbers = range(self.first, self.last)
        return np.stack(list(self.found.frames(numbers, rgb=rgb, pad=pad)))


def frames(
    manifest: Manifest,
    mirror: Mirror,
    *,
    partition_bytes: int | str | None = None,
    most_frames: int | None = None,
    on_error: OnError = "raise",
) -> InstanceBag:
    """Give a bag of `Frames`: every frame of every object once, in order.

    Objects that have no pixels, such as reports, have no frames and are passed over.

    Parameters
    ----------
    manifest : Manifest
        The series.
    mirror : Mirror
        Where they are read.
    partition_bytes : int or str, optional
        Encoded bytes of one partition, 128 MiB by default. A larger object is shared
        between partitions, by frames.
    most_frames : int, optional
        Frames of one `Frames`; by default all of an object that are in a partition.
    on_error : "raise", "skip" or "collect"
        What becomes of an object that cannot be read.

    Raises
    ------
    EmptySelection
        The manifest has no rows.
    RequestError
        A bound is not one.
    """
    check_on_error(on_error)
    if most_frames is not None and most_frames < 1:
        msg = f"most_frames is at least 1; got {most_frames}"
        raise RequestError(msg)
    check_rows(manifest)
    size = size_in_bytes(
        PARTITION_BYTES if partition_bytes is None else partition_bytes
    )
    most = PARTITIONS if partition_bytes is None else None
    pieces = manifest.pieces(size, PIXEL_INSTANCES, most=most, whole_series=True)
    task = _ShareFrames(mirror, most_frames, on_error)
    name = f"frames-{tokenize(manifest, task, partition_bytes)}"
    tasks: list[tuple[Any, ...]] = []
    for piece, shares in _shared(pieces, size, most):
        tasks += [(task, piece, share, shares) for share in range(shares)]
    return bag_from(tasks, name, collect=on_error == "collect")


def _shared(
    pieces: list[Piece | Manifest], size: int, most: int | None
) -> list[tuple[Piece | Manifest, int]]:
    """Say between how many partitions each piece is shared."""
    weights = [sum(part.meant_size for part in piece.parts()) for piece in pieces]
    while True:
        shares = [max(1, -(-weight // size)) for weight in weights]
        if most is None or sum(shares) <= max(most, len(pieces)):
            return list(zip(pieces, shares, strict=True))
        size *= max(2, sum(shares) // most)


@dataclass(frozen=True)
class _ShareFrames:
    """A task: give the frames of one share of a piece."""

    mirror: Mirror
    most_frames: int | None
    on_error: OnError

    def __call__(
        self, piece: Piece | Manifest, share: int, shares: int
    ) -> list[Frames] | Outcome[Frames]:
        listed = list_objects(piece.parts(), self.mirror, self.on_error)
        # An object of no bytes has its turn, too, and is an error then.
        sizes = [max(found.size, 1) for found in listed.results]
        total = sum(sizes)
        begin, end = total * share // shares, total * (share + 1) // shares
        cuts: list[_Cut] = []
        position = 0
        for found, size in zip(listed.results, sizes, strict=True):
            # An object lies in a share from where its bytes do.
            start, stop = max(position, begin), min(position + size, end)
            if start < stop:
                cuts.append(_Cut(found, start - position, stop - position))
            position += size
        read = attempt(_frames_of, cuts, _named, self.on_error)
        runs = [one for many in read.results for one in self._runs(many)]
        if self.on_error != "collect":
            return runs
        # What several partitions meet is told by the first of them.
        failures: list[Failure] = [*listed.failures] if share == 0 else []
        began = {cut.found.url for cut in cuts if cut.start == 0}
        failures += [one for one in read.failures if one.url in began]
        return Outcome(runs, failures)

    def _runs(self, many: Frames | None) -> list[Frames]:
        if many is None or not len(many):
            return []
        step = self.most_frames or len(many)
        return [
            Frames(many.found, first, min(first + step, many.last))
            for first in range(many.first, many.last, step)
        ]


@dataclass(frozen=True)
class _Cut:
    found: DicomObject
    start: int
    """First byte of the object that is in the share."""
    stop: int


def _frames_of(cut: _Cut) -> Frames | None:
    """Give the frames of an object that a run of its bytes stands for."""
    found = cut.found
    read = Ranged(found.instance, found.mirror).read
    try:
        count = dicom.count_frames(read, found.size, found.url)
    except DicomReadError as error:
        if error.kind != "no pixels":
            raise
        return None
    first, last = (count * at // max(found.size, 1) for at in (cut.start, cut.stop))
    return Frames(found, first, last)


def _named(cut: _Cut) -> tuple[str, str, str | None]:
    found = cut.found
    return found.url, found.crdc_series_uuid, found.crdc_instance_uuid
