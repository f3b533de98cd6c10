"""Rows of series that can be asked: selected, counted, and given as columns."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from intake_idc.errors import BadCondition, StorageError, UnknownColumn, nearest
from intake_idc.release.database import memory_database
from intake_idc.selection import any_of, quote

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import pyarrow as pa

    from intake_idc.manifest import Manifest
    from intake_idc.release.database import Database
    from intake_idc.selection import Selection, quote

__all__ = ["MANIFEST_COLUMNS", "FixedRows", "Rows", "check_columns"]

MANIFEST_COLUMNS = (
    "collection_id",
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "SeriesDescription",
    "instanceCount",
    "series_size_MB",
    "license_short_name",
    "source_DOI",
    "aws_bucket",
    "crdc_series_uuid",
    "row_source",
)
"""Columns that a manifest carries unless others are asked for."""

ORDER = ("collection_id", "PatientID", "StudyInstanceUID", "SeriesInstanceUID")
"""The order of rows, which is that of the published index."""


def check_columns(columns: Sequence[str], known: Mapping[str, str]) -> None:
    """Refuse a column that a table does not have, and name the nearest.

    Raises
    ------
    UnknownColumn
        A column is not known.
    """
    for column in columns:
        if column not in known:
            near = nearest(column, known) or "; columns: " + ", ".join(known)
            msg = f"unknown column {column!r}{near}"
            raise UnknownColumn(msg, column=column)


class Rows(ABC):
    """Series of one release, as a table that answers questions.

    It may be asked from many threads.
    """

    idc_version: int
    """The release that the rows belong to."""

    @property
    @abstractmethod
    def source(self) -> str:
        """What the rows are read from, as an error names it."""

    @property
    @abstractmethod
    def columns(self) -> Mapping[str, str]:
        """Names of the columns, and their DuckDB types."""

    @property
    @abstractmethod
    def _database(self) -> Database: ...

    @abstractmethod
    def _sql(self, columns: Collection[str] | None) -> str:
        """Give SQL that yields the rows with at least these columns (None: all)."""

    @property
    def _order(self) -> Sequence[str]:
        return [column for column in ORDER if column in self.columns]

    @property
    def _registered(self) -> Mapping[str, pa.Table]:
        """Arrow tables that the SQL names."""
        return {}

    # What a selection asks.

    def distinct(self, column: str) -> list[Any]:
        """Give the values a column takes in this release, sorted, null left out.

        Raises
        ------
        UnknownColumn
            There is no such column.
        """
        check_columns([column], self.columns)
        quoted = quote(column)
        return [
            row[0]
            for row in self._rows(
                f"SELECT DISTINCT {quoted} FROM ({self._sql([column])}) "
                f"WHERE {quoted} IS NOT NULL ORDER BY 1"
            )
        ]

    def absent(self, column: str, values: Sequence[Any]) -> list[Any]:
        """Give those of the values that a column never takes in this release."""
        check_columns([column], self.columns)
        quoted = quote(column)
        parameters: list[Any] = []
        found = self._rows(
            f"SELECT DISTINCT {quoted} FROM ({self._sql([column])}) "
            f"WHERE {quoted} IN {any_of(values, parameters)}",
            parameters,
        )
        present = {row[0] for row in found}
        return [value for value in values if value not in present]

    # What a cohort asks.

    def rows(
        self,
        columns: Sequence[str],
        selection: Selection,
        *,
        distinct: bool = False,
        strict: bool = True,
    ) -> list[tuple[Any, ...]]:
        """Give columns of the selected series as tuples, in the published order.

        ``distinct`` gives each combination once, sorted; ``strict`` is that of
        `Selection.compile`.

        Raises
        ------
        RequestError
            The selection or a column does not fit this release.
        """
        sql, parameters = self._select(
            columns, selection, distinct=distinct, strict=strict
        )
        return self._rows(sql, parameters, selection)

    def table(
        self,
        columns: Sequence[str] | None,
        selection: Selection,
        *,
        strict: bool = True,
    ) -> pa.Table:
        """Give columns of the selected series as an Arrow table (None: all)."""
        sql, parameters = self._select(
            columns or list(self.columns), selection, strict=strict
        )
        with self._blame(selection):
            return self._database.arrow(sql, parameters, self._registered)

    def aggregate(
        self,
        expressions: str,
        selection: Selection,
        group: Sequence[str] = (),
        columns: Sequence[str] = (),
    ) -> list[tuple[Any, ...]]:
        """Give aggregates of the selected series, by group in order of the group.

        ``expressions`` is SQL of this package, never a user's; ``columns`` are those
        that it names.
        """
        check_columns(group, self.columns)
        condition, parameters = selection.compile(self)
        by = ", ".join(map(quote, group))
        sql = (
            f"SELECT {', '.join([*map(quote, group), expressions])} "
            f"FROM ({self._sql(_used([*group, *columns], selection))}) AS idc_index "
            f"WHERE {condition}"
        )
        if group:
            sql += f" GROUP BY {by} ORDER BY {by}"
        return self._rows(sql, parameters, selection)

    def manifest(
        self,
        selection: Selection,
        columns: Sequence[str] = MANIFEST_COLUMNS,
        *,
        strict: bool = True,
    ) -> Manifest:
        """Give the selected series as a manifest of this release.

        The columns that name, size and check a series are always among them;
        ``strict`` is that of `Selection.compile`.
        """
        from intake_idc.manifest import READING_COLUMNS, Manifest

        check_columns([c for c in columns if c not in MANIFEST_COLUMNS], self.columns)
        wanted = dict.fromkeys([*columns, *READING_COLUMNS, "row_source"])
        kept = [column for column in wanted if column in self.columns]
        table = self.table(kept, selection, strict=strict)
        return Manifest(table, self.idc_version, str(selection))

    # How.

    def _select(
        self,
        columns: Sequence[str],
        selection: Selection,
        *,
        distinct: bool = False,
        strict: bool = True,
    ) -> tuple[str, list[Any]]:
        check_columns(columns, self.columns)
        condition, parameters = selection.compile(self, strict=strict)
        listed = ", ".join(map(quote, columns))
        order = columns if distinct else self._order
        sql = (
            f"SELECT {'DISTINCT ' if distinct else ''}{listed} "
            f"FROM ({self._sql(_used([*columns, *order], selection))}) AS idc_index "
            f"WHERE {condition} "
            f"ORDER BY {', '.join(map(quote, order))}"
        )
        return sql, parameters

    def _rows(
        self,
        sql: str,
        parameters: Sequence[Any] = (),
        selection: Selection | None = None,
    ) -> list[tuple[Any, ...]]:
        with self._blame(selection):
            return self._database.rows(sql, parameters, self._registered)

    @contextmanager
    def _blame(self, selection: Selection | None) -> Iterator[None]:
        """Say whose fault a failed query is: the user's condition, or the tables'."""
        try:
            yield
        except StorageError as error:
            if selection is None or not selection.sql or error.__cause__ is None:
                raise
            reason = str(error.__cause__).split("\n\n", maxsplit=1)[0].strip()
            conditions = " and ".join(selection.sql)
            msg = f"the condition {conditions!r} does not fit: {reason}"
            raise BadCondition(msg, condition=conditions) from error.__cause__


def _used(columns: Sequence[str], selection: Selection) -> list[str] | None:
    """Give the columns that a query uses; None where SQL may use any."""
    if selection.sql:
        return None
    return [*columns, *(condition.column for condition in selection.conditions)]


class FixedRows(Rows):
    """The rows of a manifest, in its order, asked as a release is asked.

    Attributes
    ----------
    spec : str or None
        What was named as ``tables`` when the manifest was resolved.
    digest : dict or None
        SHA-256 that the tables were opened with, by file name.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: str | None = None,
        digest: dict[str, str] | None = None,
    ) -> None:
        self.manifest_rows = manifest
        self.idc_version = manifest.idc_version
        self.spec = spec
        self.digest = digest

    @property
    def source(self) -> str:
        """Where the manifest came from."""
        return self.manifest_rows.origin

    @functools.cached_property
    def columns(self) -> dict[str, str]:
        """Names of the columns, and their DuckDB types."""
        described = self._database.rows(
            f"DESCRIBE {self._sql(None)}", tables=self._registered
        )
        return {row[0]: row[1] for row in described if row[0] != "position"}

    @property
    def _database(self) -> Database:
        return memory_database()

    def _sql(self, columns: Collection[str] | None) -> str:
        del columns  # An Arrow table gives up only the columns that are asked for.
        return "SELECT * FROM manifest_rows"

    @property
    def _order(self) -> Sequence[str]:
        return ["position"]

    @functools.cached_property
    def _registered(self) -> Mapping[str, pa.Table]:
        import pyarrow as pa

        table = self.manifest_rows.table
        position = pa.array(range(len(self.manifest_rows)), pa.int64())
        return {"manifest_rows": table.append_column("position", position)}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FixedRows):
            return NotImplemented
        return self.manifest_rows == other.manifest_rows

    def __hash__(self) -> int:
        return hash(self.manifest_rows)

    def __dask_tokenize__(self) -> tuple[str, str]:
        return "intake_idc.FixedRows", self.manifest_rows.digest

    def __reduce__(self) -> tuple[Any, ...]:
        return FixedRows, (self.manifest_rows, self.spec, self.digest)

    def __repr__(self) -> str:
        return f"<rows of {self.manifest_rows!r}>"
