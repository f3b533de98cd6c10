"""What the index says of the series: no object is opened."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from intake_idc.cohort.difference import compare
from intake_idc.cohort.verbs.base import Base
from intake_idc.manifest import ONLY, with_readable_subsets
from intake_idc.release import TABLE_KEYS, FixedRows, Release
from intake_idc.selection import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    import pyarrow as pa

    from intake_idc.citations import Citations
    from intake_idc.cohort.difference import Difference

__all__ = ["Asking"]

_COUNTS = {
    "series": "count(*)",
    "instances": "coalesce(sum(instanceCount), 0)::BIGINT",
    "studies": "count(DISTINCT StudyInstanceUID)",
    "patients": "count(DISTINCT (collection_id, PatientID))",
    "collections": "count(DISTINCT collection_id)",
    "bytes": "coalesce(round(sum(series_size_MB * 1e6)), 0)::BIGINT",
}
_COUNTED: tuple[str, ...] = (
    "instanceCount",
    "StudyInstanceUID",
    "PatientID",
    "collection_id",
    "series_size_MB",
)
_SUBSET_COUNTS = {
    "instances": "coalesce(sum(coalesce(len({only}), instanceCount)), 0)::BIGINT",
    "bytes": (
        "coalesce(round(sum(series_size_MB * 1e6 * "
        "coalesce(len({only}) / nullif(instanceCount, 0), 1))), 0)::BIGINT"
    ),
}
"""The same where only some instances of a series are meant; see `Part.meant_size`."""


class Asking(Base):
    """The verbs that ask the index."""

    def __len__(self) -> int:
        if isinstance(self.rows, FixedRows) and not self.selection:
            return len(self.rows)
        return int(self.rows.aggregate("count(*)", self.selection)[0][0])

    def __bool__(self) -> bool:
        return len(self) > 0

    @cached_property
    def _counted(self) -> dict[str, int]:
        counts, columns = _COUNTS, _COUNTED
        if ONLY in self.rows.columns:
            only = quote(ONLY)
            subsets = {n: sql.format(only=only) for n, sql in _SUBSET_COUNTS.items()}
            counts, columns = {**_COUNTS, **subsets}, (*_COUNTED, ONLY)
        counted = ", ".join(counts.values())
        row = self.rows.aggregate(counted, self.selection, columns=columns)[0]
        return dict(zip(counts, map(int, row), strict=True))

    def counts(self) -> dict[str, int]:
        """Count series, instances, studies, patients, collections and bytes.

        Instances leave out the series whose count the index does not know
        (superseded ones); patients are counted within their collection, because 89
        identifiers occur in several. Where a manifest names single instances, these
        are counted, and bytes are their share of the series.
        """
        return dict(self._counted)

    @property
    def size(self) -> int:
        """Bytes of all objects, as the index says."""
        return self._counted["bytes"]

    @property
    def table(self) -> pa.Table:
        """Every column of every series, as an Arrow table in the published order.

        Where a manifest names single instances, ``only`` lists their
        ``crdc_instance_uuid``; it is null where all of the series is meant.
        """
        return with_readable_subsets(self.rows.table(None, self.selection))

    def index_table(self, table: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Give the rows of another index table that belong to these series.

        ``index_table("ct_index", ["SeriesInstanceUID", "SliceThickness"])``; see
        `Release.index_table`, and `find_column` for which table has what.

        Raises
        ------
        TableNotFound
            The table is not at hand and cannot be fetched; the message says which
            file to put where.
        UnknownColumn
            The table has no such column, or none by which it belongs to series.
        """
        keys = [key for key in TABLE_KEYS if key in self.rows.columns]
        among = self.rows.table(keys, self.selection)
        return self.rows.of_tables.index_table(table, columns, among=among)

    @property
    def df(self) -> pd.DataFrame:
        """Every column of every series, as a pandas data frame."""
        return self.table.to_pandas()

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self.rows.columns)

    def keys(self) -> list[str]:
        """Give the SeriesInstanceUID of every series, in the published order."""
        found = self.rows.rows(["SeriesInstanceUID"], self.selection)
        return [row[0] for row in found]

    def unique(self, column: str) -> list[Any]:
        """Give the values that a column takes, sorted, null left out.

        Raises
        ------
        UnknownColumn
            There is no such column.
        """
        found = self.rows.rows([column], self.selection, distinct=True)
        return [row[0] for row in found if row[0] is not None]

    def nunique(self) -> dict[str, int]:
        """Count the values that each column takes, null left out."""
        columns = self.columns
        counted = ", ".join(f'count(DISTINCT "{column}")' for column in columns)
        row = self.rows.aggregate(counted, self.selection, columns=columns)[0]
        return dict(zip(columns, map(int, row), strict=True))

    def licenses(self) -> dict[str | None, int]:
        """Count the series under each ``license_short_name``."""
        found = self.rows.aggregate(
            "count(*)", self.selection, group=["license_short_name"]
        )
        return {name: int(count) for name, count in found}

    @cached_property
    def left_out(self) -> dict[str, int]:
        """Series by licence that ``commercial_use`` leaves out; else empty.

        A licence that allows commercial use, but that the tables state in ways that
        contradict each other, is listed as "... (conflicting)".
        """
        if not self.selection.commercial_use:
            return {}
        wider = replace(
            self, selection=replace(self.selection, commercial_use=False)
        ).licenses()
        kept = self.licenses()
        gone = {name: count - kept.get(name, 0) for name, count in wider.items()}
        return {
            f"{name} (conflicting)" if name in kept else name or "unknown": count
            for name, count in gone.items()
            if count
        }

    def citations(self) -> Citations:
        """Give whom to cite for these series, and under which licences they stand.

        Read from the index tables, offline. Series of which the tables do not say
        whom to cite are listed as uncited.

        Raises
        ------
        TableNotFound
            There is no `collections_index` among the tables; it came with
            idc-index-data 23.
        """
        return self.rows.citations(self.selection)

    def diff(self, other: int | str | Release | Base) -> Difference:
        """Compare with the same question to another release, or with a cohort.

        Parameters
        ----------
        other : int, "YYYY-MM-DD", Release or Cohort
            Another release of the same tables by its number or day; a release that
            was opened from other tables, such as its own published package; or a
            cohort with a question of its own.

        Returns
        -------
        Difference
            From the older release to the newer.

        Raises
        ------
        UnknownRelease
            The tables do not know that release.
        """
        if isinstance(other, Base):
            return compare(self.rows, self.selection, other.rows, other.selection)
        rows = other if isinstance(other, Release) else self.release.at(other)
        return compare(self.rows, self.selection, rows, self.selection)
