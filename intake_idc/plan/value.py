"""A plan as a value: every object of a copy, what is done with it, and where it goes.

A million objects are a million rows of two Arrow tables, about 110 bytes each, and
become Python objects only where somebody looks at them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, overload

from intake_idc import display
from intake_idc.arrow import integers, numpy_of, one
from intake_idc.errors import PlanError
from intake_idc.manifest import Part
from intake_idc.storage import Instance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    import pyarrow as pa

    from intake_idc.storage import Mirror

__all__ = ["ACTIONS", "Action", "Plan", "Rate", "Row", "Step", "Steps"]

Action = Literal["fetch", "replace", "keep", "collide", "refuse", "unlisted"]
ACTIONS: tuple[Action, ...] = get_args(Action)
"""Actions by their number in the column ``action``."""
MOVED = (ACTIONS.index("fetch"), ACTIONS.index("replace"))
"""Numbers of the actions that move bytes."""
SUFFIX = ".dcm"
COUNTED_BY = ("collection_id", "Modality", "license_short_name")
"""Columns that a plan counts by when it is printed, where it holds them."""
SHOWN = 8
"""Rows of each table that are printed."""
AT_ONCE = 4096
"""Rows that are plain values at once."""


@dataclass(frozen=True)
class Step:
    """One object of the copy; or one series, where it could not be listed."""

    action: Action
    """What is done. ``fetch``: not there. ``keep``: there with the right size.
    ``replace``: there with another size. ``collide``: another object has the path.
    ``refuse``: the path cannot be written. ``unlisted``: the series cannot be listed,
    or its listing is not what the index says."""
    path: str
    """Where it goes, below the target, with ``/`` between the parts."""
    instance: Instance
    """What goes there."""
    reason: str = ""
    """Why, where it is none of ``fetch``, ``keep`` and ``replace``."""


class Rate(NamedTuple):
    """How fast copies from a mirror were."""

    size: float
    """Bytes a second."""
    objects: float
    """Objects a second."""


class Row(NamedTuple):
    """One object of the copy, as `Plan.rows` gives it: plain values."""

    row: int
    action: int
    series: int
    name: str
    file: str
    size: int
    etag: str | None
    md5: bytes | None


class Steps(Sequence[Step]):
    """The rows of a plan, made into `Step` as they are looked at."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __len__(self) -> int:
        return len(self._plan)

    @overload
    def __getitem__(self, index: int) -> Step: ...

    @overload
    def __getitem__(self, index: slice) -> list[Step]: ...

    def __getitem__(self, index: int | slice) -> Step | list[Step]:
        """Give one step, or a list of some."""
        found = range(len(self))[index]
        if not isinstance(found, range):
            return self._plan.step(found)
        return list(map(self._plan.step_of, self._plan.rows_of(found)))

    def __iter__(self) -> Iterator[Step]:
        return map(self._plan.step_of, self._plan.rows())


@dataclass(frozen=True, eq=False)
class Plan:
    """Every object of a copy, and what will be done with it."""

    target: Path | str
    """The folder that the copy goes to; of a store its URL."""
    series: pa.Table
    """One row for each series: ``crdc_series_uuid``, ``aws_bucket``, ``folder`` (below
    the target), ``instanceCount`` and ``size`` (bytes; null where not known), and
    columns that `by` counts by."""
    objects: pa.Table
    """One row for each object, in the order of the manifest and of the keys:
    ``series`` (int32, row of the other table), ``action`` (int8, place in `ACTIONS`),
    ``name`` (of the key, without ``.dcm``), ``file`` (name it gets; null where that is
    the name of the key), ``size`` (int64, bytes), ``etag`` and ``md5`` (16 bytes), null
    where not known."""
    mirror: Mirror
    """Where the bytes come from."""
    reasons: Mapping[int, str] = field(default_factory=dict)
    """Why, for rows that are neither fetched, replaced nor kept."""
    rate: Rate | None = None
    """How fast copies from this mirror were; None where none was measured."""
    delete: tuple[str, ...] = ()
    """Paths below the target of what an earlier copy put there, the cohort no longer
    holds, and goes when all is there; see `intake_idc.transfer.obsolete`."""

    def __len__(self) -> int:
        return int(self.objects.num_rows)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        mine = self.target, self.mirror, self.reasons
        return (
            mine == (other.target, other.mirror, other.reasons)
            and self.series.equals(other.series)
            and self.objects.equals(other.objects)
        )

    __hash__ = None  # type: ignore[assignment]

    # Rows.

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """Give ``series``, ``action`` or ``size`` as an array of numpy."""
        return numpy_of(one(self.objects.column(name)))

    @cached_property
    def _series_rows(self) -> list[tuple[str, str, str, int | None, int | None]]:
        names = "crdc_series_uuid", "aws_bucket", "folder", "instanceCount", "size"
        columns = (self.series.column(name).to_pylist() for name in names)
        return list(zip(*columns, strict=True))

    def folder(self, series: int) -> str:
        """Give the folder of a series below the target."""
        return self._series_rows[series][2]

    def bucket(self, series: int) -> str:
        """Give the AWS bucket of a series."""
        return self._series_rows[series][1]

    def key(self, row: Row) -> str:
        """Give the key of an object below its bucket's root."""
        return f"{self._series_rows[row.series][0]}/{row.name}{SUFFIX}"

    def path(self, row: Row) -> str:
        """Give the path of an object below the target, with ``/`` between the parts."""
        folder = self._series_rows[row.series][2]
        return f"{folder}/{row.file}" if folder else row.file

    def url(self, row: Row, mirror: Mirror | None = None) -> str:
        """Give the URL of an object; of a series that is not listed its folder."""
        place = self.mirror if mirror is None else mirror
        root = place.bucket_root(self._series_rows[row.series][1])
        if not row.name:
            return f"{root}/{self._series_rows[row.series][0]}/"
        return f"{root}/{self.key(row)}"

    def rows(
        self, start: int = 0, stop: int | None = None, *, moved: bool = False
    ) -> Iterator[Row]:
        """Give rows as plain values, some thousand at once.

        Parameters
        ----------
        start, stop : int
            Rows to give; None is the end.
        moved : bool
            Only those that are fetched or replaced.
        """
        wanted = range(start, len(self) if stop is None else stop)
        for first in range(0, len(wanted), AT_ONCE):
            some: Sequence[int] = wanted[first : first + AT_ONCE]
            if moved:
                those = self.moved[some[0] : some[-1] + 1].nonzero()[0]
                if len(those) < len(some):
                    some = (those + some[0]).tolist()
            yield from self.rows_of(some)

    def rows_of(self, numbers: Sequence[int]) -> Iterator[Row]:
        """Give some rows as plain values, in the order of their numbers here."""
        names = "action", "series", "name", "file", "size", "etag", "md5"
        for start in range(0, len(numbers), AT_ONCE):
            some = numbers[start : start + AT_ONCE]
            first, many = min(some), max(some) + 1 - min(some)
            part = self.objects.slice(first, many).select(names)
            if not (isinstance(some, range) and some.step == 1):
                part = part.take(integers([number - first for number in some]))
            action, series, name, file, *rest = (
                part.column(column).to_pylist() for column in names
            )
            own = [
                given or (stem and f"{stem}{SUFFIX}")
                for given, stem in zip(file, name, strict=True)
            ]
            columns = some, action, series, name, own, *rest
            yield from map(Row._make, zip(*columns, strict=True))

    def step(self, row: int) -> Step:
        """Give one row as a step."""
        return self.step_of(next(self.rows(row, row + 1)))

    def step_of(self, row: Row) -> Step:
        """Give a row as a step."""
        uuid, bucket, folder, count, size = self._series_rows[row.series]
        part = Part(uuid, bucket, count, size)
        key = self.key(row) if row.name else f"{uuid}/"
        md5 = row.md5.hex() if row.md5 is not None else None
        instance = Instance(part, key, row.size, self.url(row), row.etag, md5)
        path = self.path(row) if row.name else folder
        return Step(ACTIONS[row.action], path, instance, self.reasons.get(row.row, ""))

    @property
    def steps(self) -> Sequence[Step]:
        """One for each object, in the order of the manifest."""
        return Steps(self)

    @property
    def paths(self) -> list[Path | str]:
        """Full path of every object, in order; in a store its URL."""
        return [self.below(self.path(row)) for row in self.rows() if row.name]

    def below(self, path: str) -> Path | str:
        """Give the full path, or URL, of what lies below the target."""
        if isinstance(self.target, str):
            return f"{self.target}/{path}" if path else self.target
        return self.target / path

    # Sums.

    @cached_property
    def counts(self) -> dict[str, int]:
        """Number of objects by action; of ``unlisted`` it is the number of series.

        ``fetch``, ``keep`` and ``replace`` are always there, the others where they
        are not 0.
        """
        import numpy as np

        many = np.bincount(self.column("action"), minlength=len(ACTIONS)).tolist()
        found = dict(zip(ACTIONS, many, strict=True))
        usual = {name: found.pop(name) for name in ("fetch", "keep", "replace")}
        return usual | {name: count for name, count in found.items() if count}

    @cached_property
    def size(self) -> int:
        """Bytes of all objects, those that are there included."""
        return int(self.column("size").sum())

    @cached_property
    def fetch_size(self) -> int:
        """Bytes that will be fetched."""
        return int(self.column("size")[self.moved].sum())

    @cached_property
    def moved(self) -> np.ndarray[Any, Any]:
        """Whether each row is fetched or replaced: bool, one for each object."""
        import numpy as np

        action = self.column("action")
        found: np.ndarray[Any, Any] = np.logical_or(
            action == MOVED[0], action == MOVED[1]
        )
        return found

    @property
    def seconds(self) -> float | None:
        """Seconds that it will take at the rate that was measured; None without one."""
        if self.rate is None:
            return None
        objects = int(self.moved.sum())
        return max(self.fetch_size / self.rate.size, objects / self.rate.objects)

    def by(self, column: str) -> dict[str, dict[str, int]]:
        """Count objects, bytes, and bytes to fetch, by a column of the series.

        Parameters
        ----------
        column : str
            ``collection_id``, ``Modality``, ``license_short_name``, or any column that
            the layout names.

        Raises
        ------
        PlanError
            The plan does not hold the column.
        """
        import numpy as np

        if column not in self.series.column_names:
            held = ", ".join(self.series.column_names)
            msg = f"the plan holds no column {column!r}; it holds {held}"
            raise PlanError(msg, column=column)
        coded = one(self.series.column(column).cast("string")).dictionary_encode()
        names = list(coded.dictionary.to_pylist())
        codes = np.array(
            [len(names) if c is None else c for c in coded.indices.to_pylist()]
        )
        of = codes[self.column("series")] if len(self) else np.zeros(0, np.int64)
        size, many = self.column("size"), len(names) + 1
        sums = {
            "objects": np.bincount(of, minlength=many),
            "size": np.bincount(of, size, many),
            "fetch_size": np.bincount(of, size * self.moved, many),
        }
        return {
            name if name is not None else "unknown": {
                what: int(values[code]) for what, values in sums.items()
            }
            for code, name in enumerate([*names, None])
            if sums["objects"][code]
        }

    # Judgement.

    def check(self) -> None:
        """Refuse a plan in which objects collide, or paths cannot be written.

        Raises
        ------
        PlanError
            It is such; ``details["problems"]`` has path, action and reason of each.
        """
        problems = tuple(
            (step.path, step.action, step.reason)
            for step in map(self.step_of, self.rows_of(sorted(self.reasons)))
            if step.action in ("collide", "refuse")
        )
        if problems:
            more = f" (and {len(problems) - 1:,} more)" if len(problems) > 1 else ""
            raise PlanError(f"{problems[0][2]}{more}", problems=problems)

    def _items(self) -> list[tuple[str, object]]:
        items: list[tuple[str, object]] = [
            ("objects", f"{len(self):,} ({display.bytes_text(self.size)})"),
            ("to fetch", f"{self.counts['fetch']:,}"),
            ("to replace", f"{self.counts['replace']:,}"),
            ("there already", f"{self.counts['keep']:,}"),
            ("bytes to fetch", display.bytes_text(self.fetch_size)),
        ]
        words = {
            "collide": "colliding",
            "refuse": "refused",
            "unlisted": "series not listed",
        }
        if self.delete:
            items.append(("to delete", f"{len(self.delete):,}"))
        if self.seconds is not None and self.fetch_size:
            items.append(("time", f"about {_duration(self.seconds)}"))
        items += [
            (word, f"{self.counts[action]:,}")
            for action, word in words.items()
            if action in self.counts
        ]
        return items

    def _tables(self) -> Iterator[tuple[str, list[str], list[list[object]]]]:
        """Give what is to be fetched, by what people ask for: title, header, rows."""
        for column in COUNTED_BY:
            if column not in self.series.column_names:
                continue
            found = sorted(self.by(column).items(), key=lambda item: -item[1]["size"])
            rows: list[list[object]] = [
                [name, sums["objects"], *map(_size, (sums["size"], sums["fetch_size"]))]
                for name, sums in found[:SHOWN]
            ]
            if len(found) > SHOWN:
                rows.append([f"and {len(found) - SHOWN:,} more", None, "", ""])
            yield column, [column, "objects", "size", "to fetch"], rows

    def _problems(self) -> tuple[list[Step], str]:
        """Give the first of what has a reason, and how many more there are."""
        rows = sorted(self.reasons)[:SHOWN]
        return list(map(self.step_of, self.rows_of(rows))), _more(self.reasons)

    def __repr__(self) -> str:
        counts = ", ".join(f"{name} {many:,}" for name, many in self.counts.items())
        return f"<Plan of a copy to {self.target}: {counts}>"

    def __str__(self) -> str:
        lines = [display.pairs(f"Copy to {self.target}", self._items())]
        some, more = self._problems()
        lines += [f"  {step.action}: {step.path}: {step.reason}" for step in some]
        lines += [f"  {more}"] if more else []
        lines += [f"  delete: {path}" for path in self.delete[:SHOWN]]
        lines += [f"  {_more(self.delete)}"] if _more(self.delete) else []
        tables = [display.rows(header, rows) for _, header, rows in self._tables()]
        return "\n\n".join(["\n".join(lines), *tables])

    def _repr_html_(self) -> str:
        text = display.pairs_html(f"Copy to {self.target}", self._items())
        some, more = self._problems()
        if some:
            rows = [(step.action, step.path, step.reason) for step in some]
            header = ["action", "path", "reason"]
            text += display.rows_html("Not copied", header, rows, more)
        if self.delete:
            paths = [(path,) for path in self.delete[:SHOWN]]
            text += display.rows_html("Deleted", ["path"], paths, _more(self.delete))
        return text + "".join(
            display.rows_html(name, header, rows)
            for name, header, rows in self._tables()
        )


def _more(found: Sized) -> str:
    more = len(found) - SHOWN
    return f"and {more:,} more" if more > 0 else ""


def _size(size: int) -> str:
    return display.bytes_text(size)


def _duration(seconds: float) -> str:
    """Give a duration as people say it: ``3 s``, ``4 min``, ``2 h 5 min``."""
    if seconds < 100:  # noqa: PLR2004
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    hours, rest = divmod(minutes, 60)
    return f"{hours:,} h {rest} min" if hours else f"{minutes} min"
