"""How two releases differ, series by series, asked in one query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from intake_idc.errors import RequestError
from intake_idc.release.database import joint, memory_database
from intake_idc.release.facts import exceptions
from intake_idc.release.rows import FixedRows, used_columns
from intake_idc.selection import literal, quote

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import pyarrow as pa

    from intake_idc.release import Release
    from intake_idc.release.database import Database
    from intake_idc.selection import Selection

    Series: TypeAlias = Release | FixedRows

__all__ = ["Attributes", "Compared", "compare"]

COLUMNS = (
    "SeriesInstanceUID",
    "crdc_series_uuid",
    "collection_id",
    "series_size_MB",
    "row_source",
)
"""What a series is compared by, and counted."""

FIRST = ("license_short_name", "source_DOI")
"""Attributes that are told before the others."""

NO_ATTRIBUTES = {*COLUMNS, "series_aws_url"}
"""Columns that name a series or its row. The URL says what bucket and uuid say;
the size is compared by itself."""

ROUNDED = 5_000
"""Bytes by which a size may be off in tables that round it to 10 kB."""

_BYTES = "coalesce(round(series_size_MB * 1e6), 0)::BIGINT"

SUPERSEDED = "prior_versions_index"
"""``row_source`` of rows whose attributes are another row's."""


@dataclass(frozen=True)
class Attributes:
    """Whether attributes were compared, which, and why not others."""

    compared: bool
    """Whether they were; where not, nothing is known of them."""
    note: str = ""
    """Why they were not; or what the comparison cannot see."""
    columns: tuple[str, ...] = ()
    """Columns that were compared."""
    left_out: tuple[str, ...] = ()
    """Columns that only one of the releases has."""


@dataclass(frozen=True)
class Compared:
    """What the tables say of two releases."""

    table: pa.Table
    """A row for each series that differs, by collection and SeriesInstanceUID."""
    changes: pa.Table
    """Values before and after, of attributes of series with the same bytes."""
    totals: dict[str, tuple[int, int]]
    """Series and bytes of the newer release, by collection."""
    attributes: Attributes
    """What was compared."""


@dataclass(frozen=True)
class _Side:
    """One release in a query: SQL that gives its rows, and what that needs."""

    sql: str
    condition: str
    parameters: list[Any]
    tables: dict[str, pa.Table]

    def select(self, expressions: str, also: str = "true") -> str:
        return (
            f"SELECT {expressions} FROM ({self.sql}) AS idc_index "
            f"WHERE {self.condition} AND {also}"
        )


def compare(
    old: Series, old_selection: Selection, new: Series, new_selection: Selection
) -> Compared:
    """Compare what is selected from two releases.

    A value that one of them never had selects nothing there.

    Raises
    ------
    RequestError
        A selection does not fit, or a manifest holds a series as two uuids.
    """
    attributes = _attributes(old, new)
    before = _side("old_rows", old, old_selection, attributes.columns)
    after = _side("new_rows", new, new_selection, attributes.columns)
    db = _database(old, new)
    known = "false"
    if not (isinstance(old, FixedRows) or isinstance(new, FixedRows)):
        same_tables = old.same_tables(new)
        if same_tables and old_selection == new_selection:
            known = _in_both(old, new)
    hashed = _hash(attributes.columns)
    # A series is known by its number; only what differs leaves the query.
    listed = (
        "SeriesInstanceUID, crdc_series_uuid, collection_id, "
        f"{_BYTES} AS size, {hashed} AS attributes, "
        f"(row_source = '{SUPERSEDED}') AS superseded"
    )
    also = f"NOT coalesce({known}, false)"
    same = "o.crdc_series_uuid = n.crdc_series_uuid"
    changed = "false"
    if attributes.compared:
        changed = (
            "(o.superseded OR n.superseded OR o.attributes <> n.attributes "
            f"OR abs(o.size - n.size) > {ROUNDED})"
        )
    sql = f"""
        SELECT coalesce(n.SeriesInstanceUID, o.SeriesInstanceUID) AS SeriesInstanceUID,
            coalesce(n.collection_id, o.collection_id) AS collection_id,
            CASE WHEN o.crdc_series_uuid IS NULL THEN 'added'
                WHEN n.crdc_series_uuid IS NULL THEN 'removed'
                WHEN NOT {same} THEN 'revised'
                WHEN o.superseded OR n.superseded THEN 'unknown'
                ELSE 'changed' END AS kind,
            o.crdc_series_uuid AS old_crdc_series_uuid,
            n.crdc_series_uuid AS new_crdc_series_uuid,
            o.size AS old_bytes, n.size AS new_bytes
        FROM ({before.select(listed, also)}) AS o
        FULL JOIN ({after.select(listed, also)}) AS n
            ON o.SeriesInstanceUID = n.SeriesInstanceUID
        WHERE NOT coalesce({same}, false) OR {changed}
        ORDER BY collection_id, SeriesInstanceUID
    """
    counted = after.select(f"collection_id, count(*), sum({_BYTES})::BIGINT")
    tables = {**before.tables, **after.tables}
    with old._blame(old_selection), new._blame(new_selection):  # noqa: SLF001
        table = db.arrow(sql, [*before.parameters, *after.parameters], tables)
        found = db.rows(f"{counted} GROUP BY 1", after.parameters, tables)
    totals = {name: (int(count), int(size)) for name, count, size in found}
    table, unknown = _without(table, "unknown")
    if unknown:
        attributes = _remark(attributes, unknown)
    table, changes = _changes(db, table, before, after, attributes.columns)
    return Compared(table, changes, totals, attributes)


def _side(
    name: str, rows: Series, selection: Selection, attributes: Sequence[str]
) -> _Side:
    """Give one release's part of the query."""
    if isinstance(rows, FixedRows):
        import pyarrow as pa

        _check_once(rows)
        own = [column for column in COLUMNS if column in rows.columns]
        table = rows.table(own, selection, strict=False)
        for column, kind in _KINDS.items():
            if column not in table.column_names:
                empty = pa.nulls(table.num_rows, pa.type_for_alias(kind))
                table = table.append_column(column, empty)
        return _Side(f"SELECT * FROM {name}", "true", [], {name: table})
    condition, parameters = selection.compile(rows, strict=False)
    wanted = used_columns([*COLUMNS, *_REVISED, *attributes], selection)
    return _Side(rows._sql(wanted), f"({condition})", parameters, {})  # noqa: SLF001


_REVISED = ("series_revised_idc_version",)
_KINDS = {
    "collection_id": "string",
    "series_size_MB": "float64",
    "row_source": "string",
}
"""Columns that a manifest may lack, and their Arrow types."""


def _check_once(rows: FixedRows) -> None:
    found = rows._database.rows(  # noqa: SLF001
        f"SELECT SeriesInstanceUID FROM ({rows._sql(['SeriesInstanceUID'])}) "  # noqa: SLF001
        "GROUP BY 1 HAVING count(*) > 1 ORDER BY 1 LIMIT 1",
        tables=rows._registered,  # noqa: SLF001
    )
    if found:
        msg = (
            f"{rows.source} holds series {found[0][0]} as several uuids; "
            "a difference needs each series once"
        )
        raise RequestError(msg, SeriesInstanceUID=found[0][0])


def _database(old: Series, new: Series) -> Database:
    """Give a database that can run the SQL of both."""
    tables = [
        rows._tables  # noqa: SLF001
        for rows in (old, new)
        if not isinstance(rows, FixedRows)
    ]
    return joint(*dict.fromkeys(tables)) if tables else memory_database()


def _in_both(old: Release, new: Release) -> str:
    """Give a condition on rows that both releases hold for certain.

    Two releases of one set of tables share most rows, and a row that was not revised
    after the older one is in both, but for the collections with exceptions. Leaving
    them out of the join halves its time and its memory.
    """
    versions = old.idc_version, new.idc_version
    apart = {name for v in versions for name in exceptions().absent(v)}
    condition = (
        f"row_source = 'idc_index' AND series_revised_idc_version <= {min(versions)}"
    )
    if apart:
        condition += f" AND collection_id NOT IN ({', '.join(map(literal, apart))})"
    return f"({condition})"


# Attributes.


def _attributes(old: Series, new: Series) -> Attributes:
    """Say which attributes can be compared."""
    if isinstance(old, FixedRows) or isinstance(new, FixedRows):
        return Attributes(
            compared=False,
            note="the rows of a manifest do not carry the attributes of a release",
        )
    given = [rows._database.newest for rows in (old, new)]  # noqa: SLF001
    own = [rows.published for rows in (old, new)]
    if old.same_tables(new) or (given[0] == given[1] and not all(own)):
        if old.same_tables(new) and old.idc_version == new.idc_version:
            return Attributes(compared=True)
        return Attributes(
            compared=False,
            note=(
                f"both show the attributes of release {given[1]}; to compare them, "
                f"open release {old.idc_version} from its own package"
            ),
        )
    shared = [c for c in new.columns if c in old.columns and c not in NO_ATTRIBUTES]
    first = [column for column in FIRST if column in shared]
    columns = dict.fromkeys([*first, *shared])
    left_out = {*old.columns, *new.columns} - {*columns, *NO_ATTRIBUTES}
    notes = [
        f"release {rows.idc_version} is rebuilt from {rows.source}, and shows the "
        f"attributes of release {shown}"
        for rows, shown, whole in zip((old, new), given, own, strict=True)
        if not whole
    ]
    return Attributes(
        compared=True,
        note="; ".join(notes),
        columns=tuple(columns),
        left_out=tuple(sorted(left_out)),
    )


def _hash(columns: Collection[str]) -> str:
    """Give one number for all attributes of a row, whatever types they came in."""
    if not columns:
        return "0::UBIGINT"
    return f"hash({', '.join(_text(column) for column in columns)})"


def _text(column: str, of: str = "") -> str:
    return f"CAST({of}{quote(column)} AS VARCHAR)"


def _without(table: pa.Table, kind: str) -> tuple[pa.Table, int]:
    """Leave out rows of a kind, and count them."""
    import pyarrow.compute as pc

    kept = table.filter(pc.not_equal(table.column("kind"), kind))
    return kept, table.num_rows - kept.num_rows


def _remark(attributes: Attributes, unknown: int) -> Attributes:
    more = f"the attributes of {unknown:,} superseded series are not known"
    note = "; ".join(filter(None, [attributes.note, more]))
    return Attributes(
        attributes.compared, note, attributes.columns, attributes.left_out
    )


@dataclass(frozen=True)
class _Attribute:
    """One attribute in the query of what changed: SQL over ``o`` and ``n``."""

    name: str
    differs: str
    before: str
    after: str

    def select(self, number: int) -> str:
        """Give whether it differs, and both values where it does."""
        return (
            f"{self.differs} AS d{number}, "
            f"CASE WHEN {self.differs} THEN {self.before} END AS o{number}, "
            f"CASE WHEN {self.differs} THEN {self.after} END AS n{number}"
        )

    def count(self, number: int) -> str:
        """Give how often each pair of values is, by collection."""
        return (
            f"SELECT {number} AS number, {literal(self.name)} AS attribute, "
            f"collection_id, o{number} AS before, n{number} AS after, "
            "count(*) AS series, sum(size)::BIGINT AS bytes "
            f"FROM found WHERE d{number} GROUP BY ALL"
        )


def _column(name: str) -> _Attribute:
    before, after = _text(name, "o."), _text(name, "n.")
    return _Attribute(name, f"{before} IS DISTINCT FROM {after}", before, after)


_SIZE = _Attribute(
    "series_size_MB",
    f"(abs(o.size - n.size) > {ROUNDED})",
    "CAST(o.size / 1e6 AS VARCHAR)",
    "CAST(n.size / 1e6 AS VARCHAR)",
)


def _changes(
    db: Database,
    table: pa.Table,
    before: _Side,
    after: _Side,
    columns: Sequence[str],
) -> tuple[pa.Table, pa.Table]:
    """Name the attributes that changed in each series, and count their values.

    The values are read of the series that the first query found, and of no other.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    changed = table.filter(pc.equal(table.column("kind"), "changed"))
    if not changed.num_rows:
        names = pa.nulls(table.num_rows, pa.string())
        return table.append_column("changed", names), _no_changes()
    uuids = changed.select(["new_crdc_series_uuid"]).rename_columns(["uuid"])
    attributes = [*map(_column, columns), _SIZE]
    named = ", ".join(
        f"CASE WHEN {attribute.differs} THEN {literal(attribute.name)} END"
        for attribute in attributes
    )
    selected = ", ".join(a.select(number) for number, a in enumerate(attributes))
    size = f"{_BYTES} AS size"
    listed = ", ".join(map(quote, dict.fromkeys(["crdc_series_uuid", *columns])))
    also = "crdc_series_uuid IN (SELECT uuid FROM changed)"
    # The collection is the newer release's, as in the table.
    newer = f"{listed}, collection_id AS of_collection, {size}"
    found = db.arrow(
        "SELECT n.crdc_series_uuid AS uuid, n.of_collection AS collection_id, n.size, "
        f"concat_ws(', ', {named}) AS changed, {selected} "
        f"FROM ({before.select(f'{listed}, {size}', also)}) AS o "
        f"JOIN ({after.select(newer, also)}) AS n "
        "ON o.crdc_series_uuid = n.crdc_series_uuid",
        [*before.parameters, *after.parameters],
        {
            **before.tables,
            **after.tables,
            "changed": uuids,
        },
    )
    counts = " UNION ALL ".join(a.count(number) for number, a in enumerate(attributes))
    memory = memory_database()
    counted = memory.arrow(
        "SELECT attribute, collection_id, before, after, series, bytes "
        f"FROM ({counts}) "
        "ORDER BY number, series DESC, collection_id, before, after",
        tables={"found": found},
    )
    names = found.select(["uuid", "changed"])
    table = memory.arrow(
        "SELECT differing.*, names.changed FROM differing LEFT JOIN names "
        "ON kind = 'changed' AND uuid = new_crdc_series_uuid "
        "ORDER BY collection_id, SeriesInstanceUID",
        tables={"names": names, "differing": table},
    )
    return table, counted


def _no_changes() -> pa.Table:
    import pyarrow as pa

    texts = ["attribute", "collection_id", "before", "after"]
    numbers = ["series", "bytes"]
    return pa.table(
        {name: pa.array([], pa.string()) for name in texts}
        | {name: pa.array([], pa.int64()) for name in numbers}
    )
