"""What the Parquet export says of the series: objects and clinical rows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from intake_idc.cohort import writing
from intake_idc.cohort.verbs.base import Base

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    import pyarrow as pa
    from typing_extensions import Self

    from intake_idc.export import Clinical, Export
    from intake_idc.storage import Mirror

__all__ = ["Exporting"]


class Exporting(Base):
    """The verbs that ask the Parquet export."""

    def export(
        self,
        table: str = "dicom_all",
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        endpoint_url: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> Export:
        """Open a table of the Parquet export of this release; see `open_export`.

        It is the whole table: `Export.instances` gives the rows of a cohort.
        """
        from intake_idc.export import open_export

        return open_export(
            self.idc_version,
            table,
            mirror=mirror,
            endpoint_url=endpoint_url,
            storage_options=storage_options,
        )

    def instances_table(
        self,
        export: Export | None = None,
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> pa.Table:
        """Give a row for each object: names, size in bytes, MD5, bucket and key.

        The rows are those of ``dicom_all`` in the Parquet export of the release, held
        against the index; see `intake_idc.export.tables.Export.instances`.

        Parameters
        ----------
        export : Export, optional
            An export of ``dicom_all`` of the same release, from `open_export`.
        mirror : str, path or Mirror, optional
            Where the export lies, if not in the public bucket.

        Raises
        ------
        MissingError
            The export has no row for a series.
        IntegrityError
            Count, bytes or hash of a series are not what they should be.
        """
        if export is None:
            from intake_idc.export import open_export

            export = open_export(self.idc_version, "dicom_all", mirror=mirror)
        return export.instances(self._reading_manifest())

    def save_instances(
        self,
        path: str | os.PathLike[str],
        export: Export | None = None,
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Path:
        """Write `instances_table` to a file, ``.parquet`` or ``.csv``, once for all."""
        target = writing.local_path(path)
        writing.write_table(target, self.instances_table(export, mirror=mirror))
        return target

    def with_instances(self, source: str | os.PathLike[str] | pa.Table) -> Self:
        """Give the same cohort, knowing its objects: nothing is listed any more.

        Reading and copying then ask the mirror for the objects alone, and
        ``verify(checksum=True)`` has the MD5s to compare with.

        Parameters
        ----------
        source : path or table
            A Parquet file from `save_instances`, or a table with
            ``crdc_instance_uuid``, ``instance_size``, and ``crdc_series_uuid`` or
            ``SeriesInstanceUID``, such as the index table `sm_instance_index`. Without
            ``instance_hash`` no MD5 is known. Other series' rows are left out.

        Raises
        ------
        MissingError
            A series of the cohort has no row.
        IntegrityError
            A series has another count, other bytes or another hash than it should.
        RequestError
            The table lacks a column.
        """
        from intake_idc.export import ObjectTable

        manifest = self._reading_manifest()
        found = ObjectTable(writing.read_table(source), manifest)
        found.check(manifest)
        return replace(self, objects=found)

    def clinical(
        self,
        table: str,
        *,
        decode: bool = False,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> Clinical:
        """Give the rows of a clinical table for the patients of the cohort.

        Patients are the same where identifier and collection are: an identifier may
        occur in several collections. A patient without clinical data has no row, and
        one with several keeps them all. See `open_clinical` for the arguments.

        Raises
        ------
        UnknownRelease
            The release is older than the clinical tables.
        UnknownValue
            There is no such table.
        RequestError
            No patient of the cohort is in a collection that the table is of.
        """
        from intake_idc.export import clinical

        return clinical.of_patients(
            self.rows, self.selection, table, decode=decode, mirror=mirror
        )
