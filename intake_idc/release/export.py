"""The Parquet export of IDC's BigQuery tables: every column of every instance.

IDC exports the tables of each release to ``s3://idc-open-metadata``, as
``bigquery_export/idc_v<N>/<table>/<12 digits>.parquet``; ``dicom_all`` is some 5,000
files of 7.5 MB. There is no list of the files but the bucket's own.

A query reads the footer of a file, leaves the file out where its bounds say that no
row can fulfil the condition, and reads the columns of the condition; the other
columns follow where a row does. DuckDB evaluates the condition, on the rows of one
file at a time, in a connection that sees nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from intake_idc import display
from intake_idc.errors import (
    BadCondition,
    IntegrityError,
    MirrorError,
    RequestError,
    StorageError,
    TableNotFound,
    UnknownColumn,
    UnknownRelease,
    nearest,
)
from intake_idc.release import parquet
from intake_idc.release.database import memory_database
from intake_idc.release.objects import ObjectTable
from intake_idc.release.parquet import Bounds, ExportFile
from intake_idc.release.pruning import All, Among, Filter, parsed
from intake_idc.selection import Selection, literal, quote
from intake_idc.storage import Mirror, each, open_store, resolve_mirror

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    import dask.dataframe as dd
    import pyarrow as pa

    from intake_idc.manifest import Manifest

__all__ = ["BUCKET", "Export", "ExportFile", "FileReader", "open_export"]

BUCKET = "idc-open-metadata"
"""The AWS bucket of the export; Google has no public one."""

PREFIX = "bigquery_export"
"""Folder of the export in its bucket."""

AT_ONCE = 1 << 20
"""Bytes of a file's columns up to which the condition does not go first."""

WHOLE = ("instance_size",)
"""Columns of whole numbers that some releases export as text, beside the versions."""

_NAME = re.compile(r"(\d{12})\.parquet")
_DATASET = re.compile(r"idc_(?:v\d+|current)(?:_clinical)?")


class Export:
    """One table of one release, as exported to Parquet; nothing is read until asked.

    Use `open_export` or `Release.export`. It may be used from many threads, and
    pickles as its names and its mirror.

    Attributes
    ----------
    idc_version : int
        The release.
    name : str
        Name of the table, such as ``dicom_all``.
    dataset : str
        Name of the dataset that holds it, such as ``idc_v20``.
    mirror : Mirror
        Where the export lies.
    """

    def __init__(
        self, idc_version: int, name: str, mirror: Mirror, dataset: str
    ) -> None:
        self.idc_version = idc_version
        self.name = name
        self.mirror = mirror
        self.dataset = dataset
        # Bounds by file, of the columns that conditions have named so far.
        self._known: dict[str, dict[str, list[Bounds | None]]] = {}

    @property
    def _identity(self) -> tuple[object, ...]:
        return self.dataset, self.name, self.mirror

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Export):
            return NotImplemented
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return "intake_idc.Export", *self._identity

    def __reduce__(self) -> tuple[Any, ...]:
        return Export, (self.idc_version, self.name, self.mirror, self.dataset)

    def __repr__(self) -> str:
        return f"<Export {self.dataset}.{self.name}, from {self.mirror.name}>"

    # What is there.

    @cached_property
    def files(self) -> tuple[ExportFile, ...]:
        """The files of the table, in order of their numbers.

        Raises
        ------
        TableNotFound
            The mirror holds no such table; the message names the nearest that it
            has.
        IntegrityError
            A number is missing, so a file is.
        StorageError
            The mirror cannot be listed.
        """
        root = self.mirror.bucket_root(BUCKET)
        for folder in self._folders:
            prefix = f"{folder}{self.name}/"
            where = f"{root}/{prefix}"
            found = [
                ExportFile(stored.key, stored.size, f"{root}/{stored.key}", stored.etag)
                for stored in self._list(prefix)
                if "/" not in stored.key.removeprefix(prefix)
                and stored.key.endswith(".parquet")
            ]
            if found:
                _check_numbers(found, where)
                return tuple(found)
        raise self._absent(root)

    @property
    def _folders(self) -> tuple[str, ...]:
        """Where a mirror may hold the folders of the tables, below its root."""
        bucket = f"{PREFIX}/{self.dataset}/"
        if "{aws_bucket}" in self.mirror.root:
            return (bucket,)
        return bucket, f"{self.dataset}/", ""

    def _list(self, prefix: str) -> list[Any]:
        try:
            return open_store(self.mirror, BUCKET).list(prefix)
        except StorageError as error:
            where = f"{self.mirror.bucket_root(BUCKET)}/{prefix}"
            msg = (
                f"{where} cannot be listed, and nothing else names the files of "
                f"{self.name}; expected were 000000000000.parquet and on: {error}"
            )
            raise StorageError(msg, url=where) from error

    def _absent(self, root: str) -> TableNotFound:
        tables: dict[str, None] = {}
        store = open_store(self.mirror, BUCKET)
        for folder in self._folders:
            try:
                tables.update(dict.fromkeys(store.folders(folder)))
            except StorageError:
                continue
        near = nearest(self.name, tables)
        kin = [n for n in tables if "pivot" in n and "pivot" in self.name]
        if kin:
            near = f"; did you mean {', '.join(map(repr, kin))}?"
        elif self.name.endswith("_view"):
            base = self.name.removesuffix("_view")
            near = f"; views are not exported: ask for {base!r}"
        elif not near:
            near = f"; tables there: {', '.join(sorted(tables)) or 'none'}"
        msg = (
            f"no files of table {self.name!r} of {self.dataset} below {root}; expected "
            f"were {self._folders[0]}{self.name}/000000000000.parquet and on{near}"
        )
        return TableNotFound(msg, table=self.name, dataset=self.dataset)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @cached_property
    def _first(self) -> parquet.Footer:
        return parquet.read_footer(self.files[0], self.mirror, BUCKET)

    @cached_property
    def schema(self) -> pa.Schema:
        """Names and Arrow types of the columns, from the footer of the first file.

        ``instance_size`` and the ``*_idc_version`` are whole numbers, though some
        releases export them as text.
        """
        import pyarrow as pa

        return pa.schema(
            [field.with_type(_type(field)) for field in self._first.schema()]
        )

    # Asking.

    def query(
        self,
        condition: str | Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Give the rows that fulfil a condition, in the order of the files.

        Parameters
        ----------
        condition : str or dict, optional
            One SQL condition, such as ``"collection_id = 'nlst' AND Rows > 512"``,
            or columns and what they may be, as in `Cohort.search`.
        columns : sequence of str, optional
            Columns to give; every one without it. Upper and lower case do not
            matter.

        Raises
        ------
        UnknownColumn, BadCondition
            The table does not fit the question.
        IntegrityError, StorageError
            A file is damaged, or cannot be read.
        """
        import pyarrow as pa

        reader = self._reader(condition, columns)
        found = [table for table in self._read(reader) if table.num_rows]
        return pa.concat_tables(found) if found else reader.schema.empty_table()

    def batches(
        self,
        condition: str | Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[pa.Table]:
        """Give the same rows as `query`, file by file, leaving out empty ones."""
        reader = self._reader(condition, columns)
        return (table for table in self._read(reader) if table.num_rows)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Give columns of every row.

        Raises
        ------
        RequestError
            No column is named: all of them may be tens of gigabytes.
        """
        if not columns:
            msg = (
                f"name the columns of {self.name} that are wanted, as in "
                f"table([{self.schema.names[0]!r}]): all {len(self.schema)} of them "
                f"are {display.bytes_text(self.size)} of files; to_dask() reads them "
                "piece by piece"
            )
            raise RequestError(msg, table=self.name)
        return self.query(None, columns)

    def count(self, condition: str | Mapping[str, Any] | None = None) -> int:
        """Count the rows that fulfil a condition; without one, by the footers."""
        if condition is None:
            footers = self._footers()
            return sum(footer.metadata.num_rows for footer in footers)
        reader = self._reader(condition, [])
        return sum(table.num_rows for table in self._read(reader))

    def to_dask(
        self,
        columns: Sequence[str] | None = None,
        where: str | Mapping[str, Any] | None = None,
        *,
        partition_bytes: int | str = "64 MiB",
        prune: bool = False,
    ) -> dd.DataFrame:
        """Give a Dask data frame with Arrow types; see `query` for the arguments.

        The files are listed and one footer is read at once, and nothing else before
        compute. Small files share a partition. Columns that the frame is narrowed to
        later are the only ones that are read.

        Parameters
        ----------
        columns, where
            As in `query`.
        partition_bytes : int or str
            Bytes of the files of one partition.
        prune : bool
            Read every footer now, so that files without a row that fulfils the
            condition have no partition. Otherwise a partition finds this out when
            it is computed.
        """
        from intake_idc import lazy

        reader = self._reader(where, columns)
        if prune:
            names = list(reader.asked)
            for file, footer in zip(self.files, self._footers(), strict=True):
                self._keep(file, _bounds(footer, names, reader.schema_asked))
        files = [file for file in self.files if self._may_hold(file, reader)]
        name = f"{self.dataset}-{self.name}"
        return lazy.file_frame(reader, files or self.files[:1], partition_bytes, name)

    def instances(self, manifest: Manifest) -> pa.Table:
        """Give a row for each object of the series of a manifest, held against it.

        Columns: ``crdc_series_uuid``, ``crdc_instance_uuid``, ``SOPInstanceUID``,
        ``instance_size`` (int64, bytes), ``instance_hash`` and ``series_hash`` (MD5
        in hex), ``aws_bucket`` and ``key``. In the order of series and key.

        Raises
        ------
        RequestError
            The manifest is of another release.
        MissingError
            The export has no row for a series.
        IntegrityError
            Count, bytes or hash of a series are not what they should be.
        """
        import pyarrow as pa

        if manifest.idc_version != self.idc_version:
            msg = (
                f"the series are of release {manifest.idc_version}, and {self!r} is of "
                f"release {self.idc_version}; open the export of the same release"
            )
            raise RequestError(msg)
        lacking = "instance_hash", "series_hash", "SOPInstanceUID"
        named = ["crdc_series_uuid", "crdc_instance_uuid", "instance_size"]
        present = {name.lower() for name in self.schema.names}
        named += [name for name in lacking if name.lower() in present]
        uuids = pa.array(sorted(set(manifest.uuids)), pa.string())
        reader = replace(
            self._reader(None, named), members=("crdc_series_uuid", uuids)
        )
        tests: list[Filter] = [Among("crdc_series_uuid", tuple(uuids.to_pylist()))]
        watched = ["crdc_series_uuid"]
        if "collection_id" in manifest.columns and "collection_id" in present:
            kept = set(manifest.table.column("collection_id").to_pylist()) - {None}
            tests.append(Among("collection_id", tuple(sorted(kept))))
            watched.append("collection_id")
        for filters in (tests, tests[:1]):
            asking = replace(
                reader,
                filter=All(tuple(filters)),
                asked=tuple(watched[: len(filters)]),
                schema_asked=self._fields(watched[: len(filters)]),
            )
            found = [table for table in self._read(asking) if table.num_rows]
            rows = pa.concat_tables(found) if found else asking.schema.empty_table()
            objects = ObjectTable(rows, manifest)
            if not objects.missing(manifest):
                break
            # A collection may have been renamed since: then without its name.
        objects.check(manifest)
        return objects.as_published(manifest)

    # How.

    def _fields(self, names: Iterable[str]) -> pa.Schema:
        import pyarrow as pa

        return pa.schema([self.schema.field(self._column(name)) for name in names])

    def _column(self, name: object) -> str:
        """Give a column's name as the table spells it."""
        if name in self.schema.names:
            return str(name)
        same = [n for n in self.schema.names if n.lower() == str(name).lower()]
        if len(same) == 1:
            return str(same[0])
        msg = f"{self.name} of {self.dataset} has no column {name!r}"
        near = nearest(name, self.schema.names)
        if not near:
            near = f"; it has {len(self.schema)}, see Export.schema"
        raise UnknownColumn(msg + near, column=str(name), table=self.name)

    def _reader(
        self,
        condition: str | Mapping[str, Any] | None,
        columns: Sequence[str] | None,
    ) -> FileReader:
        if isinstance(columns, str):
            columns = [columns]
        named = self.schema.names if columns is None else columns
        kept = self._fields(dict.fromkeys(map(self._column, named)))
        sql, asked, found = None, [], All()
        if condition is not None:
            sql = self._sql(condition)
            asked, found = parsed(
                sql, self.name, self.schema.names, memory_database()
            )
        reader = FileReader(
            mirror=self.mirror,
            name=self.name,
            schema=kept,
            sql=sql,
            asked=tuple(asked),
            schema_asked=self._fields(asked),
            filter=found,
            tail=_tail(self._first),
        )
        if sql is not None:
            reader.positions(reader.schema_asked.empty_table())
        return reader

    def _sql(self, condition: str | Mapping[str, Any]) -> str:
        if not isinstance(condition, Mapping):
            return Selection().query(condition).sql[0]
        parts = []
        for each_one in Selection().where(condition).conditions:
            name = quote(self._column(each_one.column))
            if each_one.patterns:
                msg = (
                    f"{each_one.column}: a regular expression is written in SQL here, "
                    "as in \"regexp_matches(SeriesDescription, '^CT')\""
                )
                raise RequestError(msg, column=each_one.column)
            options = []
            if each_one.values:
                listed = ", ".join(map(literal, each_one.values))
                options.append(f"{name} IN ({listed})")
            if each_one.null:
                options.append(f"{name} IS NULL")
            parts.append(f"({' OR '.join(options)})")
        return " AND ".join(parts)

    def _read(self, reader: FileReader) -> Iterator[pa.Table]:
        wanted = [file for file in self.files if self._may_hold(file, reader)]
        for file, found in zip(wanted, each(reader.read, wanted), strict=True):
            self._keep(file, found.bounds)
            yield found.table

    def _keep(
        self, file: ExportFile, bounds: Mapping[str, list[Bounds | None]]
    ) -> None:
        self._known.setdefault(file.key, {}).update(bounds)

    def _may_hold(self, file: ExportFile, reader: FileReader) -> bool:
        """Whether a file may hold a row, by what is known of it so far."""
        known = self._known.get(file.key)
        if not known or not reader.asked:
            return True
        return bool(reader.groups(known))

    def _footers(self) -> Iterator[parquet.Footer]:
        """Read the footer of every file, many at once."""
        tail = _tail(self._first)
        read = partial(
            parquet.read_footer, mirror=self.mirror, bucket=BUCKET, tail=tail
        )
        return each(read, self.files)


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
    filter: Filter = All()
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
        _check_columns([*self.schema.names, *first], footer.schema(), file)
        bounds = _bounds(footer, self.asked, self.schema_asked)
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
        import pyarrow as pa
        import pyarrow.compute as pc

        if self.members is not None:
            name, values = self.members
            place = [n.lower() for n in held.column_names].index(name.lower())
            column = held.column(place)
            if column.type != values.type:
                column = column.cast(values.type)
            return pc.indices_nonzero(pc.is_in(column, value_set=values))
        asked = _ironed(held, self.schema_asked, file)
        if not asked.num_columns:
            # The condition names no column: it holds for every row, or for none.
            asked = pa.table({"position": pa.nulls(held.num_rows, pa.int8())})
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


def open_export(
    idc_version: int | str = "current",
    table: str = "dicom_all",
    *,
    mirror: str | os.PathLike[str] | Mirror | None = None,
    endpoint_url: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    clinical: bool = False,
) -> Export:
    """Open one table of the Parquet export of a release; nothing is read yet.

    Parameters
    ----------
    idc_version : int, "current" or "YYYY-MM-DD"
        The release; by anything but a number, as the tables at hand tell it.
    table : str
        Name of the table, such as ``dicom_all`` or ``quantitative_measurements``.
    mirror : str, path or Mirror, optional
        A place of your own that holds ``bigquery_export/idc_v<N>/<table>``, or the
        folders of datasets or tables. By default the public bucket on AWS.
    endpoint_url, storage_options
        As in `resolve_mirror`.
    clinical : bool
        Look in the dataset of clinical tables, ``idc_v<N>_clinical``.

    Raises
    ------
    UnknownRelease
        There is no such release, or it has no clinical tables.
    MirrorError
        The mirror cannot be used, or is of another release.
    """
    number = _number(idc_version)
    if clinical and number < FIRST_CLINICAL:
        msg = (
            f"release {number} has no clinical tables; they are exported from release "
            f"{FIRST_CLINICAL} on"
        )
        raise UnknownRelease(msg, idc_version=number)
    if not isinstance(table, str) or not re.fullmatch(r"\w[\w-]*", table):
        msg = f"a table is named as 'dicom_all'; got {table!r}"
        raise RequestError(msg, table=table)
    place = resolve_mirror(
        "aws" if mirror is None else mirror,
        endpoint_url=endpoint_url,
        storage_options=storage_options,
    )
    dataset = f"idc_v{number}{'_clinical' if clinical else ''}"
    if "{gcs_bucket}" in place.root:
        msg = "the export is public on AWS only; use mirror='aws' or a copy of yours"
        raise MirrorError(msg, mirror=place.name)
    for part in place.root.split("/"):
        if _DATASET.fullmatch(part) and part != dataset:
            msg = (
                f"{place.root} is {part}, and {dataset} was asked for; name the "
                "folder above it, which holds one folder for each dataset"
            )
            raise MirrorError(msg, mirror=place.name)
    return Export(number, table, place, dataset)


FIRST_CLINICAL = 11
"""First release with a dataset of clinical tables."""


def _number(idc_version: int | str) -> int:
    if isinstance(idc_version, str):
        from intake_idc.release import open_release

        return open_release(idc_version).idc_version
    plain = isinstance(idc_version, int) and not isinstance(idc_version, bool)
    if not plain or idc_version < 1:
        msg = f"a release is a number from 1 on; got {idc_version!r}"
        raise UnknownRelease(msg, idc_version=idc_version)
    return idc_version


def _tail(footer: parquet.Footer) -> int:
    """Give the bytes that the footers of the other files probably take."""
    return footer.length * 5 // 4 + 4096


def _check_numbers(files: Sequence[ExportFile], where: str) -> None:
    """Refuse a listing with a hole in it: nothing else says how many files there are."""
    for number, file in enumerate(files):
        expected = f"{number:012d}.parquet"
        if not _NAME.fullmatch(file.name):
            msg = f"{file.url} is no file of an export; expected was {expected}"
            raise IntegrityError(msg, url=file.url)
        if file.name != expected:
            msg = (
                f"{where} lists {len(files)} files up to {files[-1].name}, but "
                f"{expected} is not among them; look at what the mirror holds"
            )
            raise IntegrityError(msg, url=f"{where}{expected}")


def _type(field: pa.Field) -> pa.DataType:
    """Give the type that a column shall have, whatever the release exported."""
    import pyarrow as pa

    text = pa.types.is_string(field.type) or pa.types.is_large_string(field.type)
    name = field.name.lower()
    whole = name in WHOLE or name.endswith("_idc_version")
    if whole and (text or pa.types.is_integer(field.type)):
        return pa.int64()
    return pa.string() if text else field.type


def _check_columns(
    names: Iterable[str], schema: pa.Schema, file: ExportFile
) -> None:
    there = {name.lower() for name in schema.names}
    for name in names:
        if name.lower() not in there:
            msg = (
                f"{file.url} has no column {name!r}, which the first file of the table "
                "has; these are not files of one export"
            )
            raise IntegrityError(msg, url=file.url, column=name)


def _bounds(
    footer: parquet.Footer, names: Iterable[str], schema: pa.Schema
) -> dict[str, list[Bounds | None]]:
    """Give the bounds of columns that have the type in the file that they shall have.

    Of a number that is exported as text the bounds are those of texts.
    """
    own = {field.name.lower(): field.type for field in footer.schema()}
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


