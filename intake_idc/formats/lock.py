"""The lock: a cohort written down, so that its bytes are found again by the file alone.

A lock is one JSON document, with the series in it where they are few and in a Parquet
file beside it where they are many. It says what was asked, of which release, in which
tables, and which series that gave. ``docs/reference/lock-file.md`` describes it.

The rules, none of which needs a disk or an index:

1. the same cohort gives the same document, byte for byte: no time, no place;
2. the digest of the series is over their values, so that it depends neither on the
   Parquet file's bytes nor on whether there is one;
3. the digest over all is over everything else and that digest;
4. what can be counted from the series is counted again when a lock is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from intake_idc.arrow import integers, texts
from intake_idc.errors import IntegrityError, MissingError, RequestError
from intake_idc.manifest import MEGABYTE, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

__all__ = ["FORMAT", "FORMAT_VERSION", "LISTED", "Lock", "Written", "read", "write"]

FORMAT = "intake-idc lock"
"""What every lock begins with, under the key ``format``."""

FORMAT_VERSION = 1
"""Version of the format that is written, and the newest that is read."""

NEEDS = "intake-idc>=0.1.0"
"""The oldest package that reads what is written."""

LISTED = 1_000
"""Series that are listed in the JSON itself; more go into a Parquet file beside it."""

TEXT, NUMBER = "text", "whole number"

COLUMNS = {
    "collection_id": TEXT,
    "PatientID": TEXT,
    "StudyInstanceUID": TEXT,
    "SeriesInstanceUID": TEXT,
    "Modality": TEXT,
    "SeriesDescription": TEXT,
    "instanceCount": NUMBER,
    "size": NUMBER,
    "license_short_name": TEXT,
    "source_DOI": TEXT,
    "aws_bucket": TEXT,
    "crdc_series_uuid": TEXT,
    "row_source": TEXT,
    "size_tolerance": NUMBER,
}
"""Columns of every lock: those of a manifest, with the size in bytes."""

_REPEATED = (
    "collection_id",
    "Modality",
    "SeriesDescription",
    "license_short_name",
    "source_DOI",
    "aws_bucket",
    "row_source",
    "PatientID",
    "StudyInstanceUID",
)
"""Text columns whose values come again and again."""

_KEYS = {
    "counts",
    "digest",
    "dir_template",
    "format",
    "format_version",
    "licenses",
    "manifest_digest",
    "mirror",
    "needs",
    "question",
    "release",
    "series",
    "source_dois",
}
_QUESTION_KEYS = {"everything", "manifest", "of", "selection"}
_RELEASE_KEYS = {"digest", "idc_version", "source", "sureness", "tables"}
_SERIES_KEYS = {"columns", "count", "digest"}

_UUID = "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,62}")
_SIDE = re.compile(r"[^./\\:\x00-\x1f][^/\\:\x00-\x1f]{0,240}\.parquet")
_VERSION = re.compile(r"intake-idc>=[0-9][0-9a-z.]{0,30}")


@dataclass(frozen=True)
class Lock:
    """What a lock says beside its series. Its values are not to be changed."""

    question: Mapping[str, Any]
    """What was asked: ``of`` (``"release"`` or ``"manifest"``), ``manifest`` (its file
    name), ``everything``, and ``selection`` (as `Selection.to_dict` gives it)."""
    release: Mapping[str, Any]
    """The pin: number of the release, source and digests of the tables, sureness."""
    mirror: Mapping[str, Any] | None = None
    """Arguments of `resolve_mirror`, where a mirror was named."""
    dir_template: str | None = None
    """Folders of a copy, where others than the usual were named."""
    digest: str = field(default="", compare=False)
    """Digest over all, as hex; empty until it is written."""

    @property
    def idc_version(self) -> int:
        """The release."""
        return int(self.release["idc_version"])


@dataclass(frozen=True)
class Written:
    """A lock as bytes, ready to be put in its place."""

    text: bytes
    """The JSON document."""
    digest: str
    """Digest over all, as hex."""
    side_name: str | None = None
    """Name of the Parquet file beside it, where there is one."""
    side: bytes | None = None
    """Its bytes."""


def side_name(name: str, digest: str) -> str:
    """Give the name of a lock's Parquet file.

    It carries the digest of the series, so that a new one never takes the place of
    one that an older lock still needs.

    >>> side_name("cohort.lock.json", "0123456789abcdef" * 4)
    'cohort.lock.0123456789abcdef.parquet'
    """
    return f"{name.removesuffix('.json')}.{digest[:16]}.parquet"


# Writing.


def write(
    lock: Lock, manifest: Manifest, name: str, *, listed: int = LISTED
) -> Written:
    """Give a lock as bytes.

    Parameters
    ----------
    lock : Lock
        Question, pin, mirror and template.
    manifest : Manifest
        The series, in order. Further columns than the usual are kept where the
        template names them.
    name : str
        File name of the lock; the Parquet file is named after it.
    listed : int
        Series up to which they are listed in the JSON itself.

    Raises
    ------
    RequestError
        Something cannot be written: a number that JSON does not have, a column of
        the template that is neither text nor whole numbers, runs of instances, a
        name by which the Parquet file could not be found again.
    """
    rows = _rows_of(manifest, lock.dir_template)
    _check_rows(rows, name, RequestError)
    document = _document(lock, rows, _content_digest(rows))
    series = document["series"]
    try:
        document["digest"] = _digest(document)
    except (TypeError, ValueError) as error:
        msg = f"this cohort cannot be written as a lock: {error}"
        raise RequestError(msg) from error
    if rows.num_rows <= listed:
        series["rows"] = rows.to_pylist()
        return Written(_render(document), document["digest"])
    series["file"] = side_name(name, series["digest"])
    if not _SIDE.fullmatch(series["file"]):
        msg = (
            f"a lock of {rows.num_rows:,} series has a Parquet file beside it, which "
            f"cannot be called {series['file']!r}; name the lock without : and \\, "
            "with no dot first, and shorter than 220 characters"
        )
        raise RequestError(msg, name=name)
    return Written(
        _render(document), document["digest"], series["file"], _to_parquet(rows)
    )


def _rows_of(manifest: Manifest, dir_template: str | None) -> pa.Table:
    """Give the columns of a lock, in the order of their names."""
    import pyarrow as pa

    table = manifest.table
    parts = list(manifest.parts())
    if any(part.first_instance or part.last_instance is not None for part in parts):
        msg = "a lock holds whole series; this cohort holds runs of their instances"
        raise RequestError(msg)
    subsets = [part for part in parts if part.only is not None]
    if subsets:
        first = subsets[0]
        msg = (
            f"a lock holds whole series; of {len(subsets):,} series this cohort holds "
            f"single instances, such as {first.instances} of {first.crdc_series_uuid}; "
            'write it as a manifest: to_manifest(path, level="instance")'
        )
        raise RequestError(msg, series=[part.crdc_series_uuid for part in subsets])
    columns: dict[str, Any] = {
        "size": integers([part.size for part in parts]),
        "size_tolerance": integers([part.size_tolerance for part in parts]),
    }
    types = {TEXT: pa.string(), NUMBER: pa.int64()}
    for name, kind in COLUMNS.items():
        if name in columns:
            continue
        if name in table.column_names:
            columns[name] = table.column(name).cast(types[kind])
        else:
            columns[name] = pa.nulls(len(manifest), types[kind])
    for name in _further(dir_template, table.column_names):
        known = _kind(table.schema.field(name).type)
        if known is None:
            msg = (
                f"dir_template names {name}, which is neither text nor whole numbers, "
                "so that a lock cannot keep it"
            )
            raise RequestError(msg, column=name)
        columns[name] = table.column(name).cast(types[known])
    return pa.table({name: columns[name] for name in sorted(columns)})


def _further(dir_template: str | None, columns: list[str]) -> list[str]:
    """Give the columns that a template may name and that not every lock has."""
    if dir_template is None:
        return []
    known = {*COLUMNS, "series_size_MB", "first_instance", "last_instance"}
    # A column too many does no harm; the template itself is checked by the plan.
    return [c for c in columns if c not in known and f"%{c}" in dir_template]


def _kind(kind: pa.DataType) -> str | None:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return TEXT
    return NUMBER if pa.types.is_integer(kind) else None


def _document(lock: Lock, rows: pa.Table, digest: str) -> dict[str, Any]:
    """Give the document, but for its digest and the series themselves."""
    columns = {name: rows.column(name).to_pylist() for name in _COUNTED}
    licenses = Counter(columns["license_short_name"])
    dois = {
        doi.strip()
        for text in set(columns["source_DOI"])
        if text
        for doi in re.split(r"[,;\s]", text)
        if doi.strip()
    }
    collections, patients = columns["collection_id"], columns["PatientID"]
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "needs": NEEDS,
        "question": dict(lock.question),
        "release": dict(lock.release),
        "mirror": None if lock.mirror is None else dict(lock.mirror),
        "dir_template": lock.dir_template,
        "counts": {
            "series": rows.num_rows,
            "instances": sum(n or 0 for n in columns["instanceCount"]),
            "studies": len({*columns["StudyInstanceUID"]} - {None}),
            "patients": len({*zip(collections, patients, strict=True)}),
            "collections": len({*collections} - {None}),
            "bytes": sum(size or 0 for size in columns["size"]),
        },
        "licenses": [
            {"license_short_name": name, "series": licenses[name]}
            for name in sorted(licenses, key=lambda name: (name is None, name or ""))
        ],
        "source_dois": sorted(dois),
        "manifest_digest": _manifest(rows, lock.idc_version, "").digest,
        "series": {
            "columns": {field.name: _kind(field.type) for field in rows.schema},
            "count": rows.num_rows,
            "digest": digest,
        },
    }


_COUNTED = (
    "collection_id",
    "PatientID",
    "StudyInstanceUID",
    "instanceCount",
    "size",
    "license_short_name",
    "source_DOI",
)


def _manifest(rows: pa.Table, idc_version: int, origin: str) -> Manifest:
    """Give the rows of a lock as a manifest, its columns in the usual order."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = [*COLUMNS, *(name for name in rows.column_names if name not in COLUMNS)]
    table = rows.select(names)
    million = pc.cast(integers([MEGABYTE]), pa.float64())[0]
    megabytes = pc.divide(pc.cast(table.column("size"), pa.float64()), million)
    place = names.index("size")
    return Manifest(
        table.set_column(place, "series_size_MB", megabytes), idc_version, origin
    )


# Digests.


def canonical(value: Any) -> bytes:
    """Give plain data as JSON in its one form: sorted, ASCII, no blanks.

    >>> canonical({"b": None, "a": [1, 0.5, "x"]})
    b'{"a":[1,0.5,"x"],"b":null}'
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def _digest(document: Mapping[str, Any]) -> str:
    """SHA-256 over everything; the series enter by their own digest."""
    series = {name: document["series"].get(name) for name in sorted(_SERIES_KEYS)}
    rest = {k: v for k, v in document.items() if k != "digest"}
    return hashlib.sha256(canonical({**rest, "series": series})).hexdigest()


def _content_digest(rows: pa.Table) -> str:
    """SHA-256 over the values of the rows, column after column, as hex.

    For each column, in order of the names: a line with name and kind; of text the
    length of every value in UTF-8 (-1 for null), then all the values; of whole
    numbers every value (-1 for null). Lengths and numbers are 8 bytes, signed,
    little-endian.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    sha = hashlib.sha256()
    for name in sorted(rows.column_names):
        column = rows.column(name)
        kind = _kind(column.type)
        sha.update(f"{name}\t{kind}\n".encode())
        if kind == NUMBER:
            numbers = column
        else:
            numbers = pc.cast(pc.binary_length(column), pa.int64())
        for chunk in pc.fill_null(numbers, integers([-1])[0]).chunks:
            sha.update(_fixed(chunk))
        if kind == TEXT:
            for chunk in pc.fill_null(column, texts([""])[0]).chunks:
                sha.update(_text(chunk))
    return sha.hexdigest()


def _fixed(chunk: pa.Array) -> memoryview:
    """Give the bytes of an array of int64."""
    start = 8 * chunk.offset
    return memoryview(chunk.buffers()[1])[start : start + 8 * len(chunk)]


def _text(chunk: pa.Array) -> memoryview:
    """Give the bytes of all values of an array of strings."""
    _, offsets, data = chunk.buffers()
    (start,) = struct.unpack_from("=i", offsets, 4 * chunk.offset)
    (end,) = struct.unpack_from("=i", offsets, 4 * (chunk.offset + len(chunk)))
    return memoryview(b"") if data is None else memoryview(data)[start:end]


# As bytes.


def _render(document: Mapping[str, Any]) -> bytes:
    """Give the document as indented JSON, with one line for each series."""

    def laid_out(value: Any, depth: int) -> str:
        text = json.dumps(value, sort_keys=True, indent=2, allow_nan=False)
        return text.replace("\n", "\n" + "  " * depth)

    def series(value: Mapping[str, Any]) -> str:
        if "rows" not in value:
            return laid_out(value, 1)
        rest = laid_out({k: v for k, v in value.items() if k != "rows"}, 1)
        rows = ",\n".join(
            "      " + json.dumps(row, sort_keys=True) for row in value["rows"]
        )
        opened = rest.removesuffix("\n  }")
        return f'{opened},\n    "rows": [\n{rows}\n    ]\n  }}'

    lines = [
        f"  {json.dumps(key)}: "
        + (series(document[key]) if key == "series" else laid_out(document[key], 1))
        for key in sorted(document)
    ]
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode("ascii")


def _to_parquet(rows: pa.Table) -> bytes:
    """Give rows as Parquet: every option said, nothing of the writer's schema kept."""
    from pyarrow import parquet

    sink = io.BytesIO()
    parquet.write_table(
        rows.replace_schema_metadata(None),
        sink,
        version="2.6",
        data_page_version="1.0",
        compression="zstd",
        compression_level=3,
        use_dictionary=list(_REPEATED),
        write_statistics=False,
        store_schema=False,
        row_group_size=1 << 17,
    )
    return sink.getvalue()


# Reading.


def read(data: bytes, name: str, side: Callable[[str], bytes]) -> tuple[Lock, Manifest]:
    """Read a lock, and check all of it.

    Parameters
    ----------
    data : bytes
        The JSON document.
    name : str
        Where it came from, for messages and as the origin of the manifest.
    side : callable
        Gives the bytes of the file of that name beside it.

    Raises
    ------
    RequestError
        It is not a lock.
    MissingError
        It is of a newer format; the message says which package reads it.
    IntegrityError
        Something in it was changed, or the Parquet file is not the one it names.
    """
    document = _parse(data, name)
    _check_format(document, name)
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        _refuse(name, f"it holds half a character ({error})")
    missing = sorted(_KEYS - set(document)) or sorted(set(document) - _KEYS)
    if missing:
        _refuse(name, f"its keys are not those of a lock: {', '.join(missing)}")
    series = document["series"]
    if not isinstance(series, dict):
        _refuse(name, "'series' is not an object")
    found = _digest(document)
    if document["digest"] != found:
        _refuse(name, f"its digest is {document['digest']!r}, its content's {found}")
    lock = _lock(document, name)
    rows = _rows(series, name, side)
    digest = _content_digest(rows)
    if digest != series["digest"]:
        where = series.get("file", "its list of series")
        _refuse(name, f"{where} does not hold the series that were locked")
    _check_rows(rows, name, IntegrityError)
    counted = _document(lock, rows, digest)
    for key in sorted(counted.keys() - {"series"}):
        # In their one form: to Python 1, 1.0 and True are the same.
        if canonical(counted[key]) != canonical(document[key]):
            _refuse(name, f"{key!r} is not what the series give")
    return lock, _manifest(rows, lock.idc_version, name)


def _refuse(name: str, reason: str) -> NoReturn:
    msg = f"the lock {name} is damaged or was changed: {reason}; do not use it"
    raise IntegrityError(msg, path=name)


def _parse(data: bytes, name: str) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            msg = "a key stands twice"
            raise ValueError(msg)
        return found

    def no_number(text: str) -> NoReturn:
        msg = f"{text} is no JSON"
        raise ValueError(msg)

    try:
        document = json.loads(data, object_pairs_hook=once, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        msg = f"{name} is not a lock: it is no JSON ({error})"
        raise RequestError(msg, path=name) from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        msg = f"{name} is not a lock: it does not say {FORMAT!r} under 'format'"
        raise RequestError(msg, path=name)
    return document


def _check_format(document: Mapping[str, Any], name: str) -> None:
    version = document.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        msg = f"{name} is a lock of no known format: 'format_version' is {version!r}"
        raise RequestError(msg, path=name)
    if version > FORMAT_VERSION:
        needs = document.get("needs")
        known = isinstance(needs, str) and _VERSION.fullmatch(needs)
        wanted = f"'{needs}'" if known else "-U intake-idc"
        msg = (
            f"the lock {name} is of format {version}, and this package reads up to "
            f"{FORMAT_VERSION}; pip install {wanted}"
        )
        raise MissingError(msg, path=name, format_version=version)


def _lock(document: Mapping[str, Any], name: str) -> Lock:
    """Give what stands beside the series, its kinds checked."""
    mirror, template = document["mirror"], document["dir_template"]
    _check_question(document["question"], name)
    _check_pin(document["release"], name)
    if mirror is not None and not isinstance(mirror, dict):
        _refuse(name, "'mirror' is null or an object")
    if template is not None and not isinstance(template, str):
        _refuse(name, "'dir_template' is null or a text")
    digest = document["digest"]
    return Lock(document["question"], document["release"], mirror, template, digest)


def _check_question(question: object, name: str) -> None:
    if not isinstance(question, dict) or set(question) != _QUESTION_KEYS:
        _refuse(name, f"'question' holds {', '.join(sorted(_QUESTION_KEYS))}")
    asked = question["selection"]
    lists = [asked.get(k) for k in ("where", "sql")] if isinstance(asked, dict) else []
    if not lists or not all(isinstance(each, list) for each in lists):
        _refuse(name, "'selection' has no lists 'where' and 'sql'")
    if not all(isinstance(condition, str) for condition in asked["sql"]):
        _refuse(name, "'sql' is a list of texts")
    if question["of"] not in ("release", "manifest"):
        _refuse(name, f"'of' is 'release' or 'manifest', not {question['of']!r}")
    if not isinstance(question["everything"], bool):
        _refuse(name, "'everything' is true or false")
    if not isinstance(question["manifest"], str | None):
        _refuse(name, "'manifest' is null or a text")


def _check_pin(release: object, name: str) -> None:
    if not isinstance(release, dict) or set(release) != _RELEASE_KEYS:
        _refuse(name, f"'release' holds {', '.join(sorted(_RELEASE_KEYS))}")
    version, digests = release["idc_version"], release["digest"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        _refuse(name, "'release' has no number under 'idc_version'")
    said = [release["source"], release["sureness"]]
    said += [] if release["tables"] is None else [release["tables"]]
    said += digests.values() if isinstance(digests, dict) else [None]
    if not all(isinstance(text, str) for text in said):
        _refuse(name, "'release' holds texts beside its number")


def _rows(
    series: Mapping[str, Any], name: str, side: Callable[[str], bytes]
) -> pa.Table:
    """Give the series as a table, whichever way they are held."""
    columns = series.get("columns")
    if not isinstance(columns, dict) or set(COLUMNS.items()) - set(columns.items()):
        _refuse(name, "'columns' lacks some that every lock has")
    if set(columns.values()) - {TEXT, NUMBER}:
        _refuse(name, f"a column is {TEXT!r} or {NUMBER!r}")
    if set(series) not in (_SERIES_KEYS | {"rows"}, _SERIES_KEYS | {"file"}):
        _refuse(name, "'series' holds either 'rows' or 'file'")
    if "rows" in series:
        rows = _listed(series["rows"], columns, name)
    else:
        file = series["file"]
        if not isinstance(file, str) or not _SIDE.fullmatch(file):
            _refuse(name, f"{file!r} is not the name of a Parquet file beside it")
        rows = _from_parquet(side(file), columns, name, file)
    if type(series["count"]) is not int or rows.num_rows != series["count"]:
        _refuse(name, f"it holds {rows.num_rows} series, not {series['count']!r}")
    if not rows.num_rows:
        _refuse(name, "it holds no series")
    return rows


def _listed(rows: object, columns: Mapping[str, str], name: str) -> pa.Table:
    import pyarrow as pa

    if not isinstance(rows, list):
        _refuse(name, "'rows' is not a list")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != set(columns):
            _refuse(name, f"series {number} does not have the columns that it names")
    types = {TEXT: str, NUMBER: int}
    found = {}
    for column, kind in sorted(columns.items()):
        values = [row[column] for row in rows]
        if any(type(v) is not types[kind] for v in values if v is not None):
            _refuse(name, f"a value of {column} is not {kind}")
        try:
            found[column] = (integers if kind == NUMBER else texts)(values)
        except (UnicodeError, OverflowError) as error:
            _refuse(name, f"a value of {column} does not fit: {error}")
    return pa.table(found)


def _from_parquet(
    data: bytes, columns: Mapping[str, str], name: str, file: str
) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet

    types = {TEXT: pa.string(), NUMBER: pa.int64()}
    schema = pa.schema([(column, types[columns[column]]) for column in sorted(columns)])
    try:
        # Not read_table, which loads all of Arrow's data set machinery.
        table = parquet.ParquetFile(pa.BufferReader(data)).read()
        if sorted(table.column_names) == schema.names:
            return table.select(schema.names).cast(schema)
        reason = f"{file} has other columns than the lock says"
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = f"{file} cannot be read: {error}"
    _refuse(name, reason)


def _check_rows(
    rows: pa.Table, name: str, error: type[IntegrityError | RequestError]
) -> None:
    """Refuse rows that could not be of IDC, or that name a place outside a bucket."""
    for reason in _faults(rows):
        msg = f"the lock {name} cannot be: {reason}"
        raise error(msg, path=name)


def _faults(rows: pa.Table) -> Iterator[str]:
    import pyarrow.compute as pc

    for column in ("crdc_series_uuid", "aws_bucket", "size_tolerance"):
        if rows.column(column).null_count:
            yield f"{column} is null in some row"
    uuids = rows.column("crdc_series_uuid")
    if not pc.all(pc.match_substring_regex(uuids, _UUID)).as_py():
        yield "a crdc_series_uuid is not a UUID in lower case"
    for bucket in pc.unique(rows.column("aws_bucket")).to_pylist():
        if not _BUCKET.fullmatch(bucket):
            yield f"{bucket!r} is not the name of a bucket"
    for column in rows.column_names:
        if _kind(rows.schema.field(column).type) == NUMBER:
            least = pc.min(rows.column(column)).as_py()
            if least is not None and least < 0:
                yield f"{column} is negative in some row"
