"""Rows of series that can be asked: selected, counted, and given as columns."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from intake_idc.arrow import integers
from intake_idc.errors import BadCondition, StorageError, UnknownColumn, nearest
from intake_idc.release import sources
from intake_idc.release.database import memory_database
from intake_idc.release.derived import ORDER
from intake_idc.selection import LICENSE_COLUMNS, any_of, quote

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import pyarrow as pa

    from intake_idc.citations import Citations, Stated
    from intake_idc.formats.lock import Lock
    from intake_idc.manifest import Manifest
    from intake_idc.release import Release
    from intake_idc.release.database import Database
    from intake_idc.selection import Selection

__all__ = ["MANIFEST_COLUMNS", "FixedRows", "Rows", "check_columns", "used_columns"]

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


IDENTIFIERS = (
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "crdc_series_uuid",
    "series_aws_url",
)
"""Columns with a million names that all look alike: to compare each with a name
that was mistyped takes minutes."""


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
    def names(self) -> Collection[str]:
        """Names of the columns."""
        return self.columns.keys()

    @property
    @abstractmethod
    def _database(self) -> Database: ...

    @abstractmethod
    def _sql(self, columns: Collection[str] | None) -> str:
        """Give SQL that yields the rows with at least these columns (None: all)."""

    def _quick(
        self, columns: Sequence[str], selection: Selection, *, strict: bool
    ) -> pa.Table | None:
        """Give columns of the selected rows without SQL, where that is sooner."""
        del columns, selection, strict
        return None

    @property
    def _order(self) -> Sequence[str]:
        return [column for column in ORDER if column in self.columns]

    @property
    def _registered(self) -> Mapping[str, pa.Table]:
        """Arrow tables that the SQL names."""
        return {}

    @property
    @abstractmethod
    def of_tables(self) -> Release:
        """The release whose tables say more of these rows than they do."""

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

    @functools.cached_property
    def contradicted(self) -> list[tuple[str | None, str | None, str | None]]:
        """Values of ``collection_id``, ``source_DOI`` and ``license_short_name``.

        Those whose licence the tables state in ways that contradict each other. None
        where the tables at hand say no more than the index.
        """
        return sources.contradicted(self)

    @functools.cached_property
    def stated(self) -> list[Stated]:
        """What the tables say of the sources of series.

        Raises
        ------
        TableNotFound
            There is no `collections_index`, which came with idc-index-data 23.
        """
        return sources.stated(self.of_tables)

    def citations(self, selection: Selection, *, whole: bool = True) -> Citations:
        """Give the sources of the selected series: licences, citations, counts.

        Parameters
        ----------
        selection : Selection
            The conditions.
        whole : bool
            Whether it is an error that the tables with the citations are not at
            hand; else every series is uncited.

        Raises
        ------
        TableNotFound
            There is no `collections_index`, which came with idc-index-data 23.
        """
        return sources.cite(self, selection, whole=whole)

    def near(self, column: str, value: object) -> str:
        """Say which values come near one that the column never takes.

        Nothing is near an identifier: what looks like it is another series.
        """
        if column in IDENTIFIERS:
            return ""
        return nearest(value, self.distinct(column))

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

        def ask(*, strict: bool) -> list[tuple[Any, ...]]:
            quick = None
            if not distinct:
                quick = self._quick(columns, selection, strict=strict)
            if quick is not None:
                return list(zip(*(quick[c].to_pylist() for c in columns), strict=True))
            sql, parameters = self._select(
                columns, selection, distinct=distinct, strict=strict
            )
            return self._rows(sql, parameters, selection)

        found: list[tuple[Any, ...]] = _checked(ask, selection, strict=strict)
        return found

    def table(
        self,
        columns: Sequence[str] | None,
        selection: Selection,
        *,
        strict: bool = True,
    ) -> pa.Table:
        """Give columns of the selected series as an Arrow table (None: all)."""
        names = list(columns or self.columns)

        def ask(*, strict: bool) -> pa.Table:
            quick = self._quick(names, selection, strict=strict)
            if quick is not None:
                return quick
            sql, parameters = self._select(names, selection, strict=strict)
            with self._blame(selection):
                return self._database.arrow(sql, parameters, self._registered)

        return _checked(ask, selection, strict=strict)

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
        condition, parameters = self._compiled(selection, strict=True)
        by = ", ".join(map(quote, group))
        used = used_columns([*group, *columns], selection)
        sql = (
            f"SELECT {', '.join([*map(quote, group), expressions])} "
            f"FROM ({self._sql(used)}) AS idc_index "
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
        from intake_idc.manifest import READING_COLUMNS, Manifest, with_packed_subsets

        check_columns([c for c in columns if c not in MANIFEST_COLUMNS], self.columns)
        wanted = dict.fromkeys([*columns, *READING_COLUMNS, "row_source"])
        kept = [column for column in wanted if column in self.columns]
        table = with_packed_subsets(self.table(kept, selection, strict=strict))
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
        condition, parameters = self._compiled(selection, strict=strict)
        listed = ", ".join(map(quote, columns))
        order = columns if distinct else self._order
        used = used_columns([*columns, *order], selection)
        sql = (
            f"SELECT {'DISTINCT ' if distinct else ''}{listed} "
            f"FROM ({self._sql(used)}) AS idc_index "
            f"WHERE {condition} "
            f"ORDER BY {', '.join(map(quote, order))}"
        )
        return sql, parameters

    def _compiled(self, selection: Selection, *, strict: bool) -> tuple[str, list[Any]]:
        """Compile a selection; see `Selection.compile`."""
        return selection.compile(self, strict=strict)

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


class _Ask(Protocol):
    """A question that can be asked with or without looking at its values first."""

    def __call__(self, *, strict: bool) -> Any: ...


def _checked(ask: _Ask, selection: Selection, *, strict: bool) -> Any:
    """Ask, and look at the values of the selection only where that can matter.

    Where each column is to have one value, a row that has them all shows that there
    are such values.
    """
    lists = any(
        len(c.values) + len(c.patterns) + c.null > 1 for c in selection.conditions
    )
    if strict and not lists:
        found = ask(strict=False)
        if len(found):
            return found
    return ask(strict=strict)


def used_columns(columns: Sequence[str], selection: Selection) -> list[str] | None:
    """Give the columns that a query uses; None where SQL may use any."""
    if selection.sql:
        return None
    used = [*columns, *(condition.column for condition in selection.conditions)]
    return [*used, *LICENSE_COLUMNS] if selection.commercial_use else used


class FixedRows(Rows):
    """The rows of a manifest, in its order, asked as a release is asked.

    Attributes
    ----------
    spec : str or None
        What was named as ``tables`` when the manifest was resolved.
    digest : dict or None
        SHA-256 that the tables were opened with, by file name.
    lock : Lock or None
        What the lock says that the rows were read from.
    """

    def __init__(
        self,
        manifest: Manifest,
        spec: str | None = None,
        digest: dict[str, str] | None = None,
        lock: Lock | None = None,
    ) -> None:
        self.manifest_rows = manifest
        self.idc_version = manifest.idc_version
        self.spec = spec
        self.digest = digest
        self.lock = lock

    def __len__(self) -> int:
        return len(self.manifest_rows)

    @property
    def source(self) -> str:
        """Where the manifest came from."""
        return self.manifest_rows.origin

    @functools.cached_property
    def of_tables(self) -> Release:
        """The newest release of the tables that the manifest was resolved with."""
        from intake_idc.release import open_release

        return open_release("current", self.spec, self.digest)

    @functools.cached_property
    def columns(self) -> dict[str, str]:
        """Names of the columns, and their DuckDB types."""
        described = self._database.rows(
            f"DESCRIBE {self._sql(None)}", tables=self._registered
        )
        return {row[0]: row[1] for row in described if row[0] != "position"}

    @property
    def names(self) -> Collection[str]:
        """Names of the columns, for which no database is needed."""
        return self.manifest_rows.columns

    @property
    def _database(self) -> Database:
        return memory_database()

    def _sql(
        self, columns: Collection[str] | None, positions: Sequence[int] | None = None
    ) -> str:
        del (
            columns,
            positions,
        )  # An Arrow table gives up only the columns that are asked for.
        return "SELECT * FROM manifest_rows"

    @property
    def _order(self) -> Sequence[str]:
        return ["position"]

    @functools.cached_property
    def _registered(self) -> Mapping[str, pa.Table]:
        table = self.manifest_rows.table
        position = integers(range(len(self.manifest_rows)))
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
        return FixedRows, (self.manifest_rows, self.spec, self.digest, self.lock)

    def __repr__(self) -> str:
        return f"<rows of {self.manifest_rows!r}>"
