"""The life of a series: which bytes it had in which releases, and where they lie.

A ``crdc_series_uuid`` never changes its bytes. A ``SeriesInstanceUID`` keeps its name
and gets another uuid when its bytes are revised; it may be withdrawn, and come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from intake_idc import display
from intake_idc.arrow import integers, is_text, texts
from intake_idc.errors import RequestError, TableNotFound, UnknownValue
from intake_idc.release.facts import exceptions
from intake_idc.release.rows import MANIFEST_COLUMNS
from intake_idc.release.tables import INSTALLED, SAMPLE
from intake_idc.selection import quote

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

    from intake_idc.release import Release
    from intake_idc.release.database import Database

__all__ = [
    "KEYS",
    "History",
    "Key",
    "Life",
    "elsewhere",
    "find",
    "histories",
    "locate",
    "resolve",
    "runs",
    "today",
    "widest",
    "with_others",
]

Key = Literal["crdc_series_uuid", "SeriesInstanceUID"]
KEYS: tuple[Key, ...] = ("SeriesInstanceUID", "crdc_series_uuid")
"""What a series is named by: itself, or its bytes."""


@dataclass(frozen=True)
class Life:
    """One uuid of a series, through releases that follow one another."""

    crdc_series_uuid: str
    """Name of the bytes."""
    first_idc_version: int
    """First release that held them."""
    last_idc_version: int
    """Last release that held them, which may be the newest."""
    aws_bucket: str
    """Bucket where they lie today."""
    size: int | None
    """Bytes in all objects; those of a superseded series are known to 10 kB."""

    @property
    def releases(self) -> str:
        """The releases, in words."""
        return _span(self.first_idc_version, self.last_idc_version)


@dataclass(frozen=True)
class History:
    """The life of one series, as far as one set of tables tells."""

    SeriesInstanceUID: str
    """The series."""
    collection_id: str
    """Its collection."""
    lives: tuple[Life, ...]
    """Its uuids by release. A uuid that was away for some releases is there twice."""
    newest: int
    """Newest release of the tables."""

    def at(self, idc_version: int) -> Life | None:
        """Give what a release held of this series; None where it did not."""
        for life in self.lives:
            if life.first_idc_version <= idc_version <= life.last_idc_version:
                return life
        return None

    @property
    def withdrawn(self) -> int | None:
        """First release from which the series is gone; None where it is there."""
        last = max(life.last_idc_version for life in self.lives)
        return None if last >= self.newest else last + 1

    @property
    def releases(self) -> str:
        """The releases that held the series, in words: ``releases 2 to 16 and 25``."""
        return _held(self.lives)

    def releases_of(self, uuid: str) -> str:
        """Give the releases that held these bytes, in words."""
        return _held([x for x in self.lives if x.crdc_series_uuid == uuid])

    def nearest(self, idc_version: int) -> int:
        """Give the last release up to this one that held it, else the next one."""
        before = [x for x in self.lives if x.first_idc_version <= idc_version]
        if not before:
            return self.lives[0].first_idc_version
        return min(before[-1].last_idc_version, idc_version)

    def absence(self, idc_version: int) -> str:
        """Say when the series went that a release does not hold, or when it came."""
        before = [x for x in self.lives if x.last_idc_version < idc_version]
        after = [x for x in self.lives if x.first_idc_version > idc_version]
        came = f"release {after[0].first_idc_version}" if after else ""
        if not before:
            return f"it came with {came}"
        last = before[-1].last_idc_version
        gone = f"it was withdrawn with release {last + 1}"
        return f"{gone}, and is back in {came}" if after else gone

    def _rows(self) -> list[tuple[object, ...]]:
        return [
            (
                life.releases,
                life.crdc_series_uuid,
                life.aws_bucket,
                "-" if life.size is None else display.bytes_text(life.size),
            )
            for life in self.lives
        ]

    @property
    def _title(self) -> str:
        return f"Series {self.SeriesInstanceUID} of {self.collection_id}"

    @property
    def _end(self) -> str:
        if self.withdrawn is not None:
            return f"withdrawn with release {self.withdrawn}"
        return f"there in release {self.newest}"

    def __str__(self) -> str:
        table = display.rows(_HEADER, self._rows())
        return "\n".join([self._title, *table.splitlines(), self._end])

    def _repr_html_(self) -> str:
        return display.rows_html(self._title, _HEADER, self._rows(), self._end)


_HEADER = ("releases", "crdc_series_uuid", "aws_bucket", "size")


def _span(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _held(lives: Iterable[Life]) -> str:
    """Say which releases these are: ``release 25``, ``releases 2 to 16 and 25``."""
    held: set[int] = set()
    for life in lives:
        held.update(range(life.first_idc_version, life.last_idc_version + 1))
    noun = "release" if len(held) == 1 else "releases"
    return f"{noun} {' and '.join(_span(*run) for run in runs(held))}"


def runs(versions: Iterable[int]) -> list[tuple[int, int]]:
    """Give whole numbers as runs of neighbours: first and last of each.

    >>> runs({2, 3, 4, 25})
    [(2, 4), (25, 25)]
    """
    found: list[tuple[int, int]] = []
    for version in sorted(set(versions)):
        if found and found[-1][1] == version - 1:
            found[-1] = found[-1][0], version
        else:
            found.append((version, version))
    return found


def _asked(values: Sequence[str]) -> dict[str, pa.Table]:
    import pyarrow as pa

    for value in values:
        if not isinstance(value, str) or not is_text(value):
            msg = f"a series is named by a text; got {value!r}"
            raise RequestError(msg, value=value)
    positions = integers(range(len(values)))
    return {"asked": pa.table({"position": positions, "name": texts(values)})}


def widest(release: Release) -> Database:
    """Give the tables that know most releases, among those that were asked for.

    A release that is read from its own package knows nothing of later ones.
    """
    if release.spec is None or release.named is not None:
        return release._database  # noqa: SLF001
    return release.at("current")._database  # noqa: SLF001


def locate(release: Release, key: Key, names: Sequence[str]) -> pa.Table:
    """Find series of one release by name, each once, in the order asked.

    Returns
    -------
    pyarrow.Table
        ``position`` (int64, the place in the request) and the columns of a manifest;
        no row for a name that the release does not hold.
    """
    columns = [column for column in MANIFEST_COLUMNS if column in release.columns]
    listed = ", ".join(f"held.{quote(column)}" for column in columns)
    found = release._database.arrow(  # noqa: SLF001
        f"SELECT asked.position, {listed} FROM asked "
        f"JOIN ({release._sql([*columns, key])}) AS held "  # noqa: SLF001
        f"ON asked.name = held.{quote(key)} ORDER BY asked.position",
        tables=_asked(names),
    )
    return today(release, found)


def with_others(
    release: Release, found: pa.Table, positions: Sequence[int], uuids: Sequence[str]
) -> pa.Table:
    """Add series of other releases to what `locate` found, at these positions."""
    import pyarrow as pa

    if not uuids:
        return found
    others = release.resolve(uuids)
    places = [positions[i] for i in others.column("position").to_pylist()]
    others = others.set_column(0, "position", integers(places))
    others = others.select(found.column_names).cast(found.schema)
    return pa.concat_tables([found, others]).sort_by("position")


def today(release: Release, table: pa.Table) -> pa.Table:
    """Name the bucket where each series lies today, as the newest tables have it.

    Collections move between buckets: phantom_fda did with release 24. The package
    that was published with a release names the bucket of that day.
    """
    later = _later(release)
    if later is None or not table.num_rows:
        return table

    number = integers(range(table.num_rows))
    found = later.arrow(
        "SELECT given.* EXCLUDE (number) REPLACE ("
        "coalesce(now.aws_bucket, given.aws_bucket) AS aws_bucket) FROM given "
        f"LEFT JOIN ({later.known_sql()}) AS now "
        "ON given.crdc_series_uuid = now.crdc_series_uuid ORDER BY given.number",
        tables={"given": table.append_column("number", number)},
    )
    return found.cast(table.schema)


def _later(release: Release) -> Database | None:
    """Give the installed tables, where they know later releases than these."""
    from intake_idc.release import open_release

    if not release.published or release.spec in (None, SAMPLE):
        return None
    try:
        installed = open_release("current", INSTALLED)
    except TableNotFound:
        return None
    return (
        installed._database  # noqa: SLF001
        if installed.idc_version > release.idc_version
        else None
    )


def resolve(db: Database, uuids: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Find series by uuid in whichever release holds them; see `Release.resolve`."""
    lent = _borrowed(db, columns)
    known = f"SELECT known.* FROM ({db.known_sql()}) AS known SEMI JOIN asked ON "
    known += "known.crdc_series_uuid = asked.name"
    listed = ", ".join(
        f"coalesce(known.{quote(c)}, now.{quote(c)}) AS {quote(c)}"
        if c in lent
        else f"known.{quote(c)}"
        for c in columns
    )
    now = ", ".join(map(quote, ["SeriesInstanceUID", *lent]))
    joined = (
        f"LEFT JOIN (SELECT {now} FROM {db.scan('idc_index')}) AS now "
        "ON known.row_source = 'prior_versions_index' "
        "AND known.SeriesInstanceUID = now.SeriesInstanceUID "
    )
    return db.arrow(
        f"SELECT asked.position, {listed}, "
        "known.first_idc_version, known.last_idc_version FROM asked "
        f"JOIN ({known}) AS known ON asked.name = known.crdc_series_uuid "
        f"{joined if lent else ''}ORDER BY asked.position",
        tables=_asked(uuids),
    )


def _borrowed(db: Database, columns: Sequence[str]) -> list[str]:
    """Give the columns that a superseded row takes from the current one.

    All that prior_versions_index does not hold but for the instance count, which
    may have changed with the bytes.
    """
    if not db.tables.has("prior_versions_index"):
        return []
    own = {*db.columns_of("prior_versions_index"), "instanceCount", "row_source"}
    own.add("series_revised_idc_version")
    return [column for column in columns if column in db.columns and column not in own]


def histories(db: Database, key: Key, values: Sequence[str]) -> dict[str, History]:
    """Give the life of every series that has one of these names.

    Returns
    -------
    dict
        By the name that was asked; a name that no release holds has no entry.
    """
    tables = _asked(list(dict.fromkeys(values)))
    spans = _spans_sql(db)
    if key == "SeriesInstanceUID":
        sql = (
            f"SELECT asked.name, s.* FROM asked JOIN ({spans}) AS s "
            "ON asked.name = s.SeriesInstanceUID"
        )
    else:
        names = " UNION ALL ".join(
            f"SELECT crdc_series_uuid, SeriesInstanceUID FROM ({part})"
            for part in _parts(db)
        )
        sql = (
            "SELECT named.name, s.* FROM ("
            "SELECT DISTINCT asked.name, n.SeriesInstanceUID FROM asked "
            f"JOIN ({names}) AS n ON asked.name = n.crdc_series_uuid) AS named "
            f"JOIN ({spans}) AS s USING (SeriesInstanceUID)"
        )
    grouped: dict[str, list[tuple[Any, ...]]] = {}
    for name, *row in db.rows(sql, tables=tables):
        grouped.setdefault(name, []).append(tuple(row))
    return {name: _history(rows, db.newest) for name, rows in grouped.items()}


def find(db: Database, series: str) -> History:
    """Give the life of one series by either of its names; see `Release.history`."""
    for key in KEYS:
        found = histories(db, key, [series])
        if found:
            return found[series]
    msg = f"no release that {db.tables.source} knows holds a series named {series!r}"
    raise UnknownValue(msg, values=[series])


def elsewhere(db: Database, idc_version: int, key: Key, name: str) -> str:
    """Say which releases hold a series that one does not, for an error."""
    found = histories(db, key, [name])
    if not found:
        return f", nor does any release that {db.tables.source} knows"
    life = found[name]
    here = life.at(idc_version)
    if key == "crdc_series_uuid":
        what = f" in release {idc_version}; these bytes are of {life.releases_of(name)}"
        if here is not None:
            instead = f"{here.crdc_series_uuid} in release {idc_version}"
            what += f", and the series has {instead}"
        else:
            what += f", and the series is not there: {life.absence(idc_version)}"
        return f"{what}; open_series(crdc_series_uuid={name!r}) takes them"
    return (
        f" in release {idc_version}; it is in {life.releases}: "
        f"{life.absence(idc_version)}; open_series(SeriesInstanceUID={name!r}, "
        f"idc_version={life.nearest(idc_version)}) takes its bytes"
    )


_COLUMNS = (
    "SeriesInstanceUID, collection_id, crdc_series_uuid, aws_bucket, series_size_MB"
)


def _parts(db: Database) -> list[str]:
    """Give the SQL of each table's spans: one row for a uuid and a run of releases."""
    revised = "series_revised_idc_version"
    first = revised if revised in db.columns else str(db.newest)
    current = f"{first} AS first, {db.newest} AS last, true AS current"
    parts = [f"SELECT {_COLUMNS}, {current} FROM {db.scan('idc_index')}"]
    if not db.tables.has("prior_versions_index"):
        return parts
    parts.append(
        f"SELECT {_COLUMNS}, min_idc_version AS first, max_idc_version AS last, "
        f"false AS current FROM {db.scan('prior_versions_index')}"
    )
    for row in exceptions().published_only:
        parts += [
            f"SELECT {_COLUMNS}, {first} AS first, {last} AS last, false AS current "
            f"FROM ({db.forgotten_sql(row)})"
            for first, last in runs(row["versions"])
        ]
    return parts


def _spans_sql(db: Database) -> str:
    return " UNION ALL ".join(f"({part})" for part in _parts(db))


def _absent(collection_id: str, uuid: str, newest: int) -> set[int]:
    """Give the releases that lack a current series all the same."""
    return {
        version
        for group in exceptions().rebuilt_only
        if group.collection_id == collection_id and uuid in group.uuids
        for version in group.versions
        if version < newest
    }


def _history(rows: list[tuple[Any, ...]], newest: int) -> History:
    """Make the life of a series of its spans, which may overlap."""
    held: dict[str, set[int]] = {}
    sizes: dict[str, float | None] = {}
    buckets: dict[str, str] = {}
    # The bucket of the latest release is where the bytes lie today.
    for _, collection, uuid, bucket, size, first, last, current in sorted(
        rows, key=lambda row: (row[6], row[5])
    ):
        absent = _absent(collection, uuid, newest) if current else set()
        held.setdefault(uuid, set()).update(set(range(first, last + 1)) - absent)
        buckets[uuid] = bucket
        # The smallest is the true one: release 23 doubled some.
        known = [x for x in (sizes.get(uuid), size) if x is not None]
        sizes[uuid] = min(known, default=None)
    lives = [
        Life(uuid, first, last, buckets[uuid], _bytes(sizes[uuid]))
        for uuid, versions in held.items()
        for first, last in runs(versions)
    ]
    lives.sort(key=lambda life: (life.first_idc_version, life.crdc_series_uuid))
    series, collection = rows[0][:2]
    return History(series, collection, tuple(lives), newest)


def _bytes(megabytes: float | None) -> int | None:
    return None if megabytes is None else round(megabytes * 1e6)
