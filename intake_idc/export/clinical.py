"""Clinical tables: what IDC knows of patients beside their images.

`clinical_index` is the dictionary: which collection has which table, and what its
columns and codes mean. The rows are in the Parquet export of the release, in the
dataset ``idc_v<N>_clinical``, from release 11 on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from intake_idc import display
from intake_idc.errors import IntegrityError, RequestError, UnknownValue, nearest
from intake_idc.export.tables import open_export
from intake_idc.release import Release, open_release

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    import pandas as pd
    import pyarrow as pa

    from intake_idc.export.tables import Export
    from intake_idc.release.rows import Rows
    from intake_idc.selection import Selection
    from intake_idc.storage import Mirror

__all__ = [
    "PATIENT",
    "Clinical",
    "ClinicalColumn",
    "ClinicalTable",
    "clinical_tables",
    "listed",
    "of_patients",
    "open_clinical",
]

INDEX = "clinical_index"
PATIENT = "dicom_patient_id"
"""The column that names the patient, as PatientID does in the index."""
SHOWN = 5
"""Codes that a report shows."""


@dataclass(frozen=True)
class ClinicalColumn:
    """One column of a clinical table."""

    name: str
    """Its name in the table."""
    label: str | None = None
    """What it is, in words."""
    codes: tuple[tuple[str, str | None], ...] = ()
    """Codes that were met in it, and what each means, where that is known."""

    @property
    def coded(self) -> bool:
        """Whether codes in it mean something else than they say."""
        return any(meaning for _, meaning in self.codes)


@dataclass(frozen=True)
class ClinicalTable:
    """What the dictionary says of one clinical table."""

    name: str
    """Its short name, such as ``nlst_canc``."""
    collections: tuple[str, ...]
    """The collections that it belongs to; mostly one."""
    columns: tuple[ClinicalColumn, ...] = field(repr=False)
    """Its columns."""

    def __str__(self) -> str:
        rows = [
            [
                column.name,
                column.label or "",
                ", ".join(f"{c}={m}" for c, m in column.codes[:SHOWN] if m),
            ]
            for column in self.columns
        ]
        title = f"{self.name}, of {', '.join(self.collections)}"
        return f"{title}\n{display.rows(['column', 'label', 'codes'], rows)}"


@dataclass(frozen=True)
class Clinical:
    """Rows of a clinical table."""

    about: ClinicalTable
    """What the dictionary says of it."""
    idc_version: int
    """The release that the rows are of."""
    table: pa.Table = field(repr=False)
    """The rows."""
    unknown: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Codes that the dictionary does not know, which were kept: rows by column and
    code. Empty where nothing was decoded."""
    patients: int | None = None
    """Patients of the cohort in the table's collections; None without a cohort."""
    matched: int | None = None
    """Those of them that have rows."""

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def df(self) -> pd.DataFrame:
        """The rows as a pandas data frame."""
        return self.table.to_pandas()

    def _items(self) -> list[tuple[str, object]]:
        items: list[tuple[str, object]] = [
            ("table", self.about.name),
            ("collections", ", ".join(self.about.collections)),
            ("rows", f"{len(self):,}"),
            ("columns", f"{self.table.num_columns:,}"),
        ]
        if self.patients is not None:
            items.append(("patients", f"{self.matched:,} of {self.patients:,} matched"))
        for column, codes in self.unknown.items():
            shown = ", ".join(list(codes)[:SHOWN])
            items.append((f"unknown codes of {column}", shown))
        return items

    def __str__(self) -> str:
        title = f"Clinical data of IDC release {self.idc_version}"
        return display.pairs(title, self._items())

    def _repr_html_(self) -> str:
        title = f"Clinical data of IDC release {self.idc_version}"
        return display.pairs_html(title, self._items())


def listed(release: Release, collection_id: str | None = None) -> list[ClinicalTable]:
    """Give what the dictionary says of each table, in order of names.

    Raises
    ------
    TableNotFound
        There is no `clinical_index`.
    UnknownValue
        The dictionary knows no such collection.
    """
    columns = ["collection_id", "table_name", "short_table_name", "column"]
    index = release.index_table(INDEX, [*columns, "column_label", "values"])
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in index.to_pylist():
        name = row["short_table_name"] or str(row["table_name"]).rsplit(".", 1)[-1]
        rows.setdefault(name, []).append(row)
    found = [_described(name, rows[name]) for name in sorted(rows)]
    if collection_id is None:
        return found
    known = {collection for table in found for collection in table.collections}
    if collection_id not in known:
        near = nearest(collection_id, known)
        msg = f"no clinical table is of collection {collection_id!r}{near}"
        raise UnknownValue(msg, column="collection_id", value=collection_id)
    return [table for table in found if collection_id in table.collections]


def _described(name: str, rows: Sequence[Mapping[str, Any]]) -> ClinicalTable:
    collections = sorted({str(row["collection_id"]) for row in rows})
    columns: dict[str, ClinicalColumn] = {}
    for row in rows:
        own = str(row["column"])
        values = tuple(
            (str(v["option_code"]), v["option_description"] or None)
            for v in row["values"] or ()
            if v["option_code"] is not None
        )
        before = columns.get(own)
        if before is not None:
            values = tuple(dict.fromkeys([*before.codes, *values]))
        label = row["column_label"] or (before.label if before else None)
        columns[own] = ClinicalColumn(own, label, values)
    return ClinicalTable(name, tuple(collections), tuple(columns.values()))


def open_clinical(
    table: str,
    idc_version: int | str | Release = "current",
    *,
    tables: str | os.PathLike[str] | None = None,
    decode: bool = False,
    mirror: str | os.PathLike[str] | Mirror | None = None,
    endpoint_url: str | None = None,
) -> Clinical:
    """Read one clinical table of a release from its Parquet export.

    Parameters
    ----------
    table : str
        Its short name, such as ``nlst_canc``.
    idc_version : int, "current", "YYYY-MM-DD" or Release
        The release.
    tables : str or path, optional
        Where the index tables are; see `open_release`.
    decode : bool
        Put what codes mean in their place, as `clinical_index` says. A code that
        it does not know is kept, and reported in ``unknown``.
    mirror, endpoint_url
        Where the export lies; see `open_export`.

    Raises
    ------
    UnknownRelease
        The release is older than the clinical tables, which begin with 11.
    UnknownValue
        There is no such table.
    IntegrityError, StorageError
        Its files are damaged, or cannot be read.
    """
    release = _release(idc_version, tables)
    export = _export(release.idc_version, table, mirror, endpoint_url)
    about = _found(release, table)
    return _decoded(about, release.idc_version, export.query(), decode=decode)


def clinical_tables(
    collection_id: str | None = None,
    idc_version: int | str | Release = "current",
    *,
    tables: str | os.PathLike[str] | None = None,
) -> list[ClinicalTable]:
    """Give the clinical tables that `clinical_index` describes.

    Parameters
    ----------
    collection_id : str, optional
        Those of one collection.
    idc_version : int, "current", "YYYY-MM-DD" or Release
        The release.
    tables : str or path, optional
        Where the index tables are; see `open_release`.

    Raises
    ------
    TableNotFound
        There is no `clinical_index`, and it cannot be fetched.
    UnknownValue
        It knows no such collection.
    """
    return listed(_release(idc_version, tables), collection_id)


def _release(
    idc_version: int | str | Release, tables: str | os.PathLike[str] | None
) -> Release:
    if isinstance(idc_version, Release):
        return idc_version
    return open_release(idc_version, tables)


def of_patients(
    rows: Rows,
    selection: Selection,
    table: str,
    *,
    decode: bool = False,
    mirror: str | os.PathLike[str] | Mirror | None = None,
) -> Clinical:
    """Give the rows of the patients of some series; see `Cohort.clinical`."""
    export = _export(rows.idc_version, table, mirror)
    about = _found(rows.of_tables, table)
    named = rows.rows(["collection_id", "PatientID"], selection, distinct=True)
    homes: dict[str, list[str]] = {}
    for collection, patient in named:
        if collection in about.collections:
            homes.setdefault(str(patient), []).append(collection)
    if not homes:
        msg = (
            f"the clinical table {about.name!r} is of {', '.join(about.collections)}, "
            "and no patient of the cohort is of such a collection"
        )
        raise RequestError(msg, table=about.name)
    found, matched = _joined(export, homes)
    patients = sum(map(len, homes.values()))
    clinical = _decoded(about, rows.idc_version, found, decode=decode)
    return Clinical(
        about, rows.idc_version, clinical.table, clinical.unknown, patients, matched
    )


def _export(
    idc_version: int,
    table: str,
    mirror: str | os.PathLike[str] | Mirror | None,
    endpoint_url: str | None = None,
) -> Export:
    name = str(table).rsplit(".", 1)[-1]
    return open_export(
        idc_version, name, mirror=mirror, endpoint_url=endpoint_url, clinical=True
    )


def _found(release: Release, table: str) -> ClinicalTable:
    tables = {known.name: known for known in listed(release)}
    name = str(table).rsplit(".", 1)[-1]
    if name not in tables:
        near = nearest(name, tables)
        more = near or f"; {INDEX} names {len(tables)}, see clinical_tables()"
        msg = f"no clinical table {name!r}{more}"
        raise UnknownValue(msg, table=name)
    return tables[name]


def _joined(export: Export, homes: Mapping[str, Sequence[str]]) -> tuple[pa.Table, int]:
    """Give the rows of some patients, with their collection, and count the patients."""
    import pyarrow as pa

    if PATIENT not in export.schema.names:
        msg = (
            f"{export.files[0].url} has no column {PATIENT!r}, which names the "
            "patients of a clinical table"
        )
        raise IntegrityError(msg, url=export.files[0].url)
    table = export.query()
    patients = table.column(PATIENT).cast(pa.string()).to_pylist()
    kept, collections = [], []
    for at, patient in enumerate(patients):
        for collection in homes.get(patient, ()):
            kept.append(at)
            collections.append(collection)
    table = table.take(pa.array(kept, pa.int64()))
    own = {
        "collection_id": pa.array(collections, pa.string()),
        "PatientID": table.column(PATIENT).cast(pa.string()),
    }
    own |= {n: table.column(n) for n in table.column_names if n not in own}
    matched = len(set(zip(collections, own["PatientID"].to_pylist(), strict=True)))
    return pa.table(own), matched


def _decoded(
    about: ClinicalTable, idc_version: int, table: pa.Table, *, decode: bool
) -> Clinical:
    if not decode:
        return Clinical(about, idc_version, table)
    import pyarrow as pa

    unknown: dict[str, dict[str, int]] = {}
    for column in about.columns:
        if not column.coded or column.name not in table.column_names:
            continue
        values = table.column(column.name).to_pylist()
        meanings = _meanings(column.codes)
        texts, odd = [], Counter[str]()
        for value in values:
            text = None if value is None else _text(value)
            known = text in meanings
            meaning = meanings.get(text) if text is not None else None
            texts.append(text if meaning is None else meaning)
            if text is not None and not known:
                odd[text] += 1
        place = table.column_names.index(column.name)
        table = table.set_column(place, column.name, pa.array(texts, pa.string()))
        if odd:
            unknown[column.name] = dict(odd.most_common())
    return Clinical(about, idc_version, table, unknown)


def _meanings(values: Iterable[tuple[str, str | None]]) -> dict[str, str | None]:
    """Give what each code means; one with two meanings is as good as unknown."""
    found: dict[str, set[str]] = {}
    for code, meaning in values:
        # A code of a numeric column may be written 1.0 in one place and 1 in another.
        whole = code.removesuffix(".0")
        number = whole.removeprefix("-").isdigit()
        for name in {code, whole} if number else {code}:
            found.setdefault(name, set()).update([meaning] if meaning else [])
    return {
        code: next(iter(said), None) for code, said in found.items() if len(said) <= 1
    }


def _text(value: object) -> str:
    """Give a value as the dictionary writes codes: 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, Decimal):
        # NUMERIC of BigQuery has nine digits after the point, always.
        text = f"{value:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return str(value)
