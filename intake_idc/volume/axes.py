"""What tells slices of one place apart: time, echo, b-value, part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from intake_idc.volume.slices import Slice

STATED = (
    ("segment", "segment"),
    ("temporal_position", "time"),
    ("echo_time", "echo"),
    ("echo_numbers", "echo"),
    ("b_value", "b_value"),
    ("image_type", "part"),
)
"""Fields that mean an axis, and its name, in the order in which they are tried."""
RANKED = (
    ("trigger_time", "time"),
    ("acquisition_number", "acquisition"),
    ("acquisition_time", "time"),
    ("content_time", "time"),
    ("instance_number", "instance"),
    ("frame", "frame"),
)
"""Fields that may differ from place to place, and still order what lies at each."""
_NAMES = dict(STATED + RANKED)


@dataclass(frozen=True)
class Axis:
    """A leading axis: what tells slices of the same place apart."""

    name: str
    """``time``, ``echo``, ``b_value``, ``part``, ``segment``, ``acquisition``,
    ``instance``, ``frame``; joined by ``_`` where it takes two."""
    fields: tuple[str, ...]
    """Fields of `Slice` that it comes from."""
    values: tuple[Any, ...]
    """One for each step along the axis, ascending; tuples where it takes two fields.
    Of the first slice of the stack, where `shared` is false."""
    shared: bool
    """Whether the values are the same at every place. Where each slice has its own
    time, they are not, and slices of equal rank belong together."""

    def __len__(self) -> int:
        return len(self.values)


def key(one: Slice, fields: Iterable[str]) -> tuple[Any, ...]:
    """Values to sort by: what is missing comes first."""
    values = (getattr(one, field) for field in fields)
    return tuple((value is not None, 0 if value is None else value) for value in values)


def keys(place: Sequence[Slice], fields: Sequence[str]) -> list[tuple[Any, ...]]:
    """Give the values of the slices of a place, sorted."""
    return sorted(key(one, fields) for one in place)


def _shared(places: Sequence[Sequence[Slice]], fields: Sequence[str]) -> int:
    """How many values there are, where each place has the same; else 0."""
    first = keys(places[0], fields)
    same = all(keys(place, fields) == first for place in places[1:])
    return len(set(first)) if same else 0


def _prefix(places: Sequence[Sequence[Slice]]) -> tuple[str, ...]:
    """Stated fields that together part the slices of each place as far as they can."""
    fields: tuple[str, ...] = ()
    parts = 1
    for field, _ in STATED:
        finer = _shared(places, (*fields, field))
        if finer > parts:
            fields, parts = (*fields, field), finer
    return fields


def telling(
    places: Sequence[Sequence[Slice]],
) -> tuple[tuple[str, ...], bool] | None:
    """Find the fields that tell the slices of every place apart.

    Returns
    -------
    tuple or None
        The fields, and whether their values are the same everywhere.
    """
    many = len(places[0])
    prefix = _prefix(places)
    for fields in [*((field,) for field, _ in STATED), prefix]:
        if fields and _shared(places, fields) == many:
            return fields, True
    if any(_at_odds(places, field) for field, _ in STATED[:-1]):
        return None
    for field, _ in RANKED:
        if _shared(places, (*prefix, field)) == many:
            return (*prefix, field), True
    for field, _ in RANKED:
        own = (*prefix, field)
        if all(len(set(keys(place, own))) == many for place in places):
            return own, False
    return None


def _at_odds(places: Sequence[Sequence[Slice]], field: str) -> bool:
    """Whether a field varies at a place, and otherwise elsewhere: no rank mends it."""
    varies = any(len(set(keys(place, (field,)))) > 1 for place in places)
    return varies and not _shared(places, (field,))


def axis_of(place: Sequence[Slice], fields: tuple[str, ...], *, shared: bool) -> Axis:
    """Make the axis of fields, from the slices of one place in order."""
    columns = [_values(place, field) for field in fields]
    values = columns[0] if len(fields) == 1 else list(zip(*columns, strict=True))
    names = [_NAMES[field] for field in fields]
    if names in (["instance"], ["acquisition"]) and all(
        one.temporal_positions == len(place) for one in place
    ):
        # NumberOfTemporalPositions says what it is, where no element says which.
        names = ["time"]
    name = "_".join(dict.fromkeys(names))
    return Axis(name, fields, tuple(values), shared)


def _values(place: Sequence[Slice], field: str) -> list[Any]:
    values = [getattr(one, field) for one in place]
    if field == "echo_numbers":
        return [v[0] if v and len(v) == 1 else v for v in values]
    if field != "image_type":
        return values
    # Only the parts of ImageType that differ: M_FFE of ORIGINAL\PRIMARY\M_FFE.
    width = max(map(len, values))
    padded = [value + ("",) * (width - len(value)) for value in values]
    differ = [at for at in range(width) if len({value[at] for value in padded}) > 1]
    return ["\\".join(value[at] for at in differ) for value in padded]


def unlike(places: Sequence[Sequence[Slice]]) -> tuple[str, ...]:
    """Stated fields that tell slices of a place apart, and not alike at each place.

    ImageType is left out: it may say something of a single slice.
    """
    for fields in [(field,) for field, _ in STATED[:-1]]:
        if _shared(places, fields):
            continue
        if all(len(set(keys(place, fields))) == len(place) for place in places):
            return fields
    return ()
