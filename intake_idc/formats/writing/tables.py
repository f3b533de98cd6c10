"""Manifests that are tables: CSV, TSV, NDJSON, JSON, Parquet, DRS, API v2."""

from __future__ import annotations

import json
import re
from typing import IO, TYPE_CHECKING, Any

from intake_idc.errors import RequestError
from intake_idc.formats.writing.rows import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from intake_idc.formats.writing.rows import Rows

__all__ = [
    "DRS_HOST",
    "api_v2",
    "delimited",
    "drs",
    "guarded",
    "json_array",
    "ndjson",
    "parquet",
    "unguarded",
]

DRS_HOST = "drs://nci-crdc.datacommons.io/dg.4DFC/"
"""What stands before the uuid of an instance in a DRS URI of IDC, as HTAN's portal
writes it."""
ROW_GROUP = 131_072

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""The start of a cell that a spreadsheet would run, or that looks guarded already."""


def guarded(cell: str) -> str:
    """Give a cell that a spreadsheet takes for text: with ``'`` before a formula.

    >>> guarded("=1+1"), guarded("-"), guarded("chest"), guarded("'=1")
    ("'=1+1", "'-", 'chest', "''=1")
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def unguarded(cell: str) -> str:
    """Give back a cell that `guarded` gave.

    >>> unguarded("'=1+1"), unguarded("chest"), unguarded("''=1")
    ('=1+1', 'chest', "'=1")
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def delimited(
    rows: Rows,
    delimiter: str = ",",
    columns: Sequence[str] = (),
    *,
    preamble: bool = False,
    spreadsheet_safe: bool = False,
) -> Iterator[str]:
    """Give CSV or TSV as IDC's portal does: quotes where needed, CRLF.

    Parameters
    ----------
    rows : Rows
        The rows.
    delimiter : str
        A comma, or a tab.
    columns : sequence of str
        Columns besides those of the level.
    preamble : bool
        Whether rows of one cell say the number of rows and the release first.
    spreadsheet_safe : bool
        Whether cells are `guarded`.
    """
    rows.check_whole()
    names = rows.columns(columns)
    if preamble:
        count = f"Total records found: {len(rows)}"
        said = [count, f"IDC Data Version(s): {rows.release}"]
        yield _lines([_quoted(said, delimiter)], delimiter)
    yield _lines([[name] for name in _quoted(names, delimiter)], delimiter)
    for batch in rows.batches(names):
        cells = [_cells(c.to_pylist(), spreadsheet_safe) for c in batch.columns]
        yield _lines([_quoted(column, delimiter) for column in cells], delimiter)


def _cells(values: list[Any], safe: bool) -> list[str]:
    """Give the cells of a column as text."""
    if not safe and {type(value) for value in values} <= {str, type(None)}:
        return [value or "" for value in values]
    return [_cell(value, safe) for value in values]


def _cell(value: Any, safe: bool) -> str:
    if isinstance(value, str):
        return guarded(value) if safe else value
    # A number is no formula, also where it is negative.
    found = plain(value, text=True)
    return "" if found is None else str(found)


def _quoted(cells: list[str], delimiter: str) -> list[str]:
    """Give cells with quotes where they need them, as `csv.writer` does.

    That of Python 3.10 cannot write NUL.
    """
    needs = re.compile(f'["\r\n{delimiter}]')
    if not needs.search("\0".join(cells)):
        return cells
    return [
        '"' + cell.replace('"', '""') + '"' if needs.search(cell) else cell
        for cell in cells
    ]


def _lines(columns: Sequence[list[str]], delimiter: str) -> str:
    rows = zip(*columns, strict=True)
    return "".join(f"{delimiter.join(row)}\r\n" for row in rows)


def drs(rows: Rows) -> Iterator[str]:
    """Give CSV with a DRS URI and a file name for each instance, as HTAN's portal does.

    Raises
    ------
    RequestError
        The rows are series.
    """
    check_drs(rows.level)
    yield "drs_uri,name\n"
    for batch in rows.batches(["crdc_instance_uuid"]):
        uuids = batch.column(0).to_pylist()
        yield "".join(f"{DRS_HOST}{uuid},{uuid}.dcm\n" for uuid in uuids)


def check_drs(level: str) -> None:
    """Refuse DRS for series.

    Raises
    ------
    RequestError
        The level is that of series.
    """
    if level == "series":
        msg = (
            "DRS knows instances: series of releases after 1 are not registered; "
            "give level='instance'"
        )
        raise RequestError(msg, level=level)


def ndjson(rows: Rows, columns: Sequence[str] = ()) -> Iterator[str]:
    """Give an object of JSON a line. Letters beyond ASCII are escaped."""
    rows.check_whole()
    for block in _objects(rows, columns):
        yield "".join(f"{text}\n" for text in block)


def json_array(rows: Rows, columns: Sequence[str] = ()) -> Iterator[str]:
    """Give one array of JSON, with an object a line."""
    rows.check_whole()
    yield "["
    yield from _joined(rows, columns)
    yield "\n]\n"


def api_v2(rows: Rows, columns: Sequence[str] = ()) -> Iterator[str]:
    """Give JSON in the shape of a response of IDC's API, version 2.

    As there, whole numbers are numbers, and all else is text or null.
    """
    rows.check_whole()
    pinned = {"filters": {}, "idc_data_version": f"{rows.manifest.idc_version}.0"}
    asked = {"name": "", "description": "", "filterSet": pinned}
    yield f'{{"code": 200, "cohort_def": {json.dumps(asked)}, '
    yield '"manifest": {"manifest_data": ['
    yield from _joined(rows, columns, text=True)
    counts = f'"rowsReturned": {len(rows)}, "totalFound": {len(rows)}'
    yield f'\n], {counts}}}, "next_page": ""}}\n'


def _joined(rows: Rows, columns: Sequence[str], *, text: bool = False) -> Iterator[str]:
    before = "\n"
    for block in _objects(rows, columns, text=text):
        yield before + ",\n".join(block)
        before = ",\n"


def _objects(
    rows: Rows, columns: Sequence[str], *, text: bool = False
) -> Iterator[list[str]]:
    """Give each row as the text of an object, some at once."""
    names = rows.columns(columns)
    for batch in rows.batches(names):
        cells = [[plain(v, text=text) for v in c.to_pylist()] for c in batch.columns]
        yield [
            json.dumps(dict(zip(names, row, strict=True)))
            for row in zip(*cells, strict=True)
        ]


def parquet(rows: Rows, file: IO[bytes], columns: Sequence[str] = ()) -> None:
    """Write Parquet; the schema's metadata names release, level, origin and digest.

    Columns keep their types.
    """
    rows.check_whole()
    import pyarrow as pa
    from pyarrow import parquet as form

    names = rows.columns(columns)
    said = {
        b"idc_version": str(rows.manifest.idc_version).encode(),
        b"level": rows.level.encode(),
        b"origin": rows.origin.encode(),
        b"digest": rows.manifest.digest.encode(),
    }
    schema = pa.schema(list(rows.piece(names, 0, 0).schema), said)
    with form.ParquetWriter(file, schema, compression="zstd") as out:
        for batch in rows.batches(names, ROW_GROUP):
            out.write_table(pa.table(batch.columns, schema=schema))
