"""The objects, read where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake_idc.cohort.verbs.base import Base

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from intake_idc.lazy import InstanceBag, OnError
    from intake_idc.storage import Mirror

__all__ = ["Reading"]


class Reading(Base):
    """The verbs that read objects."""

    def to_dask(
        self,
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        partition_bytes: int | str | None = None,
        partition_instances: int | None = None,
        on_error: OnError = "raise",
    ) -> InstanceBag:
        """Give a Dask bag of `intake_idc.lazy.DicomObject`: handles, not yet read.

        Order: the series as in `keys`, the objects of a series by their key. The
        default scheduler is threads. A worker lists the series of its partition; what
        is read is up to `DicomObject.header`, `dataset`, `frames` and `pixels`.

        >>> from intake_idc import open_idc
        >>> ct = open_idc(2, tables="sample").search(Modality="CT")
        >>> ct.to_dask().map(lambda found: found.pixels().shape).compute()
        [(512, 512), (512, 512), (512, 512)]

        Parameters
        ----------
        mirror : optional
            Where the objects are read; see `resolve_mirror`.
        partition_bytes : int or str, optional
            Bytes of the objects in one partition, 128 MiB by default. A larger series
            is cut, smaller ones share a partition.
        partition_instances : int, optional
            Objects in one partition, 512 by default. Where neither is given, there
            are at most 10,000 partitions, and they hold more.
        on_error : "raise", "skip" or "collect"
            What becomes of a series that cannot be listed; see `map_objects`.

        Raises
        ------
        EmptySelection
            Nothing is selected, or everything without `all`.
        """
        from intake_idc import lazy

        return lazy.objects(
            self._located(),
            self._mirror(mirror),
            partition_bytes=partition_bytes,
            partition_instances=partition_instances,
            on_error=on_error,
        )

    def datasets(
        self,
        *,
        headers_only: bool = False,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        partition_bytes: int | str | None = None,
        partition_instances: int | None = None,
        on_error: OnError = "raise",
    ) -> InstanceBag:
        """Give a Dask bag of `pydicom.Dataset`; nothing is opened before compute.

        Parameters are those of `to_dask`, and ``headers_only=True``: without pixel
        data, of which then nothing is read.
        """
        from intake_idc import lazy

        return lazy.datasets(
            self._located(),
            self._mirror(mirror),
            headers_only=headers_only,
            partition_bytes=partition_bytes,
            partition_instances=partition_instances,
            on_error=on_error,
        )

    def header_rows(
        self,
        keywords: Sequence[str],
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        on_error: OnError = "raise",
    ) -> InstanceBag:
        """Give a Dask bag with a dict for each object: uuids, url, header values.

        Parameters
        ----------
        keywords : sequence of str
            DICOM keywords, such as ``["InstanceNumber", "PixelSpacing"]``.
        on_error : "raise", "skip" or "collect"
            As in `map_objects`.
        """
        from intake_idc import lazy

        if isinstance(keywords, str):
            keywords = [keywords]
        return lazy.header_rows(
            self._located(), self._mirror(mirror), keywords, on_error=on_error
        )

    def urls(self, mirror: str | os.PathLike[str] | Mirror | None = None) -> list[str]:
        """Give the URL of every series' folder, in the order of `keys`."""
        place = self._mirror(mirror)
        return [place.series_url(part) for part in self._reading_manifest().parts()]
