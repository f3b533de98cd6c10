"""Counting every release in one pass, and comparing with what was published."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from intake_idc import display
from intake_idc.release.database import database
from intake_idc.release.facts import exceptions, published

if TYPE_CHECKING:
    from intake_idc.release.database import Database
    from intake_idc.release.tables import Tables

__all__ = ["ReleaseInfo", "Sureness", "survey"]

Sureness = Literal["exact", "rebuilt", "survivors only"]


@dataclass(frozen=True)
class ReleaseInfo:
    """What is known of one release."""

    idc_version: int
    """The release."""
    date: str | None
    """The day it came out (ISO 8601)."""
    series: int
    """Number of series."""
    collections: int
    """Number of collections."""
    size: int
    """Bytes in all series."""
    sureness: Sureness
    """``exact``: the series are those that were published. ``rebuilt``: the best
    that is known; nothing was published to compare with. ``survivors only``: what
    later releases still held of it."""

    def __str__(self) -> str:
        return (
            f"IDC release {self.idc_version} ({self.date or 'no date'}), "
            f"{display.count_text(self.series, 'series')} in "
            f"{display.count_text(self.collections, 'collection')}, "
            f"{display.bytes_text(self.size)}, {self.sureness}"
        )


@dataclass
class _Tally:
    """Count, megabytes, digest and collections of a set of series."""

    series: int = 0
    megabytes: float = 0.0
    xor: int = 0
    collections: set[str] = field(default_factory=set)

    def add(self, other: _Tally) -> None:
        self._count(other, 1)
        self.collections |= other.collections

    def remove(self, other: _Tally) -> None:
        self._count(other, -1)

    def _count(self, other: _Tally, sign: int) -> None:
        self.series += sign * other.series
        self.megabytes += sign * other.megabytes
        self.xor ^= other.xor


_TALLY = (
    "count(*), coalesce(sum(series_size_MB), 0), "
    "coalesce(bit_xor(md5_number(crdc_series_uuid)), 0), "
    "coalesce(list(DISTINCT collection_id), [])"
)
"""What a `_Tally` is made of. XOR needs no order, so that releases, which are made
of the same groups of rows, share the work: 0.2 s for a million series."""


def _tallies(db: Database, sql: str) -> dict[int, _Tally]:
    return {
        int(key): _Tally(n, megabytes, int(xor), set(names))
        for key, n, megabytes, xor, names in db.rows(sql)
    }


@functools.lru_cache(maxsize=8)
def survey(tables: Tables) -> tuple[ReleaseInfo, ...]:
    """Count every release of the tables, and say how sure each is."""
    db = database(tables)
    newest = db.newest
    index = db.scan("idc_index")
    if "series_revised_idc_version" not in db.columns or not tables.has(
        "prior_versions_index"
    ):
        whole = _tallies(db, f"SELECT {newest}, {_TALLY} FROM {index} GROUP BY 1")
        return tuple(_info(db, newest, tally, "exact") for tally in whole.values())
    versions = range(1, newest + 1)
    prior = db.scan("prior_versions_index")
    oldest = db.rows(f"SELECT coalesce(min(min_idc_version), 0) FROM {prior}")[0][0]
    revised = _tallies(
        db, f"SELECT series_revised_idc_version, {_TALLY} FROM {index} GROUP BY 1"
    )
    superseded = _tallies(
        db,
        f"""
        SELECT v, {_TALLY} FROM (
            SELECT v, crdc_series_uuid, min(series_size_MB) AS series_size_MB,
                any_value(collection_id) AS collection_id
            FROM {prior} JOIN range(1, {newest}) AS wanted(v)
                ON v BETWEEN min_idc_version AND max_idc_version
            GROUP BY v, crdc_series_uuid
        ) GROUP BY v
        """,
    )
    infos = []
    for version in versions:
        tally = _Tally()
        for since, rows in revised.items():
            if since <= version:
                tally.add(rows)
        if version < newest:
            tally.add(superseded.get(version, _Tally()))
            tally.remove(_absent(db, version))
            for row in exceptions().forgotten(version):
                tally.add(_one(db, db.forgotten_sql(row)))
        infos.append(_info(db, version, tally, _sureness(version, newest, oldest, tally)))
    return tuple(infos)


def _absent(db: Database, version: int) -> _Tally:
    """Tally what the rule puts into a release wrongly."""
    absent = ", ".join(f"'{uuid}'" for uuid in exceptions().absent(version))
    if not absent:
        return _Tally()
    sql = (
        f"SELECT * FROM {db.scan('idc_index')} WHERE crdc_series_uuid IN ({absent}) "
        f"AND series_revised_idc_version <= {version}"
    )
    return _one(db, sql)


def _one(db: Database, select: str) -> _Tally:
    return _tallies(db, f"SELECT 0, {_TALLY} FROM ({select})")[0]


def _sureness(version: int, newest: int, oldest: int, tally: _Tally) -> Sureness:
    fact = published().get(version)
    if version == newest or (
        fact is not None and (fact.series, int(fact.xor, 16)) == (tally.series, tally.xor)
    ):
        return "exact"
    return "survivors only" if version < oldest else "rebuilt"


def _info(db: Database, version: int, tally: _Tally, sureness: Sureness) -> ReleaseInfo:
    return ReleaseInfo(
        version,
        db.dates.get(version),
        tally.series,
        len(tally.collections),
        round(tally.megabytes * 1e6),
        sureness,
    )
