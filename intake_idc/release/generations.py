"""Tables of older index packages, read as those of today are.

``idc-index-data`` has changed its tables with nearly every release:

- up to 17.0.1 the index is a CSV in a ZIP, with a nameless first column;
- up to 19 the uuid and the bucket of a series stand only inside its URL;
- up to 22 sizes are rounded to 0.01 MB;
- in 23 the columns of the collections are spelt in CamelCase, and the slides of
  tcga_brca are counted twice: count and size are exactly the double of the truth;
- up to 24 prior_versions_index has a second column gcs_bucket_1.

Names and types are ironed out here. What an older package does not say at all, such
as ``SOPClassUID`` before 23, stays out: it is not made up from a newer one.
"""

from __future__ import annotations

import re
import zipfile
from csv import reader
from typing import TYPE_CHECKING

from intake_idc.errors import IntegrityError
from intake_idc.selection import literal, quote

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["csv_to_parquet", "ironed", "row_source"]

_RENAMED = {
    "collections_index": {
        "CancerTypes": "cancer_types",
        "TumorLocations": "tumor_locations",
        "Subjects": "subjects",
        "Species": "species",
        "Sources": "sources",
        "SupportingData": "supporting_data",
        "Program": "program_id",
        "Status": "status",
        "Updated": "updated",
        "Description": "description",
    },
    "analysis_results_index": {
        "Subjects": "subjects",
        "Collections": "collections",
        "Modalities": "modalities",
        "Updated": "updated",
        "Description": "description",
        "Citation": "citation",
    },
}
"""Columns by table: their spelling in packages 23, and since."""

_SOURCE_FIELDS = (
    "source_id",
    "source_title",
    "source_type",
    "source_doi",
    "source_url",
    "modalities",
    "license",
    "citation",
    "Access",
    "ImageTypes",
)
"""Fields of each of a collection's sources, as they are spelt since 24."""

_FROM_URL = {"crdc_series_uuid": 4, "aws_bucket": 3}
"""Columns that can be read off ``series_aws_url``, and the part that they are."""

_DOUBLED = "collection_id = 'tcga_brca' AND Modality = 'SM'"
"""The rows that package 23 counts twice."""


def ironed(table: str, scan: str, columns: Mapping[str, str]) -> str | None:
    """Give SQL that reads a table of an older package as one of today.

    Parameters
    ----------
    table : str
        Name of the table.
    scan : str
        SQL that reads it as it is.
    columns : dict
        Its columns, and their DuckDB types.

    Returns
    -------
    str or None
        SQL of a relation; None where the table is as those of today.
    """
    if table in _RENAMED:
        return _renamed(table, scan, columns)
    added = [
        f"split_part(series_aws_url, '/', {part}) AS {column}"
        for column, part in _FROM_URL.items()
        if column not in columns and "series_aws_url" in columns
    ]
    dropped = [column for column in ("gcs_bucket_1", "column0") if column in columns]
    replaced = []
    if table == "idc_index" and _is_23(columns):
        replaced = [
            _halved(column, scan) for column in ("series_size_MB", "instanceCount")
        ]
    if not (added or dropped or replaced):
        return None
    listed = "*"
    if dropped:
        listed += f" EXCLUDE ({', '.join(map(quote, dropped))})"
    if replaced:
        listed += f" REPLACE ({', '.join(replaced)})"
    return f"(SELECT {', '.join([listed, *added])} FROM {scan})"


def row_source(columns: Mapping[str, str]) -> str:
    """Give SQL of the ``row_source`` of the index's own rows, by its own columns.

    "idc_index" promises a size that is exact; a rounded or a mended one has another.
    """
    if "series_revised_idc_version" in columns:
        return "'idc_index'"
    if _is_23(columns):
        return f"CASE WHEN {_DOUBLED} THEN 'idc_index, halved' ELSE 'idc_index' END"
    return "'idc_index, rounded'"


def _is_23(columns: Mapping[str, str]) -> bool:
    """Say whether an index is of package 23, by the columns that came and went."""
    return "SOPClassUID" in columns and "series_revised_idc_version" not in columns


def _halved(column: str, scan: str) -> str:
    """Halve what is counted twice, if it is: then every count is even."""
    even = f"(SELECT bool_and(instanceCount % 2 = 0) FROM {scan} WHERE {_DOUBLED})"
    half = f"{column} // 2" if column == "instanceCount" else f"{column} / 2"
    return f"CASE WHEN {_DOUBLED} AND {even} THEN {half} ELSE {column} END AS {column}"


def _renamed(table: str, scan: str, columns: Mapping[str, str]) -> str | None:
    renamed = {old: new for old, new in _RENAMED[table].items() if old in columns}
    if not renamed:
        return None
    listed = []
    for column, kind in columns.items():
        name = renamed.get(column, column)
        value = quote(column)
        if name == "sources":
            value = f"[{_source(kind)} for s in {value}]"
        listed.append(f"{value} AS {quote(name)}")
    return f"(SELECT {', '.join(listed)} FROM {scan})"


def _source(kind: str) -> str:
    """Give a source of a collection with today's fields; the missing ones are null."""
    spelt = {"citation": "Citation"}
    there = {
        name: field
        for name in _SOURCE_FIELDS
        for field in (spelt.get(name, name), name)
        if re.search(rf'[(,\s]"?{field}"? ', kind)
    }
    values = (
        f"{literal(name)}: s.{quote(there[name])}"
        if name in there
        else f"{literal(name)}: NULL::VARCHAR"
        for name in _SOURCE_FIELDS
    )
    return "{" + ", ".join(values) + "}"


def csv_to_parquet(archive: Path, target: Path) -> None:
    """Write the index of a package that has it as a CSV in a ZIP as Parquet.

    Raises
    ------
    IntegrityError
        The archive does not hold the one CSV, or the CSV is not an index.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    numbers = {"instanceCount": pa.int64(), "series_size_MB": pa.float64()}
    try:
        with zipfile.ZipFile(archive) as opened, opened.open("idc_index.csv") as file:
            names = next(reader([file.readline().decode("utf-8")]))
            table = csv.read_csv(
                file,
                read_options=csv.ReadOptions(column_names=["", *names[1:]]),
                parse_options=csv.ParseOptions(newlines_in_values=True),
                convert_options=csv.ConvertOptions(
                    include_columns=names[1:],
                    column_types={n: numbers.get(n, pa.string()) for n in names[1:]},
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
    except (zipfile.BadZipFile, KeyError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        msg = f"{archive} is not the index of a package as a zipped CSV: {error}"
        raise IntegrityError(msg, path=str(archive)) from error
    parquet.write_table(table, target, compression="zstd")
