"""Where the answer to a body of API v2 comes from.

The index tables have one row for each series. An attribute is taken from them where
they say the same as the table ``dicom_pivot`` that the service asked; for any other the
Parquet export of that table is read, where it is at hand. Clinical attributes are those
of the export of release 4, for every release, as the service had it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from intake_idc.api import v2_sql
from intake_idc.api.v2_body import Attribute, Body, attributes, split
from intake_idc.api.v2_sql import CASE, Relation, counted, kind_of
from intake_idc.errors import StorageError, TableNotFound, UnknownColumn
from intake_idc.export import Export, open_export
from intake_idc.manifest import GCS_BUCKETS
from intake_idc.release.database import PRIOR_OWN, memory_database
from intake_idc.release.facts import published
from intake_idc.selection import literal, quote
from intake_idc.storage import resolve_mirror

if TYPE_CHECKING:
    import os

    import pyarrow as pa

    from intake_idc.release import Release
    from intake_idc.storage import Mirror

__all__ = ["PIVOT", "Asked", "Place", "Source", "place_of", "unserved"]

PIVOT = "dicom_pivot"
CLINICAL_RELEASE = 4
"""The release whose clinical tables the service joined with every release."""
ROUNDED = 22
"""Up to this package the index has sizes rounded to 0.01 MB."""
ONE_NAME = 20
"""From this release on the Google buckets are named as they are today."""
KEPT = {*PRIOR_OWN, "SeriesInstanceUID", "crdc_series_uuid"}
"""What the index says of every series of a release that is rebuilt."""

Place = Mapping[str, Any]
"""Where an export lies: arguments of `open_export`."""


def place_of(
    export: Export | Mirror | str | os.PathLike[str] | Mapping[str, Any] | None,
) -> Place | None:
    """Give where an export lies as plain data, from anything that names it."""
    if export is None:
        return None
    if isinstance(export, Mapping):
        # Whatever is written into a token was looked at: it may hold a secret.
        mirror = resolve_mirror(**{"mirror": "aws", **export})
    elif isinstance(export, Export):
        mirror = export.mirror
    else:
        mirror = resolve_mirror(export)
    arguments = mirror.to_arguments()
    arguments.pop("engine", None)
    return arguments


@dataclass(frozen=True)
class Asked:
    """What is wanted of a source: attributes, conditions, counts."""

    filters: tuple[tuple[str, tuple[Any, ...]], ...]
    fields: tuple[str, ...]
    instance_count: bool = False
    group_size: bool = False

    @classmethod
    def of(cls, body: Body) -> Asked:
        """Give what a body wants."""
        counts = counted(body)
        return cls(
            body.filters, body.fields, "instance_count" in counts, body.group_size
        )

    @property
    def attributes(self) -> list[Attribute]:
        """The attributes that the fields and the filters name, each once."""
        bases = [split(name)[0].name for name, _ in self.filters]
        return [attributes()[name] for name in dict.fromkeys([*self.fields, *bases])]

    @property
    def clinical(self) -> dict[str, list[Attribute]]:
        """The attributes of clinical tables, by table."""
        found: dict[str, list[Attribute]] = {}
        for attribute in self.attributes:
            if attribute.table != PIVOT:
                found.setdefault(attribute.table, []).append(attribute)
        return found

    @property
    def slides(self) -> bool:
        """Whether the filters leave nothing but slides."""
        return any(
            name == "Modality" and all(str(v).lower() == "sm" for v in values)
            for name, values in self.filters
        )


def unserved(asked: Asked, release: Release) -> dict[str, str]:
    """Give what the index tables of a release do not say as `dicom_pivot` does.

    Returns
    -------
    dict
        Attributes, or ``group_size``, and for each why.
    """
    found: dict[str, str] = {}
    for attribute in asked.attributes:
        if attribute.table == PIVOT:
            reason = _reason(attribute, asked, release)
            if reason:
                found[attribute.name] = reason
    if asked.group_size and release.published and release.idc_version <= ROUNDED:
        found["group_size"] = f"the sizes in the index of {release.source} are rounded"
    if not found and not release.published:
        found = _forgotten(asked, release)
    return found


def _forgotten(asked: Asked, release: Release) -> dict[str, str]:
    """Give attributes of withdrawn series, where the answer may hang on them.

    Of a superseded series the tables have the attributes that its successor has. A
    series without one has no row to lend it any: null would be made up.
    """
    values: dict[str, v2_sql.Expression] = {}
    wanted = []
    for attribute in asked.attributes:
        _, column = attribute.index or ("", "")
        if column in KEPT:
            kind = kind_of(release.columns[column])
            values[attribute.name] = f"idc_index.{quote(column)}", kind
        elif attribute.table == PIVOT:
            wanted.append((attribute.name, column))
    if not wanted:
        return {}
    certain = [f for f in asked.filters if split(f[0])[0].name in values]
    counts = ", ".join(
        f"count(*) FILTER ({quote(column)} IS NULL) AS {quote(name)}"
        for name, column in wanted
    )
    sql = (
        f"SELECT {counts} FROM idc_index WHERE row_source <> 'idc_index' "
        f"AND series_init_idc_version IS NULL AND {v2_sql.conditions(certain, values)}"
    )
    columns = {"row_source", "series_init_idc_version"}
    columns |= {(attribute.index or ("", ""))[1] for attribute in asked.attributes}
    (counted_,) = release.ask(sql, {"idc_index": sorted(columns - {""})}).to_pylist()
    return {
        name: f"the index does not know it of {count:,} withdrawn series"
        for name, count in counted_.items()
        if count
    }


def _reason(attribute: Attribute, asked: Asked, release: Release) -> str:
    if attribute.index is None:
        return attribute.why
    table, column = attribute.index
    reasons = {
        f"the tables of {release.source} say it of their own release alone": (
            attribute.when and not release.published
        ),
        f"{table} has slides alone; where Modality is SM it will do": (
            attribute.when == "slides" and not asked.slides
        ),
        "the Google buckets had other names then": (
            attribute.name == "gcs_bucket" and release.idc_version < ONE_NAME
        ),
        f"the index of {release.source} has no column {column}": (
            table == "idc_index" and column not in release.columns
        ),
        "the index has null for an empty text as well": (
            attribute.name == "SeriesDescription" and _may_be_empty(asked)
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _may_be_empty(asked: Asked) -> bool:
    return any(
        name == "SeriesDescription"
        and any(v == "None" or not str(v).strip("%") for v in values)
        for name, values in asked.filters
    )


@dataclass(frozen=True)
class Source:
    """The rows that a body is asked of, and how they are asked."""

    relation: Relation
    """The rows, in SQL."""
    run: Callable[[str], pa.Table]
    """What answers SQL over them."""

    @classmethod
    def find(cls, asked: Asked, release: Release, export: Place | None) -> Source:
        """Find the rows that give the answer: those of the index, or of the export.

        Raises
        ------
        TableNotFound
            The index does not say it, and no export is at hand; the message says
            what is lacking, and how to get it.
        """
        needed = unserved(asked, release)
        if needed and export is None:
            raise _lacking(needed, release)
        clinical = _clinical(asked, release, export)
        if not needed:
            try:
                source = _of_index(asked, release, clinical)
                needed = _uncounted(asked, release, source)
            except (TableNotFound, StorageError):
                if export is None:
                    raise
                needed = {"": "an index table is not at hand"}
            if not needed:
                return source
        if export is None:
            raise _lacking(needed, release)
        return _of_export(asked, release, export, clinical)


def _lacking(needed: Mapping[str, str], release: Release) -> TableNotFound:
    listed = "; ".join(f"{name} ({why})" for name, why in needed.items())
    version = release.idc_version
    msg = (
        f"the table {PIVOT} of release {version} is needed for {listed}; it is not "
        "among the index tables, but in the Parquet export: name the place of one with "
        "export=, a folder or URL that holds "
        f"bigquery_export/idc_v{version}/{PIVOT}, or 'aws' for the public bucket"
    )
    if not release.published and version in published():
        msg += (
            f"; or name with tables= the index tables that release {version} itself "
            "was published with"
        )
    return TableNotFound(msg, table=PIVOT, attributes=list(needed))


def _uncounted(asked: Asked, release: Release, source: Source) -> dict[str, str]:
    """Say that the objects of superseded series are not known, where it matters."""
    if release.published or not asked.instance_count:
        return {}
    relation = source.relation
    where = v2_sql.conditions(asked.filters, relation.values)
    sql = (
        f"SELECT count(*) AS unknown FROM {relation.source} "
        f"WHERE ({where}) AND {relation.objects} IS NULL"
    )
    unknown = source.run(sql)["unknown"][0].as_py()
    if not unknown:
        return {}
    why = f"the index does not know it of {unknown:,} superseded series"
    return {"instance_count": why}


# The index tables.


def _of_index(
    asked: Asked, release: Release, clinical: Mapping[str, pa.Table]
) -> Source:
    named: dict[str, dict[str, None]] = {"idc_index": {}}
    values: dict[str, v2_sql.Expression] = {}
    wanted = ["collection_id", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"]
    wanted += [a.name for a in asked.attributes if a.table == PIVOT]
    for name in dict.fromkeys(wanted):
        table, column = attributes()[name].index or ("", "")
        named.setdefault(table, {})[column] = None
        columns = release.columns if table == "idc_index" else release.columns_of(table)
        if column not in columns:
            msg = f"{table} of {release.source} has no column {column!r}"
            raise TableNotFound(msg, table=table, column=column)
        values[name] = f"{table}.{quote(column)}", kind_of(columns[column])
    if "gcs_bucket" in values:
        whens = " ".join(
            f"WHEN {literal(aws)} THEN {literal(gcs)}"
            for aws, gcs in GCS_BUCKETS.items()
        )
        bucket = values["gcs_bucket"][0]
        values["gcs_bucket"] = f"CASE {bucket} {whens} ELSE {bucket} END", "text"
    named["idc_index"].update(dict.fromkeys(["instanceCount", "series_size_MB"]))
    source = "idc_index"
    for table, columns_ in named.items():
        if table != "idc_index":
            key = (
                "collection_id" if table == "collections_index" else "SeriesInstanceUID"
            )
            columns_[key] = None
            source += (
                f"\n  LEFT JOIN {table} "
                f"ON idc_index.{quote(key)} = {table}.{quote(key)}"
            )
    source += _joined("idc_index", clinical)
    values.update(_clinical_values(asked, clinical))
    relation = Relation(
        source=source,
        values=values,
        unit="SeriesInstanceUID",
        size="round(idc_index.series_size_MB * 1000000)::BIGINT",
        objects="idc_index.instanceCount",
        repeated=bool(clinical),
    )
    tables = {table: list(columns) for table, columns in named.items()}
    return Source(
        relation, functools.partial(release.ask, tables=tables, more=clinical)
    )


# The Parquet export.


def _of_export(
    asked: Asked, release: Release, place: Place, clinical: Mapping[str, pa.Table]
) -> Source:
    table = _pivot(release, place)
    wanted = [a.name for a in asked.attributes if a.table == PIVOT]
    if asked.clinical:
        wanted.append("PatientID")
    wanted += ["collection_id", "PatientID", "StudyInstanceUID", "SeriesInstanceUID"]
    wanted += ["SOPInstanceUID"] if asked.instance_count or asked.group_size else []
    wanted += ["instance_size"] if asked.group_size else []
    wanted = list(dict.fromkeys(wanted))
    spelt = {name.lower(): name for name in table.schema.names}
    for name in wanted:
        if name.lower() not in spelt:
            msg = f"{table.name} of {table.dataset} has no column {name!r}"
            raise UnknownColumn(msg, column=name, table=table.name)
    kinds = {
        name: kind_of(str(table.schema.field(spelt[name.lower()]).type))
        for name in wanted
    }
    own = [f for f in asked.filters if split(f[0])[0].table == PIVOT]
    bare = {name: (quote(name), kind) for name, kind in kinds.items()}
    where = v2_sql.conditions(own, bare) if own else None
    # Fewer rows are held by asking the files with what can be asked of them alone.
    rows = table.query(where, wanted)
    values = {name: (f"{PIVOT}.{quote(name)}", kind) for name, kind in kinds.items()}
    values.update(_clinical_values(asked, clinical))
    relation = Relation(
        source=PIVOT + _joined(PIVOT, clinical),
        values=values,
        unit="SOPInstanceUID",
        size=f"{PIVOT}.instance_size",
        repeated=True,
    )
    tables = {PIVOT: rows, **clinical}

    def run(sql: str) -> pa.Table:
        return memory_database().arrow(sql, (), tables)

    return Source(relation, run)


def _pivot(release: Release, place: Place) -> Export:
    """Open the table, which early releases name by their number."""
    number = release.idc_version
    first = open_export(number, PIVOT, **place)
    names = (PIVOT, f"{PIVOT}_v{number}", f"idc_pivot_v{number}")
    lacking: TableNotFound | None = None
    for name in names:
        found = first if name == PIVOT else open_export(number, name, **place)
        try:
            _ = found.files
        except TableNotFound as error:
            lacking = lacking or error
        else:
            return found
    raise lacking or TableNotFound(PIVOT)


# Clinical tables.


def _clinical(
    asked: Asked, release: Release, place: Place | None
) -> dict[str, pa.Table]:
    found = {}
    for table, wanted in asked.clinical.items():
        if place is None:
            names = ", ".join(attribute.name for attribute in wanted)
            msg = (
                f"the table {table} is needed for {names}; it is in the Parquet export "
                "of release 4: name the place of one with export=, a folder or URL "
                f"that holds bigquery_export/idc_v{CLINICAL_RELEASE}/{table}, or 'aws' "
                "for the public bucket"
            )
            raise TableNotFound(msg, table=table, attributes=[a.name for a in wanted])
        columns = [CASE, *(attribute.name for attribute in wanted)]
        try:
            rows = open_export(CLINICAL_RELEASE, table, **place).table(columns)
        except TableNotFound as error:
            # Later releases hold the same table once more.
            try:
                rows = open_export(release.idc_version, table, **place).table(columns)
            except TableNotFound:
                raise error from None
        found[table] = rows.rename_columns(columns)
    return found


def _joined(base: str, clinical: Iterable[str]) -> str:
    return "".join(
        f'\n  LEFT JOIN {table} ON {base}."PatientID" = {table}.{CASE}'
        for table in clinical
    )


def _clinical_values(
    asked: Asked, clinical: Mapping[str, pa.Table]
) -> dict[str, v2_sql.Expression]:
    return {
        attribute.name: (
            f"{table}.{quote(attribute.name)}",
            kind_of(str(clinical[table].schema.field(attribute.name).type)),
        )
        for table, wanted in asked.clinical.items()
        for attribute in wanted
    }
