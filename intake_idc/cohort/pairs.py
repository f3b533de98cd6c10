"""Images and their annotations: groups that are complete, and what is of what."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from intake_idc.arrow import integers, texts
from intake_idc.cohort.algebra import UUID, given, part_of, release_of
from intake_idc.errors import RequestError, TableNotFound
from intake_idc.formats import Problem
from intake_idc.release.database import memory_database
from intake_idc.release.rows import check_columns
from intake_idc.selection import COMMERCIAL_USE, Condition, Selection, quote

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from intake_idc.cohort.verbs.base import AnyCohort, Base
    from intake_idc.release import FixedRows, Release
    from intake_idc.storage import Instance, Mirror

__all__ = [
    "ANNOTATIONS",
    "Headers",
    "annotations_of",
    "references",
    "require_all_on",
    "sources_of",
]

ANNOTATIONS = ("SEG", "RTSTRUCT", "SR", "ANN")
"""Modalities of series that are of other series."""
Headers: TypeAlias = Literal["auto", True, False]
"""Whether headers are read: of what no table tells, of all, of none."""
Place: TypeAlias = "str | os.PathLike[str] | Mirror | None"
UID = "SeriesInstanceUID"
REFERENCES = (UID, UUID, "Modality", f"referenced_{UID}", "told_by")
MOST = 10_000
"""Combinations of values that a group may be asked for."""

TOLD = {
    "SEG": ("seg_index", "segmented_SeriesInstanceUID"),
    "RTSTRUCT": ("rtstruct_index", "referenced_SeriesInstanceUID"),
    "ANN": ("ann_index", "referenced_SeriesInstanceUID"),
}
"""Modality, and the index table and column that tell what its series are of."""

# Complete groups.


def require_all_on(
    cohort: AnyCohort, on: str | Sequence[str], columns: dict[str, Any]
) -> AnyCohort:
    """Give the groups that have every combination; see `Cohort.require_all_on`."""
    keys = given("on", on)
    if not keys:
        msg = "name the column or columns that make a group, such as StudyInstanceUID"
        raise RequestError(msg)
    narrowed = cohort.search(**columns)
    narrowed._check_meant()  # noqa: SLF001
    rows = cohort.rows
    check_columns(keys, rows.columns)
    asked = [c for c in columns if c not in keys and c != COMMERCIAL_USE]
    check_columns(asked, rows.columns)
    if not asked:
        msg = f"name what each group of {', '.join(keys)} must have, as Modality='SEG'"
        raise RequestError(msg)
    parameters: list[Any] = []
    has = []
    for column in asked:
        one = Selection().where({column: columns[column]})
        # Each value of a list on its own, and each expression.
        singles = [
            Selection((part,)).compile(rows) for part in _single(one.conditions[0])
        ]
        has.append(singles)
    combinations = list(product(*has))
    if len(combinations) > MOST:
        msg = f"{len(combinations):,} combinations of values; {MOST:,} can be asked for"
        raise RequestError(msg)
    groups = ", ".join(map(quote, keys))
    needed = []
    for combination in combinations:
        needed.append(f"bool_or({' and '.join(sql for sql, _ in combination)}) OVER w")
        parameters += [value for _, values in combination for value in values]
    whole = " and ".join(f"{quote(key)} IS NOT NULL" for key in keys)
    used = list(dict.fromkeys([UUID, *keys, *asked]))
    table = _placed(narrowed.rows.table(used, narrowed.selection))
    found = memory_database().arrow(
        f"SELECT {UUID} FROM grouped_rows WHERE {whole} "  # noqa: S608
        f"WINDOW w AS (PARTITION BY {groups}) QUALIFY {' and '.join(needed)} "
        "ORDER BY place",
        parameters,
        tables={"grouped_rows": table},
    )
    where = narrowed._where  # noqa: SLF001
    origin = f"{where}, where each {' and '.join(keys)} has all of them"
    return part_of(narrowed, found.column(UUID), origin)


def _single(condition: Condition) -> Iterator[Condition]:
    """Give each thing that a column may be as a condition of its own."""
    column = condition.column
    yield from (Condition(column, (value,)) for value in condition.values)
    yield from (Condition(column, (), (each,)) for each in condition.patterns)
    if condition.null:
        yield Condition(column, null=True)


def _placed(table: pa.Table) -> pa.Table:
    return table.append_column("place", integers(range(table.num_rows)))


# What is of what.


def references(
    cohort: Base,
    modality: Sequence[str],
    headers: Headers,
    mirror: Place,
) -> pa.Table:
    """Give a row for each annotation and source; see `Cohort.references`."""
    import pyarrow as pa

    cohort._check_meant()  # noqa: SLF001
    rows = _of_modality(cohort.rows, cohort.selection, _modalities(modality))
    of = _Sources(headers)
    of.ask_tables(cohort.rows.of_tables, rows)
    of.ask_headers(cohort, rows, mirror)
    columns: dict[str, list[str | None]] = {name: [] for name in REFERENCES}
    for row in rows.to_pylist():
        own = row[UID]
        found: list[str | None] = [*sorted(of.found.get(own, ()))]
        for source in found or [None]:
            values = own, row[UUID], row["Modality"], source, of.told_by.get(own)
            for name, value in zip(REFERENCES, values, strict=True):
                columns[name].append(value)
    return pa.table({name: texts(values) for name, values in columns.items()})


def sources_of(
    cohort: AnyCohort, modality: Sequence[str], headers: Headers, mirror: Place
) -> AnyCohort:
    """Give the series that annotations are of; see `Cohort.sources`."""
    table = references(cohort, modality, headers, mirror)
    release = release_of(cohort)
    column = f"referenced_{UID}"
    wanted = [uid for uid in table.column(column).unique().to_pylist() if uid]
    there: set[str] = set()
    found = release.table([UUID, UID], Selection(), strict=False).slice(0, 0)
    if wanted:
        named = Selection().where({UID: wanted})
        found = release.table([UUID, UID], named, strict=False)
        there.update(found.column(UID).to_pylist())
    problems = []
    for line, row in enumerate(table.to_pylist(), 1):
        of = row[column]
        if of is None:
            reason = _untold(row["Modality"], headers)
            problems.append(Problem(line, row[UID], reason))
        elif of not in there:
            reason = (
                f"release {release.idc_version} does not hold this series, which "
                f"{row['Modality']} {row[UID]} is of"
            )
            problems.append(Problem(line, of, reason))
    where = cohort._where  # noqa: SLF001
    return _listed(cohort, release, found, f"sources of {where}", problems)


def annotations_of(
    cohort: AnyCohort, modality: Sequence[str], headers: Headers, mirror: Place
) -> AnyCohort:
    """Give the annotations of series; see `Cohort.annotations`."""
    import pyarrow.compute as pc

    cohort._check_meant()  # noqa: SLF001
    wanted = _modalities(modality)
    patient = ["collection_id", "PatientID"]
    images = cohort.rows.table([UID, *patient], cohort.selection)
    ours = set(images.column(UID).to_pylist())
    release = release_of(cohort)
    every = _of_modality(release, Selection(), wanted, patient)
    of = _Sources(headers)
    of.ask_tables(release, every)
    # What no table tells can only be looked for among the patients' own.
    near = memory_database().arrow(
        f"SELECT {UUID}, {UID}, Modality FROM candidate_rows "  # noqa: S608
        "SEMI JOIN image_rows "
        "USING (collection_id, PatientID) ORDER BY place",
        tables={"candidate_rows": _placed(every), "image_rows": images},
    )
    release_cohort = replace(
        cohort, rows=release, selection=Selection(), objects=None, problems=()
    )
    of.ask_headers(release_cohort, near, mirror)
    kept = [uid for uid, told in of.found.items() if not ours.isdisjoint(told)]
    named = texts(kept).cast(every.column(UID).type)
    found = every.filter(pc.is_in(every.column(UID), named))
    problems = [
        Problem(line, row[UID], _untold(row["Modality"], headers))
        for line, row in enumerate(near.to_pylist(), 1)
        if not of.found.get(row[UID])
    ]
    where = cohort._where  # noqa: SLF001
    origin = f"{', '.join(wanted)} of {where}"
    return _listed(cohort, release, found, origin, problems)


class _Sources:
    """What annotations are of, as far as tables and headers were asked."""

    def __init__(self, headers: object) -> None:
        if not (headers == "auto" or isinstance(headers, bool)):
            msg = f"headers is 'auto', True or False; got {headers!r}"
            raise RequestError(msg)
        self.headers = headers
        self.found: dict[str, list[str]] = {}
        """By SeriesInstanceUID of the annotation, those of its sources."""
        self.told_by: dict[str, str] = {}
        """By the same: a table, or "header"."""

    def ask_tables(self, release: Release, rows: pa.Table) -> None:
        """Ask the index tables, unless headers alone are to be read."""
        import pyarrow.compute as pc

        if self.headers is True:
            return
        modalities = rows.column("Modality")
        for modality, (table, column) in TOLD.items():
            among = rows.filter(pc.equal(modalities, modality)).select([UID])
            if not among.num_rows:
                continue
            try:
                told = release.index_table(table, [UID, column], among=among)
            except TableNotFound as error:
                if self.headers == "auto":
                    continue
                msg = f"{error.message}; or headers=True reads it from the objects"
                raise TableNotFound(msg, **error.details) from error
            for uid, source in zip(
                *(told.column(name).to_pylist() for name in (UID, column)), strict=True
            ):
                if source:
                    self._add(uid, [source], table)

    def ask_headers(self, cohort: Base, rows: pa.Table, mirror: Place) -> None:
        """Read the headers of what no table told, unless tables alone are asked."""
        import pyarrow.compute as pc

        if self.headers is False:
            return
        names = rows.column(UID)
        known = texts(list(self.found)).cast(names.type)
        rest = rows.filter(pc.invert(pc.is_in(names, known)))
        if not rest.num_rows:
            return
        told = (rest.column(name).to_pylist() for name in (UUID, UID))
        owners = dict(zip(*told, strict=True))
        part = part_of(cohort, rest.column(UUID), "annotations")
        for uuid, found in _read(part, mirror):
            self._add(owners[uuid], found, "header")

    def _add(self, uid: str, found: Sequence[str], told_by: str) -> None:
        if found:
            own = self.found.setdefault(uid, [])
            own += [source for source in found if source not in own]
            self.told_by[uid] = told_by


def _read(part: Base, mirror: Place) -> Iterator[tuple[str, list[str]]]:
    """Read of each object of some series which series it is of."""
    from intake_idc import storage

    place = part._mirror(mirror)  # noqa: SLF001
    listed = storage.instances(part._located([UUID]).parts(), place)  # noqa: SLF001
    yield from storage.each(partial(_read_one, mirror=place), listed)


def _read_one(instance: Instance, mirror: Mirror) -> tuple[str, list[str]]:
    from intake_idc import dicom, storage

    read = storage.Ranged(instance, mirror).read
    header = dicom.read_references(read, instance.size, instance.url)
    found = dicom.referenced_series(header, instance.url)
    return instance.part.crdc_series_uuid, found


def _modalities(modality: str | Sequence[str]) -> list[str]:
    found = given("modality", modality)
    if not found:
        msg = f"modality is one or more of {', '.join(ANNOTATIONS)}; got {modality!r}"
        raise RequestError(msg)
    return found


def _of_modality(
    rows: Release | FixedRows,
    selection: Selection,
    modality: Sequence[str],
    more: Sequence[str] = (),
) -> pa.Table:
    """Give the series of some modalities; there need be none."""
    chosen = selection.where({"Modality": list(modality)})
    return rows.table([UUID, UID, "Modality", *more], chosen, strict=False)


def _untold(modality: str, headers: Headers) -> str:
    if headers is False:
        return f"no table tells what this {modality} is of; headers='auto' reads it"
    return f"this {modality} names no series that it is of"


def _listed(
    cohort: AnyCohort,
    release: Release,
    found: pa.Table,
    origin: str,
    problems: Sequence[Problem],
) -> AnyCohort:
    """Give series of a release as a list, read from where another cohort is."""
    whole = replace(
        cohort,
        rows=release,
        selection=Selection(),
        problems=tuple(problems),
        objects=None,
    )
    return part_of(whole, found.column(UUID), origin)
