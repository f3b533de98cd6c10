"""Series of a release by name, in an order: what a manifest resolves to.

Only the names are held, 16 bytes each. Every column of the release is joined to them
when it is asked for, so that a list of a million series is as small as its names, and
can be searched by whatever the release knows.
"""

from __future__ import annotations

import functools
import hashlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import (
    integers,
    numbers,
    numpy_of,
    one,
    pack_uuids,
    packed,
    taken,
    unpack_uuids,
    uuid_halves,
)
from intake_idc.errors import IntegrityError
from intake_idc.manifest import ONLY, Manifest
from intake_idc.release import history
from intake_idc.release.database import NUMBER
from intake_idc.release.rows import MANIFEST_COLUMNS, FixedRows
from intake_idc.selection import Selection, quote

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import pyarrow as pa

    from intake_idc.release import Release
    from intake_idc.release.database import Database

__all__ = [
    "ListedRows",
    "Members",
    "contradicted",
    "find",
    "members",
    "named",
    "packed_uuids",
    "row_numbers",
]


TOGETHER = 250_000
"""Names that are looked up at once: DuckDB holds them in memory, several times."""


class ListedRows(FixedRows):
    """Some series of a release, each once, in an order of their own.

    Parameters
    ----------
    release : Release
        The release that they are of.
    uuids : pyarrow.FixedSizeBinaryArray
        ``crdc_series_uuid`` of each, 16 bytes, in order.
    origin : str
        Where the list came from, in words: a file, a list.
    others : pyarrow.Table, optional
        Rows of the uuids that this release does not hold, taken from other releases:
        the columns of a manifest.
    only : pyarrow.ListArray, optional
        For each, the ``crdc_instance_uuid`` of the objects that are meant, 16 bytes
        each, sorted; null is the whole series.
    """

    def __init__(
        self,
        release: Release,
        uuids: pa.Array,
        origin: str,
        others: pa.Table | None = None,
        only: pa.Array | None = None,
    ) -> None:
        self.release = release
        self.uuids = uuids
        self.origin = origin
        self.others = others
        self.only = only
        self.idc_version = release.idc_version
        self.spec = release.spec
        self.digest = release.digest
        self.lock = None
        self._lock = threading.Lock()
        self._table: pa.Table | None = None

    def __len__(self) -> int:
        return len(self.uuids)

    @functools.cached_property
    def manifest_rows(self) -> Manifest:  # type: ignore[override]
        """The series as a manifest."""
        return self.manifest(Selection(), MANIFEST_COLUMNS)

    @property
    def source(self) -> str:
        """Where the list came from."""
        return self.origin

    @functools.cached_property
    def columns(self) -> dict[str, str]:
        """Columns of the release, and their DuckDB types."""
        known = dict(self.release.columns)
        if self.only is not None:
            known[ONLY] = "BLOB[]"
        return known

    @property
    def names(self) -> Collection[str]:
        """Names of the columns."""
        return self.columns.keys()

    @property
    def _database(self) -> Database:
        return self.release._database  # noqa: SLF001

    def _sql(
        self, columns: Collection[str] | None, positions: Sequence[int] | None = None
    ) -> str:
        del positions
        kept = self._kept(columns)
        return self._join(columns) if kept is None else "SELECT * FROM kept_rows"

    def _quick(
        self, columns: Sequence[str], selection: Selection, *, strict: bool
    ) -> pa.Table | None:
        """Give columns that are kept as they are, where all series are meant."""
        del strict
        kept = None if selection else self._kept(columns)
        return None if kept is None else kept.select(list(columns))

    def _kept(self, columns: Collection[str] | None) -> pa.Table | None:
        """Give at least these columns of a manifest; each is read once.

        None where they are others; for a long list, which is to be as small as its
        names; and where rows are not found by their numbers.
        """
        known = {name for name in MANIFEST_COLUMNS if name in self.release.columns}
        if columns is None or not {*columns} <= known | {"position"}:
            return None
        if self.only is not None or self._numbers is None:
            return None
        with self._lock:
            table = self._table
            names = set() if table is None else {*table.schema.names}
            missing = [name for name in dict.fromkeys(columns) if name not in names]
            if table is None or missing:
                self._table = table = self._with(table, missing)
            return table

    def _with(self, table: pa.Table | None, names: Sequence[str]) -> pa.Table:
        """Read columns, and put them beside others."""
        # Put in order here: a sort of DuckDB's takes 10 MB for a few rows.
        found = self._database.arrow(self._join(names), (), self._named)
        places = numpy_of(one(found["position"]))
        if not (places[1:] > places[:-1]).all():
            found = taken(found, places.argsort(kind="stable"))
        if table is None:
            return found
        for name in names:
            table = table.append_column(name, found[name])
        return table

    @functools.cached_property
    def _numbers(self) -> pa.Array | None:
        """The row of each series in the table of the release; see `row_numbers`."""
        found = row_numbers(self.release, self.uuids)
        return None if found is None else numbers(found)

    def _join(self, columns: Collection[str] | None) -> str:
        """Give SQL that joins the names to the release."""
        known = self.release.columns
        wanted = known if columns is None else columns
        names = dict.fromkeys(["crdc_series_uuid", *(c for c in wanted if c in known)])
        # The uuid is at hand, and larger than all other columns of the table.
        of = {"crdc_series_uuid": "listed"}
        listed = ", ".join(f"{of.get(name, 'held')}.{quote(name)}" for name in names)
        own = "listed.position" + (f", listed.{ONLY}" if self.only is not None else "")
        held = self.release._sql(list(names))  # noqa: SLF001
        same = "listed.crdc_series_uuid = held.crdc_series_uuid"
        if self._numbers is not None:
            held = self._database.numbered_sql(self.idc_version) or held
            same = f"listed.number = held.{NUMBER}"
        sql = f"SELECT {listed}, {own} FROM listed JOIN ({held}) AS held ON {same}"
        if self.others is None:
            return sql
        also = ", ".join(
            f"others.{quote(name)}"
            for name in names
            if name in self.others.schema.names
        )
        return (
            f"{sql} UNION ALL BY NAME SELECT {also}, {own} FROM others "
            "JOIN listed ON listed.crdc_series_uuid = others.crdc_series_uuid"
        )

    @property
    def _registered(self) -> Mapping[str, pa.Table]:
        if self._table is None:
            return self._named
        return {**self._named, "kept_rows": self._table}

    @functools.cached_property
    def _named(self) -> Mapping[str, pa.Table]:
        """The tables that `_join` names."""
        import pyarrow as pa

        columns = {
            "crdc_series_uuid": unpack_uuids(self.uuids),
            "position": integers(range(len(self.uuids))),
        }
        if self._numbers is not None:
            columns["number"] = self._numbers
        if self.only is not None:
            columns[ONLY] = self.only
        tables = {"listed": pa.table(columns)}
        if self.others is not None:
            tables["others"] = self.others
        return tables

    def manifest(
        self,
        selection: Selection,
        columns: Sequence[str] = MANIFEST_COLUMNS,
        *,
        strict: bool = True,
    ) -> Manifest:
        """Give the series as a manifest, in the buckets where they lie today."""
        manifest = super().manifest(selection, columns, strict=strict)
        table = history.today(self.release, manifest.table)
        origin = f"{self.origin}: {selection}" if selection else self.origin
        return replace(manifest, table=table, origin=origin)

    @functools.cached_property
    def _identity(self) -> tuple[object, ...]:
        sha = hashlib.sha256(b"".join(self.uuids.to_pylist()))
        if self.only is not None:
            for meant in self.only.to_pylist():
                joined = b"-" if meant is None else b"".join(meant)
                sha.update(len(joined).to_bytes(8, "little") + joined)
        return "intake_idc.ListedRows", self.release, sha.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ListedRows):
            return super().__eq__(other)
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __dask_tokenize__(self) -> tuple[object, ...]:  # type: ignore[override]
        return self._identity

    def __reduce__(self) -> tuple[Any, ...]:
        given = self.release, self.uuids, self.origin, self.others, self.only
        return ListedRows, given

    def __repr__(self) -> str:
        return (
            f"<{len(self):,} series of IDC release {self.idc_version}: {self.origin}>"
        )


MEMBERS = "members"
"""What the uuids of a release are remembered as."""
NUMBERS = "numbers"
"""What the rows of the series that were asked for are remembered as."""
FEW = 20_000
"""Names up to which the tables are asked, and not read for all of a release's names."""


class Members:
    """The uuids of a release, in the order of its rows, to be looked up in bulk."""

    def __init__(self, uuids: pa.Array) -> None:
        import numpy as np

        self.uuids = uuids
        high, self._low = uuid_halves(uuids)
        self._order = np.argsort(high)
        self._high = high[self._order]

    def __len__(self) -> int:
        return len(self.uuids)

    def find(self, uuids: pa.Array) -> Any:
        """Give the place of each uuid among the rows; -1 where there is none.

        Returns
        -------
        numpy.ndarray
            int64, as long as ``uuids``.
        """
        import numpy as np

        places = np.full(len(uuids), -1, np.int64)
        if not len(uuids) or not len(self):
            return places
        high, low = uuid_halves(uuids)
        # In order, so that neighbours are looked for among neighbours.
        asked = np.argsort(high)
        sought, rest = high[asked], low[asked]
        at = np.searchsorted(self._high, sought)
        left = np.arange(len(asked))
        while len(left):
            # Two uuids rarely share their first half.
            inside = at[left] < len(self._high)
            left = left[inside]
            same = self._high[at[left]] == sought[left]
            left = left[same]
            rows = self._order[at[left]]
            hit = self._low[rows] == rest[left]
            places[asked[left[hit]]] = rows[hit]
            left = left[~hit]
            at[left] += 1
        return places


def members(release: Release) -> Members:
    """Give the uuids of a release; they are kept as long as its tables are open."""
    db = release._database  # noqa: SLF001

    def read() -> Members:
        import pyarrow as pa

        sql = release._sql(["crdc_series_uuid"])  # noqa: SLF001
        found = db.arrow(f"SELECT crdc_series_uuid FROM ({sql})").column(0)
        chunks = [packed_uuids(chunk, release.source) for chunk in found.chunks]
        return Members(
            pa.concat_arrays(chunks) if chunks else pa.nulls(0, pa.binary(16))
        )

    return db.remembered((MEMBERS, release.idc_version), read)


def find(release: Release, uuids: pa.Array) -> Any:
    """Say which uuids a release holds, and which of them are the same.

    Returns
    -------
    numpy.ndarray
        int64, as long as ``uuids``: one number for each series, -1 where the release
        does not hold it. Numbers of one call alone can be compared.
    """
    import numpy as np
    import pyarrow as pa

    db = release._database  # noqa: SLF001
    if len(uuids) > FEW or db.knows((MEMBERS, release.idc_version)):
        return members(release).find(uuids)
    numbered = row_numbers(release, uuids)
    if numbered is not None:
        return numbered
    places = np.full(len(uuids), -1, np.int64)
    if not len(uuids):
        return places
    first: dict[bytes, int] = {}
    own = [first.setdefault(uuid, len(first)) for uuid in uuids.to_pylist()]
    asked = pa.table(
        {"position": integers(range(len(uuids))), "name": unpack_uuids(uuids)}
    )
    sql = release._sql(["crdc_series_uuid"])  # noqa: SLF001
    held = db.rows(
        "SELECT asked.position FROM asked WHERE asked.name IN "
        f"(SELECT crdc_series_uuid FROM ({sql}))",
        tables={"asked": asked},
    )
    there = np.array([row[0] for row in held], np.int64)
    places[there] = np.array(own, np.int64)[there]
    return places


def row_numbers(release: Release, uuids: pa.Array) -> Any:
    """Give the number of each series' row in the table of a release; -1: not there.

    To look through all names takes longer than to read the rows then, so it is done
    once for each name.

    Returns
    -------
    numpy.ndarray or None
        int64, as long as ``uuids``; None where these are too many, or the release is
        not the rows of one table.
    """
    import numpy as np
    import pyarrow as pa

    db = release._database  # noqa: SLF001
    sql = None if len(uuids) > FEW else db.numbered_sql(release.idc_version)
    if sql is None:
        return None
    known: dict[bytes, int] = db.remembered((NUMBERS, release.idc_version), dict)
    names = uuids.to_pylist()
    found = {name: known.get(name) for name in names}
    new = [i for i, name in enumerate(names) if found[name] is None]
    if new:
        asked = pa.table(
            {
                "position": integers(new),
                "name": unpack_uuids(packed([names[i] for i in new])),
            }
        )
        held = db.rows(
            f"SELECT asked.position, held.{NUMBER} FROM asked "
            f"JOIN ({sql}) AS held ON asked.name = held.crdc_series_uuid",
            tables={"asked": asked},
        )
        fresh = dict.fromkeys((names[i] for i in new), -1)
        fresh |= {names[position]: int(number) for position, number in held}
        found |= fresh
        if len(known) > FEW:
            known.clear()
        known.update(fresh)
    return np.array([found[name] for name in names], np.int64)


def packed_uuids(texts: pa.Array, source: str) -> pa.Array:
    """Pack the uuids of a table.

    Raises
    ------
    IntegrityError
        One of them is no uuid.
    """
    found, valid = pack_uuids(texts)
    if not valid.all():
        wrong = texts[int(valid.argmin())].as_py()
        msg = f"{source} holds the crdc_series_uuid {wrong!r}, which is no uuid"
        raise IntegrityError(msg, value=wrong)
    return found


def named(
    release: Release,
    column: str,
    names: pa.Array,
    collections: pa.Array | None = None,
) -> tuple[Any, pa.Array]:
    """Find the series that a release has under some names.

    Parameters
    ----------
    release : Release
        The release.
    column : str
        Column of the index: ``SeriesInstanceUID``, ``StudyInstanceUID``,
        ``PatientID``, ``collection_id``.
    names : pyarrow.StringArray
        The names.
    collections : pyarrow.StringArray, optional
        The collection that each name is of, where it is not null.

    Returns
    -------
    numpy.ndarray, pyarrow.FixedSizeBinaryArray
        For each series found, the place of its name, and its uuid: by place, and of
        one name in the published order.
    """
    import numpy as np
    import pyarrow as pa

    places, uuids = [np.zeros(0, np.int64)], [pa.nulls(0, pa.binary(16))]
    for start in range(0, len(names), TOGETHER):
        some = names.slice(start, TOGETHER)
        within = None if collections is None else collections.slice(start, TOGETHER)
        found = _named(release, column, some, within)
        if found.num_rows:
            at, texts = found.columns
            places += [numpy_of(chunk) + start for chunk in at.chunks]
            uuids += [packed_uuids(chunk, release.source) for chunk in texts.chunks]
    return np.concatenate(places), pa.concat_arrays(uuids)


def _named(
    release: Release, column: str, names: pa.Array, collections: pa.Array | None
) -> pa.Table:
    import pyarrow as pa

    columns = {"position": integers(range(len(names))), "name": names}
    also, within = "", ""
    order = [c for c in release._order if c in release.columns]  # noqa: SLF001
    if column == "SeriesInstanceUID":
        # A name of one series needs no order, whose columns are large.
        order = ["crdc_series_uuid"]
    used = dict.fromkeys(["crdc_series_uuid", column, *order])
    if collections is not None:
        columns["collection"] = collections
        used["collection_id"] = None
        also = (
            " AND (asked.collection IS NULL OR asked.collection = held.collection_id)"
        )
    within = ", ".join(f"held.{quote(c)}" for c in order)
    return release._database.arrow(  # noqa: SLF001
        "SELECT asked.position, held.crdc_series_uuid FROM asked "
        f"JOIN ({release._sql(list(used))}) AS held "  # noqa: SLF001
        f"ON asked.name = held.{quote(column)}{also} "
        f"ORDER BY asked.position{', ' if within else ''}{within}",
        tables={"asked": pa.table(columns)},
    )


def contradicted(
    release: Release, uuids: pa.Array, uids: pa.Array
) -> list[tuple[int, str]]:
    """Find pairs of ``crdc_series_uuid`` and SeriesInstanceUID of two series.

    Returns
    -------
    list of (int, str)
        The place of each such pair, and the SeriesInstanceUID that the uuid has in
        whichever release holds it.
    """
    import pyarrow as pa

    db = history.widest(release)
    sql = (
        "SELECT DISTINCT asked.position, known.SeriesInstanceUID FROM asked "
        f"JOIN ({db.known_sql()}) AS known ON asked.name = known.crdc_series_uuid "
        "WHERE asked.uid <> known.SeriesInstanceUID ORDER BY 1"
    )
    found: list[tuple[int, str]] = []
    for start in range(0, len(uuids), TOGETHER):
        some = uuids.slice(start, TOGETHER)
        columns = {
            "position": integers(range(start, start + len(some))),
            "name": unpack_uuids(some),
            "uid": uids.slice(start, TOGETHER),
        }
        rows = db.rows(sql, tables={"asked": pa.table(columns)})
        found += [(int(position), str(uid)) for position, uid in rows]
    return found
