"""The headers of the objects, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from intake_idc.cohort.verbs.base import Base

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from intake_idc.lazy import OnError, Scan
    from intake_idc.lazy.header_tables import DataFrame
    from intake_idc.storage import Mirror

__all__ = ["Heading"]


class Heading(Base):
    """The verbs that read headers."""

    def headers(
        self,
        tags: str | Sequence[str],
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        partition_instances: int | None = None,
        on_error: OnError = "raise",
    ) -> DataFrame:
        """Give header values as a Dask data frame; nothing is read before compute.

        One row for each object, one column for each tag, with Arrow types that follow
        from the DICOM dictionary; null where an element is missing or empty. Of an
        object 16 KiB are read, and more only where a tag is not in them.

        >>> from intake_idc import open_idc
        >>> mr = open_idc(2, tables="sample").search(Modality="MR")
        >>> frame = mr.headers(["Rows", "PixelSpacing"])
        >>> frame.dtypes["Rows"], frame.dtypes["PixelSpacing"]
        (int32[pyarrow], list<item: double>[pyarrow])
        >>> frame["Rows"].mean().compute().item()
        240.0

        Parameters
        ----------
        tags : str or sequence of str
            DICOM keywords such as ``"Rows"``, or paths through sequences such as
            ``"SegmentSequence[0].SegmentLabel"``; ``[*]`` means every item. See
            `intake_idc.dicom.resolve_tags`.
        mirror : optional
            Where the objects are read; see `resolve_mirror`.
        partition_instances : int, optional
            Objects in one partition, 2,048 by default.
        on_error : "raise", "skip" or "collect"
            An object that cannot be read ends the computation, is left out, or is a row
            with ``failure_kind``, ``failure_reason`` and ``attempts``.

        Raises
        ------
        EmptySelection
            Nothing is selected, or everything without `all`.
        RequestError
            A tag is no DICOM keyword, or has no plain value.
        """
        from intake_idc import lazy

        return lazy.headers(
            self._located(),
            self._mirror(mirror),
            tags,
            partition_instances=partition_instances,
            on_error=on_error,
        )

    def scan_headers(
        self,
        path: str | os.PathLike[str],
        tags: str | Sequence[str],
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        partition_instances: int | None = None,
        on_error: OnError = "collect",
        progress: bool = False,
    ) -> Scan:
        """Read the headers of all objects into a folder of Parquet files.

        Killed and run again, it goes on where it was. Run for another cohort, or for a
        later release, it reads only the objects that are not there yet.

        >>> import tempfile
        >>> from pathlib import Path
        >>> from intake_idc import open_idc
        >>> path = Path(tempfile.mkdtemp()) / "headers.parquet"
        >>> for number in (1, 2):
        ...     images = open_idc(number, tables="sample").search(Modality=["CT", "MR"])
        ...     scan = images.scan_headers(path, ["Rows", "PixelSpacing"])
        ...     print(scan.rows, scan.new)
        6 6
        9 1

        The release revised a series by one object: its other two have a row in each
        version of it, and were read once.

        Parameters
        ----------
        path : path
            A folder, which is made if need be.
        tags : str or sequence of str
            As in `headers`; the same in every scan into one folder.
        mirror : optional
            Where the objects are read; see `resolve_mirror`.
        partition_instances : int, optional
            Objects of one file, and of what a kill costs; 2,048 by default.
        on_error : "raise", "skip" or "collect"
            An object that cannot be read ends the scan, is left out, or is a row of
            ``<name>.failures.parquet`` beside the folder. Whichever it is, the next
            scan tries it again.
        progress : bool
            Show a bar on the terminal.

        Raises
        ------
        EmptySelection
            Nothing is selected, or everything without `all`.
        RequestError
            A tag is no DICOM keyword, or the folder was begun with other tags.
        """
        from intake_idc import lazy

        return lazy.scan_headers(
            self._located(),
            self._mirror(mirror),
            path,
            tags,
            partition_instances=partition_instances,
            on_error=on_error,
            progress=progress,
        )
