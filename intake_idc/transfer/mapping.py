"""A table beside a copy: which file is which object, and where it came from."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import integers, texts
from intake_idc.errors import DicomReadError, RequestError
from intake_idc.files import beside
from intake_idc.storage import each
from intake_idc.transfer.report import STATUSES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from intake_idc.transfer.report import Report

__all__ = ["COLUMNS", "check_mapping", "write_mapping"]

COLUMNS = (
    "path",
    "crdc_series_uuid",
    "crdc_instance_uuid",
    "SOPInstanceUID",
    "url",
    "size",
    "hash",
)
"""Columns of the table, in order."""
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".arrow")
AT_ONCE = 4096
"""Rows that are held at once."""
HEADER_BYTES = 16 * 1024
_FAILED = STATUSES.index("failed")


def check_mapping(path: Path) -> None:
    """Refuse a name that no kind of table has.

    Raises
    ------
    RequestError
        Its suffix says of no kind.
    """
    if path.suffix.lower() not in SUFFIXES:
        kinds = ", ".join(SUFFIXES)
        msg = f"the name of a mapping ends in one of {kinds}; got {path.name!r}"
        raise RequestError(msg, path=str(path))


def write_mapping(report: Report, path: Path) -> None:
    """Write one row for every object that is there.

    ``path`` is below the target, with ``/`` between the parts. ``SOPInstanceUID`` is
    read from the file, and empty where it is no readable DICOM, or where the target is
    a store: nothing is read from that. ``hash`` is what was computed while the object
    was copied, as ``md5:<hex>``; else the MD5 that the release states; else empty.

    Raises
    ------
    RequestError
        As in `check_mapping`.
    """
    check_mapping(path)
    kind = path.suffix.lower()
    with beside(path) as part:
        if kind in (".csv", ".tsv"):
            mark = "\t" if kind == ".tsv" else ","
            with part.open("x", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, delimiter=mark, lineterminator="\n")
                writer.writerow(COLUMNS)
                writer.writerows(_rows(report))
        elif kind in (".jsonl", ".ndjson"):
            with part.open("x", encoding="utf-8") as file:
                for row in _rows(report):
                    named = dict(zip(COLUMNS, row, strict=True))
                    file.write(json.dumps(named, ensure_ascii=False) + "\n")
        else:
            _write_arrow(report, part, parquet=kind == ".parquet")


def _rows(report: Report) -> Iterator[tuple[Any, ...]]:
    plan = report.plan
    there = (row for row in plan.rows() if report.statuses[row.row] != _FAILED)
    while some := list(itertools.islice(there, AT_ONCE)):
        paths = [plan.path(row) for row in some]
        files = [f"{report.target}/{path}" for path in paths]
        for row, path, uid in zip(some, paths, each(_sop, files), strict=True):
            known = f"md5:{row.md5.hex()}" if row.md5 is not None else ""
            uuid = plan.key(row).split("/", 1)[0]
            digest = report.hashes.get(row.row, known)
            yield path, uuid, row.name, uid, plan.url(row), row.size, digest


def _sop(path: str) -> str:
    from intake_idc import dicom

    try:
        with Path(path).open("rb") as file:

            def read(start: int, stop: int) -> bytes:
                file.seek(start)
                return file.read(stop - start)

            header = dicom.read_header(read, file.seek(0, 2), path)
    except (DicomReadError, OSError):
        return ""
    return str(header.get("SOPInstanceUID", ""))


def _write_arrow(report: Report, path: Path, *, parquet: bool) -> None:
    import pyarrow as pa

    kinds = {"size": pa.int64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    rows = _rows(report)
    with _writer(path, schema, parquet=parquet) as writer:
        while some := list(itertools.islice(rows, AT_ONCE)):
            columns = [
                integers(values) if name == "size" else texts(values)
                for name, values in zip(COLUMNS, zip(*some, strict=True), strict=True)
            ]
            writer.write_table(pa.table(columns, schema=schema))


def _writer(path: Path, schema: pa.Schema, *, parquet: bool) -> Any:
    import pyarrow as pa

    if parquet:
        from pyarrow.parquet import ParquetWriter

        return ParquetWriter(path, schema)
    return pa.ipc.new_file(path, schema)
