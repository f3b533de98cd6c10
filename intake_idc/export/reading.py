"""How each file of an exported table is read: what travels to workers.

A file is read by its footer, then the columns of the condition, then the others where
a row is wanted. DuckDB evaluates the condition on the rows of one file at a time, in a
connection that sees nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from intake_idc.errors import BadCondition, IntegrityError, StorageError
from intake_idc.export import parquet
from intake_idc.export.pruning import All
from intake_idc.release.database import memory_database
from intake_idc.selection import quote
from intake_idc.storage import each

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa

    from intake_idc.export.parquet import Bounds, ExportFile
    from intake_idc.export.pruning import Filter
    from intake_idc.storage import Mirror

__all__ = ["BUCKET", "FileReader", "Found", "bounds_of"]

BUCKET = "idc-open-metadata"
"""The AWS bucket of the export; Google has no public one."""

EVERYTHING = All()

AT_ONCE = 1 << 20
"""Bytes of a file's columns up to which the condition does not go first."""


class Found(NamedTuple):
    """What came of one file."""

    table: pa.Table
    """The rows."""
    bounds: dict[str, list[Bounds | None]]
    """Bounds of the columns that the condition names."""


@dataclass(frozen=True)
class FileReader:
    """How each file of a table is read: plain values, which travel to workers."""

    mirror: Mirror
    """Where the files lie."""
    name: str
    """Name of the table, by which a condition may call it."""
    schema: pa.Schema
    """Columns that are given, and their types."""
    schema_asked: pa.Schema
    """Columns that the condition names, and their types."""
    sql: str | None = None
    """The condition."""
    asked: tuple[str, ...] = ()
    """Columns that the condition names."""
    filter: Filter = EVERYTHING
    """What the bounds of a row group must allow."""
    members: tuple[str, pa.Array] | None = None
    """A column, and the values of it that are wanted."""
    tail: int = parquet.FIRST_TAIL
    """Bytes that a footer probably takes."""

    def __dask_tokenize__(self) -> tuple[object, ...]:
        members = self.members and (self.members[0], self.members[1].to_pylist())
        return "intake_idc.FileReader", self.mirror, str(self.schema), self.sql, members

    def narrowed(self, columns: Sequence[str]) -> FileReader:
        """Give the same reader with fewer columns."""
        import pyarrow as pa

        return replace(self, schema=pa.schema([self.schema.field(c) for c in columns]))

    def rows(self, files: Sequence[ExportFile]) -> pa.Table:
        """Read what is wanted of some files, in order."""
        import pyarrow as pa

        found = [each_one.table for each_one in each(self.read, files, ahead=8)]
        return pa.concat_tables(found) if found else self.schema.empty_table()

    def read(self, file: ExportFile) -> Found:
        """Read what is wanted of one file.

        Raises
        ------
        IntegrityError
            It is damaged, lacks a column, or holds what its column cannot hold.
        StorageError
            It cannot be read.
        """
        footer = parquet.read_footer(file, self.mirror, BUCKET, self.tail)
        first = [*self.asked, *(self.members[:1] if self.members else ())]
        _check_columns([*self.schema.names, *first], footer.schema, file)
        bounds = bounds_of(footer, self.asked, self.schema_asked)
        groups = (
            self.groups(bounds) if bounds else range(footer.metadata.num_row_groups)
        )
        empty = self.schema.empty_table()
        if not len(groups):
            return Found(empty, bounds)
        return Found(self._rows(file, footer, groups, first), bounds)

    def _rows(
        self,
        file: ExportFile,
        footer: parquet.Footer,
        groups: Sequence[int],
        first: list[str],
    ) -> pa.Table:
        """Read the rows of some row groups, the columns of the condition first."""

        def columns(names: Iterable[str]) -> pa.Table:
            wanted = list(dict.fromkeys(names))
            return parquet.read_columns(
                file, self.mirror, BUCKET, footer, groups, wanted
            )

        if self.sql is None and self.members is None:
            return _ironed(columns(self.schema.names), self.schema, file)
        rest = [name for name in self.schema.names if name not in first]
        every = parquet.columns_size(file, footer, groups, [*first, *rest])
        at_once = every <= AT_ONCE
        held = columns([*first, *rest] if at_once else first)
        kept = self._wanted(held, file)
        if not len(kept):
            return self.schema.empty_table()
        found = _ironed(held.take(kept), self._part(held), file)
        if rest and not at_once:
            more = columns(rest).take(kept)
            for name in more.column_names:
                found = found.append_column(name, more.column(name))
        return _ironed(found, self.schema, file)

    def _part(self, held: pa.Table) -> pa.Schema:
        """Give the columns of the result that are already read, as they shall be."""
        import pyarrow as pa

        there = {name.lower() for name in held.column_names}
        return pa.schema([f for f in self.schema if f.name.lower() in there])

    def _wanted(self, held: pa.Table, file: ExportFile) -> pa.Array:
        """Give the positions of the rows that are wanted."""
        import pyarrow.compute as pc

        if self.members is not None:
            name, values = self.members
            place = [n.lower() for n in held.column_names].index(name.lower())
            column = held.column(place)
            if column.type != values.type:
                column = column.cast(values.type)
            return pc.indices_nonzero(pc.is_in(column, value_set=values))
        asked = _ironed(held, self.schema_asked, file)
        return self.positions(asked)

    def positions(self, table: pa.Table) -> pa.Array:
        """Give the positions of the rows that fulfil the condition.

        Raises
        ------
        BadCondition
            It does not fit the table.
        """
        import pyarrow as pa

        position = "position of the row"
        numbers = pa.array(range(table.num_rows), pa.int64())
        numbered = table.append_column(position, numbers)
        sql = (
            f"SELECT {quote(position)} FROM {quote(self.name)} "
            f"WHERE (\n{self.sql}\n) ORDER BY 1"
        )
        try:
            found = memory_database().arrow(sql, (), {self.name: numbered})
        except StorageError as error:
            reason = str(error.__cause__).split("\n\n", maxsplit=1)[0].strip()
            msg = f"the condition {self.sql!r} does not fit {self.name}: {reason}"
            raise BadCondition(msg, condition=self.sql) from error.__cause__
        return found.column(0).combine_chunks()

    def groups(self, bounds: Mapping[str, Sequence[Bounds | None]]) -> list[int]:
        """Give the row groups that may hold a row."""
        count = max((len(found) for found in bounds.values()), default=0)
        return [
            group
            for group in range(count)
            if self.filter.may_hold({name: b[group] for name, b in bounds.items()})
        ]


def _check_columns(names: Iterable[str], schema: pa.Schema, file: ExportFile) -> None:
    there = {name.lower() for name in schema.names}
    for name in names:
        if name.lower() not in there:
            msg = (
                f"{file.url} has no column {name!r}, which the first file of the table "
                "has; these are not files of one export"
            )
            raise IntegrityError(msg, url=file.url, column=name)


def bounds_of(
    footer: parquet.Footer, names: Iterable[str], schema: pa.Schema
) -> dict[str, list[Bounds | None]]:
    """Give the bounds of columns that have the type in the file that they shall have.

    Of a number that is exported as text the bounds are those of texts.
    """
    own = {field.name.lower(): field.type for field in footer.schema}
    kinds = {name: schema.field(name).type for name in names}
    same = [n for n, kind in kinds.items() if _alike(own.get(n.lower()), kind)]
    return footer.bounds(same)


def _alike(one: pa.DataType | None, other: pa.DataType) -> bool:
    import pyarrow as pa

    if one is None:
        return False
    texts = pa.string(), pa.large_string()
    whole = pa.types.is_integer(one) and pa.types.is_integer(other)
    return one == other or whole or (one in texts and other in texts)


def _ironed(table: pa.Table, schema: pa.Schema, file: ExportFile) -> pa.Table:
    """Give a table the columns, spelling and types that it shall have."""
    import pyarrow as pa
    import pyarrow.compute as pc

    places = {name.lower(): i for i, name in enumerate(table.column_names)}
    columns = []
    for field in schema:
        column = table.column(places[field.name.lower()])
        if column.type != field.type:
            text = pa.types.is_string(column.type) or pa.types.is_large_string(
                column.type
            )
            if text and pa.types.is_integer(field.type):
                trimmed = pc.utf8_trim_whitespace(column)
                nothing = pa.scalar(None, trimmed.type)
                column = pc.if_else(pc.equal(trimmed, ""), nothing, trimmed)
            try:
                column = column.cast(field.type)
            except pa.ArrowException as error:
                msg = (
                    f"{file.url}: the column {field.name} does not hold {field.type}: "
                    f"{error}"
                )
                raise IntegrityError(msg, url=file.url, column=field.name) from error
        columns.append(column)
    if not columns:
        # Rows without columns still count.
        return table.select([])
    return pa.Table.from_arrays(columns, schema=schema)
