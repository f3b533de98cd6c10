"""Bags of objects: handles, datasets, values of headers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from dask.sizeof import sizeof

from intake_idc.lazy.bags import HEADER_INSTANCES, PIXEL_INSTANCES, bag_of
from intake_idc.lazy.failures import OnError, check_on_error
from intake_idc.lazy.handles import DicomObject
from intake_idc.lazy.tasks import ReadObjects, itself

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from intake_idc.lazy.bags import InstanceBag
    from intake_idc.manifest import Manifest
    from intake_idc.storage import Mirror

__all__ = ["datasets", "header_rows", "map_objects", "objects"]


def objects(
    manifest: Manifest,
    mirror: Mirror,
    *,
    partition_bytes: int | str | None = None,
    partition_instances: int | None = None,
    on_error: OnError = "raise",
) -> InstanceBag:
    """Give a bag of `DicomObject`, in the order of the manifest and of the keys.

    Parameters are those of `map_objects`. A worker lists the series of its partition,
    and reads none of their objects.
    """
    return map_objects(
        itself,
        manifest,
        mirror,
        partition_bytes=partition_bytes,
        partition_instances=partition_instances,
        on_error=on_error,
        name="object",
    )


def datasets(
    manifest: Manifest,
    mirror: Mirror,
    *,
    headers_only: bool = False,
    partition_bytes: int | str | None = None,
    partition_instances: int | None = None,
    on_error: OnError = "raise",
) -> InstanceBag:
    """Give a bag of `pydicom.Dataset`, in the order of the manifest and of the keys.

    Parameters
    ----------
    headers_only : bool
        Leave the pixel data out, and read only the first bytes of each object.
    partition_instances : int, optional
        Objects in one partition: 512, or 2,048 where only headers are read.
    manifest, mirror, partition_bytes, on_error
        As in `map_objects`.
    """
    return map_objects(
        DicomObject.header if headers_only else DicomObject.dataset,
        manifest,
        mirror,
        partition_bytes=partition_bytes,
        partition_instances=partition_instances,
        on_error=on_error,
        name="header" if headers_only else "dataset",
        instances=HEADER_INSTANCES if headers_only else PIXEL_INSTANCES,
    )


def header_rows(
    manifest: Manifest,
    mirror: Mirror,
    keywords: Sequence[str],
    *,
    partition_instances: int | None = None,
    on_error: OnError = "raise",
) -> InstanceBag:
    """Give a bag of dicts, one for each object: where it lies, and its header values.

    Each dict has ``crdc_series_uuid``, ``crdc_instance_uuid``, ``url``, and one
    item for each keyword; see `intake_idc.dicom.values`.

    Raises
    ------
    EmptySelection
        The manifest has no rows.
    RequestError
        A keyword is none of DICOM's.
    """
    from intake_idc import dicom

    dicom.check_keywords(keywords)
    return map_objects(
        partial(_row, keywords=tuple(keywords)),
        manifest,
        mirror,
        partition_instances=partition_instances,
        on_error=on_error,
        name="header-row",
        instances=HEADER_INSTANCES,
    )


def map_objects(
    function: Callable[[DicomObject], Any],
    manifest: Manifest,
    mirror: Mirror,
    *,
    partition_bytes: int | str | None = None,
    partition_instances: int | None = None,
    on_error: OnError = "raise",
    name: str = "map-objects",
    instances: int = PIXEL_INSTANCES,
) -> InstanceBag:
    """Give a bag of what a function makes of every object.

    A worker calls it for the objects of a partition side by side, up to 32 at once, so
    that they are waited for together; it must be safe to call from several threads.

    Parameters
    ----------
    function : callable
        Takes a `DicomObject`.
    manifest : Manifest
        The series.
    mirror : Mirror
        Where they are read.
    partition_bytes : int or str, optional
        Bytes of the objects in one partition: ``"128 MiB"``, or no bound where only
        headers are read. A larger series is split, smaller ones share a partition.
    partition_instances : int, optional
        Objects in one partition.
    on_error : "raise", "skip" or "collect"
        What becomes of an object that fails. Under ``"collect"`` the bag has
        `InstanceBag.failures` beside it.
    name : str
        How the keys of the tasks begin.
    instances : int
        The default of `partition_instances`.

    Raises
    ------
    EmptySelection
        The manifest has no rows.
    RequestError
        A bound is not one.
    """
    check_on_error(on_error)
    return bag_of(
        ReadObjects(mirror, function, on_error),
        manifest,
        name,
        partition_bytes,
        partition_instances,
        instances=instances,
        collect=on_error == "collect",
    )


def _row(found: DicomObject, keywords: tuple[str, ...]) -> dict[str, Any]:
    from intake_idc import dicom

    return {
        "crdc_series_uuid": found.crdc_series_uuid,
        "crdc_instance_uuid": found.crdc_instance_uuid,
        "url": found.url,
        **dicom.values(found.header(), keywords, found.url),
    }


@sizeof.register_lazy("pydicom")  # type: ignore[untyped-decorator]
def _register_weight() -> None:
    """Tell Dask how large a dataset is; without this it takes each for 56 bytes."""
    from intake_idc import dicom

    sizeof.register(dicom.Dataset)(dicom.weight)
