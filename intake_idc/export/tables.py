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
from contextlib import suppress
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from intake_idc import display
from intake_idc.errors import (
    BadCondition,
    IntegrityError,
    MirrorError,
    ObjectNotFound,
    RequestError,
    StorageError,
    TableNotFound,
    UnknownColumn,
    UnknownRelease,
    nearest,
)
from intake_idc.export import parquet
from intake_idc.export.objects import ObjectTable
from intake_idc.export.parquet import ExportFile
from intake_idc.export.pruning import All, Among, Filter, parsed
from intake_idc.export.reading import BUCKET, FileReader, bounds_of
from intake_idc.export.remembered import Remembered
from intake_idc.release.database import memory_database
from intake_idc.selection import Selection, literal, quote
from intake_idc.storage import REQUESTS, Mirror, each, open_store, resolve_mirror

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa

    from intake_idc.manifest import Manifest

__all__ = ["BUCKET", "Export", "ExportFile", "open_export"]

PREFIX = "bigquery_export"
"""Folder of the export in its bucket."""

WHOLE = ("instance_size",)
"""Columns of whole numbers that some releases export as text, beside the versions."""

FOOTERS_AT_ONCE = 4 << 20
"""Bytes of footers that are parsed at once."""

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
        place = f"{mirror.root}\n{mirror.endpoint_url}\n{dataset}.{name}"
        self._remembered = Remembered(place)

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
        self._probe(root)
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

    def _probe(self, root: str) -> None:
        """Find out whether an empty listing is one: of a page, obstore makes none.

        Raises
        ------
        StorageError
            The place has something where the first file would be, or does not answer
            as a store does.
        """
        first = f"{self._folders[0]}{self.name}/000000000000.parquet"
        try:
            head = open_store(self.mirror, BUCKET).read(first, 0, 64)
        except ObjectNotFound:
            return
        except StorageError as error:
            found = str(error)
        else:
            found = f"it begins with {head.lstrip()[:20]!r}"
        msg = (
            f"{root} lists no file of {self.name}, and does not say either that there "
            f"is none: expected were {first} and on; asked for the first, {found}"
        )
        raise StorageError(msg, url=f"{root}/{first}")

    def _absent(self, root: str) -> TableNotFound:
        tables: tuple[str, ...] = ()
        store = open_store(self.mirror, BUCKET)
        for folder in self._folders:
            # Where the folder cannot be listed, or is not there, the next may be.
            with suppress(StorageError):
                tables = tables or store.folders(folder)
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
            [field.with_type(_type(field)) for field in self._first.schema]
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
    ) -> Any:
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
                bounds = bounds_of(footer, names, reader.schema_asked)
                self._remembered.learn(file, bounds, self.files)
            self._remembered.keep()
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
        reader = replace(self._reader(None, named), members=("crdc_series_uuid", uuids))
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
        objects.check(manifest, whole=True)
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
        sql: str | None = None
        asked: list[str] = []
        found: Filter = All()
        if condition is not None:
            sql = self._sql(condition)
            asked, found = parsed(sql, self.name, self.schema.names, memory_database())
            # A condition of no column still asks how many rows there are.
            asked = asked or self.schema.names[:1]
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
            self._check_condition(reader)
        return reader

    def _check_condition(self, reader: FileReader) -> None:
        """Try the condition on no row, before anything is read for it."""
        try:
            reader.positions(reader.schema_asked.empty_table())
        except BadCondition as error:
            unknown = re.search(r'column "([^"]+)" not found', str(error))
            if unknown is None:
                raise
            msg = f"{self.name} of {self.dataset} has no column {unknown[1]!r}"
            near = nearest(unknown[1], self.schema.names)
            raise BadCondition(msg + near, condition=reader.sql) from error

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
        read = each(reader.read, wanted, _ahead(reader.tail))
        try:
            for file, found in zip(wanted, read, strict=True):
                self._remembered.learn(file, found.bounds, self.files)
                yield found.table
        finally:
            self._remembered.keep()

    def _may_hold(self, file: ExportFile, reader: FileReader) -> bool:
        """Whether a file may hold a row, by what is known of it so far."""
        if not reader.asked:
            return True
        known = self._remembered.of(file, self.files)
        return not known or bool(reader.groups(known))

    def _footers(self) -> Iterator[parquet.Footer]:
        """Read the footer of every file, many at once."""
        tail = _tail(self._first)
        read = partial(
            parquet.read_footer, mirror=self.mirror, bucket=BUCKET, tail=tail
        )
        return each(read, self.files, _ahead(tail))


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


def _ahead(tail: int) -> int:
    """Give how many files are read at once: a wide footer takes 10 MB parsed."""
    return max(4, min(REQUESTS, FOOTERS_AT_ONCE // tail))


def _tail(footer: parquet.Footer) -> int:
    """Give the bytes that the footers of the other files probably take."""
    return footer.length * 5 // 4 + 4096


def _check_numbers(files: Sequence[ExportFile], where: str) -> None:
    """Refuse a listing with a hole: nothing else says how many files there are."""
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
