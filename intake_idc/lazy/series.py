"""Series as the unit of work: a function over each, on workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from dask.bag import concat
from dask.base import tokenize
from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph

from intake_idc.errors import RequestError
from intake_idc.lazy.bags import (
    InstanceBag,
    InstanceItem,
    bag_from,
    bag_of,
    texts_of,
)
from intake_idc.lazy.failures import (
    Failure,
    OnError,
    Outcome,
    call,
    check_on_error,
    failure_of,
    leave_out,
)
from intake_idc.lazy.handles import DicomObject
from intake_idc.lazy.levels import CHUNK_BYTES
from intake_idc.lazy.slides import Slide, slide_of
from intake_idc.storage import each, instances

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt
    import pyarrow as pa
    from xarray import DataArray, DataTree

    from intake_idc.dicom import Dataset
    from intake_idc.manifest import Manifest, Part, Piece
    from intake_idc.storage import Mirror
    from intake_idc.volume import Grid

__all__ = ["Delayed", "Series", "delayed_series", "map_series", "reduced"]


@dataclass(frozen=True)
class Series:
    """One series that has not been read, or the objects of it that are meant."""

    part: Part
    """How it is listed and checked."""
    mirror: Mirror
    """Where it is read."""
    SeriesInstanceUID: str
    """DICOM's identifier of the series; empty where the manifest does not say it."""
    idc_version: int
    """The release."""

    @property
    def crdc_series_uuid(self) -> str:
        """IDC's identifier of the series, and of its version."""
        return self.part.crdc_series_uuid

    @property
    def url(self) -> str:
        """URL of its folder."""
        return self.mirror.series_url(self.part)

    def __repr__(self) -> str:
        return f"<Series {self.SeriesInstanceUID or self.crdc_series_uuid}>"

    def objects(self) -> list[DicomObject]:
        """List its objects, in the order of their keys.

        Raises
        ------
        IntegrityError
            Count or bytes are not those of the index.
        StorageError
            It cannot be listed.
        """
        found = instances([self.part], self.mirror)
        return [DicomObject(one, self.mirror) for one in found]

    def datasets(self, *, headers_only: bool = False) -> list[Dataset]:
        """Read its objects, side by side, in the order of their keys.

        Raises
        ------
        DicomReadError
            An object cannot be read as DICOM.
        StorageError
            An object cannot be read.
        """
        read = DicomObject.header if headers_only else DicomObject.dataset
        return list(each(read, self.objects()))

    def to_slide(self, *, rgb: bool = True, chunk_bytes: int = CHUNK_BYTES) -> Slide:
        """Give its objects, of whole slide microscopy, as a slide; see `slide_of`."""
        return slide_of(self.objects(), rgb=rgb, chunk_bytes=chunk_bytes)

    def headers(self, tags: str | Sequence[str]) -> pa.Table:
        """Read header values of its objects: rows, in the order of their keys.

        Columns and types are those of `Cohort.headers`.

        Raises
        ------
        DicomReadError
            An object cannot be read as DICOM, or a value is not what the dictionary
            says.
        RequestError
            A tag is no DICOM keyword, or has no plain value.
        StorageError
            An object cannot be read.
        """
        from intake_idc.lazy.header_tables import ReadHeaders, tag_names

        return ReadHeaders(self.mirror, tag_names(tags)).table([self.part])

    def to_masks(
        self,
        *,
        like: DataArray | Grid | None = None,
        segments: int | str | Iterable[int | str] | None = None,
        combine: bool = False,
        rescale: bool = True,
    ) -> DataArray:
        """Give its masks, where it is of segmentations; see `lazy.to_masks`."""
        from intake_idc.lazy.segmentations import to_masks

        return to_masks(
            self.objects(),
            like=like,
            segments=segments,
            combine=combine,
            rescale=rescale,
            idc_version=self.idc_version,
        )

    def to_volume(
        self,
        *,
        rescale: bool = False,
        dtype: npt.DTypeLike | None = None,
        strict: bool = True,
        compute: bool = True,
        chunk_bytes: int | str | None = None,
        name: str = "volume",
    ) -> DataArray | DataTree:
        """Read it as a volume with coordinates in mm: at once, each object one time.

        Parameters and errors are those of `intake_idc.lazy.to_volume`, but that
        ``compute=False`` has to be asked for here.
        """
        from intake_idc.lazy.volumes import to_volume

        return to_volume(
            self.objects(),
            rescale=rescale,
            dtype=dtype,
            strict=strict,
            compute=compute,
            chunk_bytes=chunk_bytes,
            name=name,
            idc_version=self.idc_version,
        )


@dataclass(frozen=True)
class _MapSeries:
    """A task: apply a function to every series of a piece, one after the other."""

    mirror: Mirror
    idc_version: int
    function: Callable[[Series], Any]
    on_error: OnError = "raise"

    def __call__(
        self, piece: Piece | Manifest, uids: Sequence[str]
    ) -> list[Any] | Outcome[Any]:
        outcome: Outcome[Any] = Outcome([], [])
        for part, uid in zip(piece.parts(), uids, strict=True):
            series = Series(part, self.mirror, uid, self.idc_version)
            try:
                outcome.results.append(call(self.function, series))
            except Exception as error:
                if self.on_error == "raise":
                    raise
                outcome.failures.append(_failed(series, error))
        if self.on_error == "collect":
            return outcome
        leave_out(outcome.failures)
        return outcome.results


def _failed(series: Series, error: Exception) -> Failure:
    return failure_of(error, series.url, series.crdc_series_uuid, None)


@dataclass(frozen=True)
class _OneSeries:
    """A task: apply a function to one series."""

    mirror: Mirror
    idc_version: int
    function: Callable[[Series], Any]

    def __call__(self, piece: Piece | Manifest, uid: str) -> Any:
        (part,) = piece.parts()
        return call(self.function, Series(part, self.mirror, uid, self.idc_version))


def map_series(
    function: Callable[[Series], Any],
    manifest: Manifest,
    mirror: Mirror,
    *,
    partition_bytes: int | str | None = None,
    partition_instances: int | None = None,
    on_error: OnError = "raise",
) -> InstanceBag:
    """Give a bag of what a function makes of every series, in order.

    A series is never cut; small ones share a partition, in which they are worked on
    one after the other. What a series is read by, its objects, works side by side.

    Parameters
    ----------
    function : callable
        Takes a `Series`.
    manifest : Manifest
        The series.
    mirror : Mirror
        Where they are read.
    partition_bytes, partition_instances : optional
        What a partition may hold, where it holds several series.
    on_error : "raise", "skip" or "collect"
        What becomes of a series whose call raises.

    Raises
    ------
    EmptySelection
        The manifest has no rows.
    """
    check_on_error(on_error)
    return bag_of(
        _MapSeries(mirror, manifest.idc_version, function, on_error),
        manifest,
        "map-series",
        partition_bytes,
        partition_instances,
        whole_series=True,
        carried="SeriesInstanceUID",
        collect=on_error == "collect",
    )


def reduced(
    mapped: InstanceBag, combine: Callable[[Any, Any], Any], initial: Any = None
) -> InstanceItem:
    """Give what a bag comes to, its partitions combined as a tree.

    Parameters
    ----------
    mapped : InstanceBag
        Of values.
    combine : callable
        Takes two values and gives one.
    initial : optional
        What comes before all values, once, however many partitions there are.

    Raises
    ------
    RequestError
        The bag collects failures, which a single value has no place for.
    """
    if mapped.failures is not None:
        msg = (
            "a reduction gives one value, and no table of failures beside it; reduce "
            "what map_series(function, on_error='collect').collected() gives"
        )
        raise RequestError(msg)
    if initial is not None:
        name = f"initial-{tokenize(initial)}"
        before = bag_from([(partial(_alone, initial),)], name, collect=False)
        every = concat([before, mapped])
        mapped = InstanceBag(every.dask, every.name, every.npartitions)
    found: InstanceItem = mapped.fold(combine)
    return found


def _alone(value: Any) -> list[Any]:
    return [value]


def delayed_series(
    function: Callable[[Series], Any], manifest: Manifest, mirror: Mirror
) -> list[Delayed]:
    """Give a `dask.delayed.Delayed` for each series, in order, on one graph.

    Raises
    ------
    EmptySelection
        The manifest has no rows.
    """
    task = _OneSeries(mirror, manifest.idc_version, function)
    name = f"series-{tokenize(manifest, task)}"
    # Bounds of one: each series is a piece.
    pieces = manifest.pieces(1, 1, whole_series=True)
    uids = islice(texts_of(manifest, "SeriesInstanceUID"), len(manifest))
    graph: Any = {
        (name, i): (task, piece, uid)
        for i, (piece, uid) in enumerate(zip(pieces, uids, strict=True))
    }
    layers = HighLevelGraph({name: graph}, {name: set()})
    return [Delayed(key, layers, layer=name) for key in graph]
