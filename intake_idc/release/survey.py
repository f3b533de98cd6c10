"""Counting every release in one pass, and comparing with what was published."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from intake_idc import display
from intake_idc.release.database import database
from intake_idc.release.facts import exceptions, published
from intake_idc.selection import literal

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
    """How sure the series are. ``exact``: they are those that were published.
    ``rebuilt``: the best that is known; nothing was published to compare with.
    ``survivors only``: what later releases still held of it."""

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
        self.series += other.series
        self.megabytes += other.megabytes
        self.xor ^= other.xor
        self.collections |= other.collections


_TALLY = (
    "count(*), coalesce(sum(series_size_MB), 0), "
    "coalesce(bit_xor(md5_number(crdc_series_uuid)), 0::UHUGEINT), "
    "coalesce(list(DISTINCT collection_id), [])"
)
"""What a `_Tally` is made of. XOR needs no order, so that releases, which are made
of the same groups of rows, share the work: 0.2 s for a million series."""


def _tallies(db: Database, key: str, rows: str) -> dict[Any, _Tally]:
    """Tally rows (SQL after FROM) by a key."""
    return {
        key: _Tally(n, megabytes, int(xor), set(names))
        for key, n, megabytes, xor, names in db.rows(
            f"SELECT {key}, {_TALLY} FROM {rows} GROUP BY 1"
        )
    }


@functools.lru_cache(maxsize=8)
def survey(tables: Tables) -> tuple[ReleaseInfo, ...]:
    """Count every release of the tables, and say how sure each is."""
    db = database(tables)
    newest = db.newest
    whole = _tallies(db, str(newest), db.scan("idc_index"))
    tally = whole.get(newest, _Tally())
    # What no package is recorded of is taken as the tables say it.
    known = newest in published()
    infos = [
        _info(db, newest, tally, _sureness(newest, 0, tally) if known else "exact")
    ]
    if "series_revised_idc_version" not in db.columns or not tables.has(
        "prior_versions_index"
    ):
        return tuple(infos)
    prior = db.scan("prior_versions_index")
    oldest = db.rows(f"SELECT coalesce(min(min_idc_version), 0) FROM {prior}")[0][0]
    current = _current(db)
    superseded = _superseded(db, newest)
    for version in range(newest - 1, 0, -1):
        tally = _Tally()
        for (since, absent), rows in current.items():
            if since <= version and version not in absent:
                tally.add(rows)
        tally.add(superseded.get(version, _Tally()))
        for row in exceptions().forgotten(version):
            found = _tallies(db, "0", f"({db.forgotten_sql(row)})")
            tally.add(found.get(0, _Tally()))
        infos.append(_info(db, version, tally, _sureness(version, oldest, tally)))
    return tuple(reversed(infos))


def _current(db: Database) -> dict[tuple[int, frozenset[int]], _Tally]:
    """Tally the current series by the release that revised them last.

    The second part of the key is the releases that lack them all the same.
    """
    groups = exceptions().rebuilt_only
    whens = " ".join(
        f"WHEN collection_id = {literal(group.collection_id)} AND "
        f"crdc_series_uuid IN ({', '.join(map(literal, group.uuids))}) THEN {number}"
        for number, group in enumerate(groups, 1)
    )
    key = f"(series_revised_idc_version, CASE {whens} ELSE 0 END)"
    tallies = _tallies(db, key, db.scan("idc_index"))
    absent = [frozenset[int](), *(group.versions for group in groups)]
    return {(since, absent[number]): t for (since, number), t in tallies.items()}


def _superseded(db: Database, newest: int) -> dict[int, _Tally]:
    """Tally what each release held that the newest does not; each series once."""
    rows = f"""(
        SELECT v, crdc_series_uuid, min(series_size_MB) AS series_size_MB,
            any_value(collection_id) AS collection_id
        FROM {db.scan("prior_versions_index")} JOIN range(1, {newest}) AS wanted(v)
            ON v BETWEEN min_idc_version AND max_idc_version
        GROUP BY v, crdc_series_uuid
    )"""
    return _tallies(db, "v", rows)


def _sureness(version: int, oldest: int, tally: _Tally) -> Sureness:
    fact = published().get(version)
    found = (tally.series, f"{tally.xor:032x}")
    if fact is not None and (fact.series, fact.xor) == found:
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
