"""The objects, read where they lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake_idc.cohort.verbs.base import Base

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from intake_idc.lazy import InstanceBag
    from intake_idc.storage import Mirror

__all__ = ["Reading"]


class Reading(Base):
    """The verbs that read objects."""

    def to_dask(
        self,
        *,
        headers_only: bool = False,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        partition_bytes: int | str | None = None,
        partition_instances: int | None = None,
    ) -> InstanceBag:
        """Give a Dask bag of `pydicom.Dataset`; nothing is opened before compute.

        Order: the series as in `keys`, the objects of a series by their key. The
        default scheduler is threads. See `intake_idc.lazy.datasets`.

        Raises
        ------
        EmptySelection
            Nothing is selected, or everything without `all`.
        """
        from intake_idc import lazy

        return lazy.datasets(
            self._located(),
            self._mirror(mirror),
            headers_only=headers_only,
            partition_bytes=partition_bytes,
            partition_instances=partition_instances,
        )

    def header_rows(
        self,
        keywords: Sequence[str],
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> InstanceBag:
        """Give a Dask bag with a dict for each object: uuids, url, header values.

        Parameters
        ----------
        keywords : sequence of str
            DICOM keywords, such as ``["InstanceNumber", "PixelSpacing"]``.
        """
        from intake_idc import lazy

        if isinstance(keywords, str):
            keywords = [keywords]
        return lazy.header_rows(self._located(), self._mirror(mirror), keywords)

    def urls(self, mirror: str | os.PathLike[str] | Mirror | None = None) -> list[str]:
        """Give the URL of every series' folder, in the order of `keys`."""
        place = self._mirror(mirror)
        return [place.series_url(part) for part in self._reading_manifest().parts()]
