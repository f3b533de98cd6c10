"""From cells to names: what the rows of a table say, many rows at a time.

Whatever a table was read from, its rows come here as columns of text, so that all
dialects judge a cell alike. Most cells are what their column says and are taken
together; those that are not are looked at one by one.

A row counts by its narrowest name, and must have one as narrow as its table's columns
promise: a row whose SeriesInstanceUID is empty is not taken for its whole patient.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import binary, bools, integers, numbers, texts
from intake_idc.formats import UUID_NAMES, Problem
from intake_idc.formats.cells import (
    Cells,
    coded_texts,
    indices,
    uuids_in,
)
from intake_idc.formats.columns import placed, release_numbers
from intake_idc.formats.places import (
    BUCKETS,
    LONGEST_UID,
    UID,
    place,
    uuid_bytes,
)

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from intake_idc.formats.columns import Column

    Array = np.ndarray[Any, Any]

__all__ = ["LONGEST_CELL", "Gatherer", "assembled"]

LONGEST_CELL = 4096
"""Characters; no identifier comes near."""
UUID_LENGTH = 36
SHOWN = 60
"""Characters of a cell that a reason repeats."""

_NOTHING = {"", "null", "none", "nan", "na", "n/a", "<na>", "\\n", "-"}
"""Cells that programs write where there is no value."""
_LEVELS = (
    ("crdc_instance_uuid", "SOPInstanceUID", "uuid", "uid"),
    ("crdc_series_uuid", "SeriesInstanceUID"),
    ("crdc_study_uuid", "StudyInstanceUID"),
    ("PatientID",),
    ("collection_id",),
)
"""Names from the narrowest to the widest; `uuid` and `uid` may be any of them."""
_ALL_BUT_UUIDS = (
    "SeriesInstanceUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "PatientID",
    "collection_id",
    "uid",
    "bucket",
)
_LOWER = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_BUCKETS = "|".join(sorted(re.escape(bucket) for bucket in BUCKETS))
# The commonest places; all others are read by `places.place`, which agrees.
_COMMON = (
    rf"^(?:(?:s3|gs)://(?:{_BUCKETS})/(?P<series>{_LOWER})"
    rf"(?:/\*?|/(?P<instance>{_LOWER})\.dcm)?"
    rf"|(?:drs://nci-crdc\.datacommons\.io/)?(?:dg\.4DFC/)?(?P<uuid>{_LOWER}))$"
)
_UNSAFE = re.compile(r"'[=+\-@\t\r]")
"""A cell that was kept from being a formula in a spreadsheet."""


class Gatherer:
    """What tables with these columns name.

    Parameters
    ----------
    columns : sequence of Column
        Those that say what a row is.
    needs : sequence of Column, optional
        Columns that say how narrow a name must be, where these are only some of them.
    passed_over : callable, optional
        Says of the text of a row that names nothing whether it is no row at all.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        *,
        needs: Sequence[Column] | None = None,
        passed_over: Callable[[int, str], bool] | None = None,
    ) -> None:
        self.columns = list(columns)
        self.tables: list[pa.Table] = []
        self.problems: list[Problem] = []
        self.rows = 0
        """Rows that were seen, taken or rejected."""
        self.level = _needed(needs or columns)
        """Which of the levels of names a row must reach, 0 the narrowest."""
        self._needs = list(needs or columns)
        self._passed_over = passed_over

    def add(
        self,
        cells: Sequence[pa.Array],
        lines: Array,
        text: Callable[[int], str],
        remark: Callable[[int], str] | None = None,
    ) -> None:
        """Take rows.

        Parameters
        ----------
        cells : sequence of pyarrow.Array
            Strings, a column for each of ``columns``.
        lines : numpy.ndarray of int64
            Number of each row.
        text : callable
            Gives the text of a row by its position here.
        remark : callable, optional
            Gives what is to be said of every row, by its position.
        """
        if not len(lines):
            return
        batch = _Batch(len(lines))
        for column, array in zip(self.columns, cells, strict=True):
            batch.read(column, Cells(array))
        batch.settle(self.level, self._needs)
        reasons = batch.reasons
        for at in sorted(reasons):
            shown = text(at)
            if self._passed_over is not None and self._passed_over(
                int(lines[at]), shown
            ):
                self.rows -= 1
                continue
            self.problems.append(Problem(int(lines[at]), cut(shown), reasons[at]))
        self.rows += len(lines)
        if remark is not None:
            for at in range(len(lines)):
                if at not in reasons:
                    said = Problem(int(lines[at]), cut(text(at)), remark(at), False)
                    self.problems.append(said)
        if len(reasons) < len(lines):
            self.tables.append(batch.table(lines))


def assembled(gatherers: Sequence[Gatherer]) -> tuple[pa.Table, list[Problem]]:
    """Give the rows of several gatherers as one table, by line, and the problems."""
    import pyarrow as pa

    empty = pa.table({"line": integers([])})
    tables = [table for gatherer in gatherers for table in gatherer.tables]
    names = pa.concat_tables([empty, *tables], promote_options="default")
    if sum(bool(gatherer.tables) for gatherer in gatherers) > 1:
        names = names.sort_by("line")
    problems = [problem for gatherer in gatherers for problem in gatherer.problems]
    return names, sorted(problems, key=lambda problem: problem.line)


def cut(text: str) -> str:
    """Give as much of a line as reports show."""
    return text.strip()[:200]


def shown(cell: str) -> str:
    """Give as much of a cell as a reason repeats."""
    return repr(cell if len(cell) <= SHOWN else f"{cell[:SHOWN]}...")


def _needed(columns: Sequence[Column]) -> int:
    roles = {column.role for column in columns}
    sure = {column.role for column in columns if not column.weak}
    for level, names in enumerate(_LEVELS):
        if level == 0 and roles & {"crdc_instance_uuid", "SOPInstanceUID"}:
            return 0
        # A place is that of a series, or of something narrower or unknown.
        if level == 1 and (sure & {*names, "place", "uid"}):
            return 1
        if level > 1 and sure & set(names):
            return level
    return 1 if roles & {"SeriesInstanceUID", "place"} else 2


class _Batch:
    """Rows at hand: names found so far, and what is wrong."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.reasons: dict[int, str] = {}
        self._weakly: dict[int, str] = {}
        self._uuids: dict[str, tuple[Array, Array]] = {}
        self._texts: dict[str, pa.Array] = {}
        self._releases: pa.Array | None = None

    # Reading a column.

    def read(self, column: Column, cells: Cells) -> None:
        """Take what a column says."""
        import numpy as np

        for at in np.flatnonzero(cells.lengths > LONGEST_CELL).tolist():
            self._wrong(column, at, f"{column.header} is longer than {LONGEST_CELL}")
            cells.lengths[at] = 0
        role = column.role
        if role in UUID_NAMES:
            left = self._read_uuids(role, cells)
            self._read_singly(column, cells, left)
        elif role == "place":
            left = self._read_places(cells)
            self._read_singly(column, cells, left)
        elif role == "idc_version":
            self._read_releases(column, cells)
        elif role == "collection_id":
            self._read_collections(cells)
        elif role == "PatientID":
            self._read_patients(cells)
        else:
            left = self._read_uids(role, cells)
            self._read_singly(column, cells, left)

    def _wrong(self, column: Column, at: int, reason: str) -> None:
        reasons = self._weakly if column.weak else self.reasons
        reasons.setdefault(at, reason)

    def _read_uuids(self, name: str, cells: Cells) -> Array:
        """Take cells that are uuids; give which are something else."""
        sized = cells.lengths == UUID_LENGTH
        rows, mask = uuids_in(cells, sized)
        if (sized & ~mask).any():
            # Upper case differs from lower case by one bit.
            upper = (cells.letters >= ord("A")) & (cells.letters <= ord("F"))
            cells.letters = cells.letters | (upper << 5).astype(cells.letters.dtype)
            rows, mask = uuids_in(cells, sized)
        self._found_uuids(name, rows, mask)
        return (cells.lengths > 0) & ~mask

    def _read_uids(self, name: str, cells: Cells) -> Array:
        import pyarrow.compute as pc

        found = bools(pc.match_substring_regex(cells.array, f"^(?:{UID})$"))
        good = found & (cells.lengths > 0) & (cells.lengths <= LONGEST_UID)
        self._found_texts(name, cells.masked(good))
        return (cells.lengths > 0) & ~good

    def _read_places(self, cells: Cells) -> Array:
        import pyarrow.compute as pc

        there = cells.lengths > 0
        found = pc.extract_regex(cells.array, _COMMON)
        common = bools(found.is_valid()) & there
        if common.any():
            for index, field in enumerate(found.type):
                part = Cells(found.field(index))
                rows, mask = uuids_in(part, common & (part.lengths == UUID_LENGTH))
                name = field.name if field.name == "uuid" else f"crdc_{field.name}_uuid"
                self._found_uuids(name, rows, mask)
        return there & ~common

    def _read_singly(self, column: Column, cells: Cells, left: Array) -> None:
        """Read cells one by one, and say what is wrong with those that name nothing."""
        import numpy as np

        found: dict[str, dict[int, str]] = {}
        for at in np.flatnonzero(left).tolist():
            cell = _unwrapped(cells.at(at))
            if cell.lower() in _NOTHING:
                continue
            names = _read_one(column, cell)
            if isinstance(names, str):
                self._wrong(column, at, f"{column.header} {shown(cell)} {names}")
                continue
            for name, value in names.items():
                found.setdefault(name, {})[at] = value
        for name, values in found.items():
            if name in (*UUID_NAMES, "uuid"):
                rows = np.zeros((self.count, 16), np.uint8)
                mask = np.zeros(self.count, bool)
                for at, value in values.items():
                    rows[at] = np.frombuffer(uuid_bytes(value), np.uint8)
                    mask[at] = True
                self._found_uuids(name, rows, mask)
            else:
                self._found_texts(name, texts([*map(values.get, range(self.count))]))

    def _read_patients(self, cells: Cells) -> None:
        import numpy as np

        there = cells.lengths > 0
        quoted = there & (cells.lengths > 1)
        at_start = cells.letters[cells.starts[quoted]] == ord("'")
        changed = {}
        for at in np.flatnonzero(quoted)[at_start].tolist():
            cell = cells.at(at)
            if _UNSAFE.match(cell):
                changed[at] = cell[1:]
                there[at] = False
        if changed:
            self._found_texts(
                "PatientID", texts([*map(changed.get, range(self.count))])
            )
        self._found_texts("PatientID", cells.masked(there))

    def _read_collections(self, cells: Cells) -> None:
        """Take collections as IDC spells them; of several in a cell none is taken."""

        def normal(cell: str) -> str | None:
            cell = re.sub(r"[\s-]+", "_", cell.strip().lower())
            return None if ";" in cell or cell in _NOTHING else cell

        codes, values = coded_texts(cells)
        found = texts([*map(normal, values), None]).take(indices(codes))
        if "collection_id" in self._texts:
            import pyarrow.compute as pc

            found = pc.coalesce(self._texts["collection_id"], found)
        self._texts["collection_id"] = found

    def _read_releases(self, column: Column, cells: Cells) -> None:
        import numpy as np

        codes, values = coded_texts(cells)
        latest: list[int | None] = []
        bad: list[int] = []
        for code, value in enumerate(values):
            cell = _unwrapped(value)
            found = [] if cell.lower() in _NOTHING else release_numbers(cell)
            latest.append(max(found, default=None) if found else None)
            if found is None:
                bad.append(code)
        for at in np.flatnonzero(np.isin(codes, bad)).tolist():
            reason = f"{column.header} {shown(values[codes[at]])} is no release, as 14"
            self._wrong(column, at, reason)
        releases = integers([*latest, None]).take(indices(codes))
        if self._releases is None:
            self._releases = releases

    # What was found, and whether it agrees.

    def _found_uuids(self, name: str, rows: Array, mask: Array) -> None:
        import numpy as np

        if not mask.any():
            return
        if name not in self._uuids:
            self._uuids[name] = rows, mask
            return
        before, held = self._uuids[name]
        both = held & mask
        differ = both & (before != rows).any(axis=1)
        self._differ(name, differ)
        self._uuids[name] = np.where(held[:, None], before, rows), held | mask

    def _found_texts(self, name: str, array: pa.Array) -> None:
        import pyarrow.compute as pc

        if array.null_count == len(array):
            return
        if name not in self._texts:
            self._texts[name] = array
            return
        before = self._texts[name]
        if name != "bucket":
            self._differ(name, bools(pc.not_equal(before, array)))
        self._texts[name] = pc.coalesce(before, array)

    def _differ(self, name: str, mask: Array) -> None:
        import numpy as np

        for at in np.flatnonzero(mask).tolist():
            self.reasons.setdefault(at, f"two columns give different {name}s")

    def _settle_uuid(self) -> None:
        """Leave a uuid of unknown kind out where a column gives it with its kind."""
        if "uuid" not in self._uuids:
            return
        rows, mask = self._uuids["uuid"]
        mask = mask.copy()
        for name in UUID_NAMES:
            if name in self._uuids:
                known, held = self._uuids[name]
                mask &= ~(held & (known == rows).all(axis=1))
        if "crdc_instance_uuid" in self._uuids:
            self._differ("object", mask & self._uuids["crdc_instance_uuid"][1])
        if mask.any():
            self._uuids["uuid"] = rows, mask
        else:
            del self._uuids["uuid"]

    def settle(self, level: int, columns: Sequence[Column]) -> None:
        """Reject rows that have no name as narrow as they must."""
        import numpy as np

        self._settle_uuid()
        masks = [np.zeros(self.count, bool) for _ in _LEVELS]
        for wide, names in enumerate(_LEVELS):
            for name in names:
                if name in self._uuids:
                    masks[wide] |= self._uuids[name][1]
                if name in self._texts:
                    masks[wide] |= bools(self._texts[name].is_valid())
        reached = np.logical_or.reduce(masks[: level + 1])
        wanted = " or ".join(
            column.header
            for column in columns
            if column.role in _LEVELS[level] or (level <= 1 and column.role == "place")
        )
        for at in np.flatnonzero(~reached).tolist():
            if at in self._weakly:
                reason = self._weakly[at]
            elif any(mask[at] for mask in masks):
                reason = f"has no {wanted}; by its other names it would take too much"
            else:
                reason = "names nothing"
            self.reasons.setdefault(at, reason)

    def table(self, lines: Array) -> pa.Table:
        """Give the rows that nothing is wrong with."""
        import numpy as np
        import pyarrow as pa

        made: dict[str, pa.Array] = {"line": numbers(lines)}
        for name in (*UUID_NAMES, "uuid"):
            if name in self._uuids:
                made[name] = binary(*self._uuids[name])
        for name in _ALL_BUT_UUIDS:
            if name in self._texts:
                made[name] = self._texts[name]
        if self._releases is not None:
            made["idc_version"] = self._releases
        table = pa.table(made)
        if self.reasons:
            keep = np.ones(self.count, bool)
            keep[list(self.reasons)] = False
            bits = pa.py_buffer(np.packbits(keep, bitorder="little"))
            table = table.filter(
                pa.Array.from_buffers(pa.bool_(), self.count, [None, bits])
            )
        empty = [name for name in made if table[name].null_count == len(table)]
        return table.drop_columns(empty) if empty else table


def _read_one(column: Column, cell: str) -> dict[str, str] | str:
    if column.role == "place":
        return placed(cell)
    if column.role in UUID_NAMES:
        # Also as a URL or a DRS identifier: what it says must be of that kind.
        found = place(cell)
        if isinstance(found, dict):
            value = found.get(column.role) or found.get("uuid")
            if value and set(found) <= {column.role, "uuid", "bucket"}:
                return {column.role: value}
        return "is no uuid"
    if re.fullmatch(UID, cell) and len(cell) <= LONGEST_UID:
        return {column.role: cell}
    return "is no DICOM UID"


def _unwrapped(cell: str) -> str:
    """Give a cell without blanks and quotes around it, and a spreadsheet's mark."""
    cell = cell.strip()
    if len(cell) > 1 and cell[0] == cell[-1] and cell[0] in "'\"":
        cell = cell[1:-1].strip()
    return cell.removeprefix("'")
