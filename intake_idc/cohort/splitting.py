"""A sample of a cohort, and its division by patients.

What is taken follows from the MD5 of the seed and the name of a series or patient, so
that the same call gives the same on every machine. A sample is nearly the same after
the cohort has grown; a division is another, because it is right to the patient.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import integers
from intake_idc.cohort.algebra import UUID, given, part_of
from intake_idc.errors import EmptySelection, RequestError
from intake_idc.release.database import memory_database
from intake_idc.selection import literal, quote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from intake_idc.cohort.verbs.base import AnyCohort, Base

__all__ = ["sample", "split_patients"]

CLOSE = 1e-9
"""By how much the fractions of a division may miss 1."""
MOST = 100
"""Parts that a division may have."""


def sample(cohort: AnyCohort, n: int, seed: int) -> AnyCohort:
    """Give n series of a cohort; see `Cohort.sample`."""
    wanted, seed = _whole("n", n), _whole("seed", seed)
    if wanted < 1:
        msg = f"a sample has one series or more; got n={wanted}"
        raise RequestError(msg, n=wanted)
    table = _rows(cohort, ["SeriesInstanceUID"])
    if wanted > table.num_rows:
        msg = f"a sample of {wanted:,} series of a cohort that has {table.num_rows:,}"
        raise RequestError(msg, n=wanted, series=table.num_rows)
    drawn = _hashed(seed, f"coalesce(SeriesInstanceUID, {UUID})")
    found = memory_database().arrow(
        f"SELECT {UUID} FROM (SELECT {UUID}, place FROM drawn_from "  # noqa: S608
        f"ORDER BY {drawn}, {UUID} LIMIT {wanted}) ORDER BY place",
        tables={"drawn_from": table},
    )
    origin = f"sample of {wanted:,} of {cohort._where}, seed {seed}"  # noqa: SLF001
    return part_of(cohort, found.column(UUID), origin)


def split_patients(
    cohort: AnyCohort,
    parts: Mapping[str, float],
    by: str | Sequence[str] | None,
    seed: int,
) -> dict[str, AnyCohort]:
    """Give parts of a cohort that share no patient; see `Cohort.split_patients`."""
    import numpy as np
    import pyarrow as pa

    fractions = _fractions(parts)
    seed = _whole("seed", seed)
    columns = given("by", by)
    names = ["StudyInstanceUID", "SeriesInstanceUID", "PatientID", *columns]
    table = _rows(cohort, names)
    found = memory_database().arrow(
        _ranked(seed, columns), tables={"drawn_from": table}
    )
    turns = found.column("turn").to_numpy()
    taken = np.frombuffer(_turns(fractions, int(turns.max()) + 1), np.uint8)[turns]
    uuids = found.column(UUID)
    made = {}
    for number, (name, fraction) in enumerate(parts.items()):
        here = uuids.filter(pa.array(taken == number))
        where = cohort._where  # noqa: SLF001
        origin = f"part {name!r} ({fraction:g}) of {where}, by patient, seed {seed}"
        made[name] = part_of(cohort, here, origin)
    return made


def _rows(cohort: Base, columns: Sequence[str]) -> pa.Table:
    """Give columns of the series, and their places, or refuse an empty cohort."""
    cohort._check_meant()  # noqa: SLF001
    names = list(dict.fromkeys([UUID, *columns]))
    table = cohort.rows.table(names, cohort.selection)
    if not table.num_rows:
        msg = f"there is no series to take from: {cohort._where}"  # noqa: SLF001
        raise EmptySelection(msg)
    return table.append_column("place", integers(range(table.num_rows)))


def _ranked(seed: int, by: Sequence[str]) -> str:
    """Give SQL of each series' turn: a number, from 0, that its patient has.

    A patient is a PatientID, in whichever collections. Without one, it is who else is
    in the study; the series of a study with none are one patient.
    """
    known = "nullif(trim(PatientID), '')"
    patient = (
        f"coalesce('p' || {known}, CASE WHEN StudyInstanceUID IS NOT NULL THEN "
        f"'p' || min({known}) OVER (PARTITION BY StudyInstanceUID) END, "
        f"'s' || StudyInstanceUID, 'u' || {UUID})"
    )
    # Text of the values that a patient has, in order, each column on its own.
    values = (
        f"array_to_string(list_sort(list(DISTINCT coalesce('=' || "
        f"CAST({quote(column)} AS VARCHAR), '-'))), chr(31))"
        for column in by
    )
    stratum = " || chr(30) || ".join(values) or "''"
    # Strata in an order of the seed, each in one of its own: a stratum of one patient
    # then falls to any part, too.
    order = f"{_hashed(seed, 'stratum')}, stratum, {_hashed(seed, 'patient')}, patient"
    named = ", ".join(dict.fromkeys([UUID, "place", *map(quote, by)]))
    return f"""
        WITH named AS (SELECT {named}, {patient} AS patient FROM drawn_from),
        patients AS (SELECT patient, {stratum} AS stratum FROM named GROUP BY patient),
        ranked AS (
            SELECT patient, row_number() OVER (ORDER BY {order}) - 1 AS turn
            FROM patients)
        SELECT {UUID}, turn FROM named JOIN ranked USING (patient) ORDER BY place
    """  # noqa: S608


def _hashed(seed: int, name: str) -> str:
    return f"md5({literal(f'{seed} ')} || {name})"


def _turns(fractions: Sequence[float], count: int) -> bytes:
    """Give the part of each patient in turn, so that no part is ever one off.

    After any number of patients each part has less than one patient more or less than
    its share. It is what R. Tijdeman found for the chairman assignment problem
    (Discrete Mathematics 32, 1980): of the parts that lag far enough, the one that
    would be too late first.
    """
    if len(fractions) == 1:
        return bytes(count)
    parts = range(len(fractions))
    lag = 1 / (2 * len(fractions) - 2)
    held = [0] * len(fractions)
    taken = bytearray(count)
    for turn in range(1, count + 1):
        behind = [fractions[part] * turn - held[part] for part in parts]
        late = [part for part in parts if behind[part] >= lag - CLOSE]
        best = min(late, key=lambda part: (1 - lag - behind[part]) / fractions[part])
        held[best] += 1
        taken[turn - 1] = best
    return bytes(taken)


def _fractions(parts: Any) -> list[float]:
    """Check the parts, and give their fractions."""
    try:
        shares = dict(parts)
        fractions = [float(fraction) for fraction in shares.values()]
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"parts are named fractions, as {{'train': 0.8, 'test': 0.2}}; {error}"
        raise RequestError(msg) from error
    if not all(isinstance(name, str) and name for name in shares):
        msg = f"every part has a name; got {list(shares)!r}"
        raise RequestError(msg)
    if not shares or len(shares) > MOST:
        msg = f"a division has 1 to {MOST} parts; got {len(shares):,}"
        raise RequestError(msg)
    # Not even infinite ones, which have no sum.
    sensible = all(0 < fraction <= 1 + CLOSE for fraction in fractions)
    total = math.fsum(fractions) if sensible else math.nan
    if not abs(total - 1) <= CLOSE:
        which = f", which is {total:g}" if sensible else ""
        msg = f"fractions are above 0 and add up to 1; got {shares}{which}"
        raise RequestError(msg, total=total)
    return [fraction / total for fraction in fractions]


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        msg = f"{name} is a whole number; got {value!r}"
        raise RequestError(msg)
    return operator.index(value)
