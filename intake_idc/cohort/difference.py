"""How two releases differ, or two cohorts: a value, a table, a text."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from intake_idc import display
from intake_idc.release import Release, difference

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from intake_idc.release.difference import Series
    from intake_idc.selection import Selection

__all__ = ["Difference", "compare"]

KINDS = ("added", "removed", "revised", "changed")
SIZES = (
    "added_bytes",
    "removed_bytes",
    "revised_old_bytes",
    "revised_new_bytes",
    "changed_bytes",
)
SHOWN = 10
"""Collections that the text spells out."""
EACH = 3
"""Changes of one attribute that the text spells out."""


@dataclass(frozen=True, eq=False)
class Difference:
    """How a cohort, or all of IDC, differs between two releases.

    What is listed is in the order of collection and SeriesInstanceUID. It is true
    where there is any difference.
    """

    old: int
    """The older release."""
    new: int
    """The newer release."""
    table: pa.Table = field(repr=False)
    """A row for each series that differs: ``SeriesInstanceUID``, ``collection_id``,
    ``kind`` ("added", "removed", "revised", "changed"), ``old_crdc_series_uuid``,
    ``new_crdc_series_uuid``, ``old_bytes``, ``new_bytes``, and ``changed``, the names
    of the attributes that changed."""
    by_collection: pa.Table = field(repr=False)
    """A row for each collection of either release: the number of series ``added``,
    ``removed``, ``revised``, ``unchanged`` and ``changed``, and their bytes in
    ``added_bytes``, ``removed_bytes``, ``revised_old_bytes``, ``revised_new_bytes``,
    ``unchanged_bytes``, ``changed_bytes``. What is not known is null."""
    attributes: pa.Table = field(repr=False)
    """A row for each change of an attribute: ``attribute``, ``collection_id``, the
    values ``before`` and ``after``, and ``series`` and ``bytes`` that it is of."""
    attributes_compared: bool = False
    """Whether attributes were compared; where not, nothing is known of them."""
    attributes_note: str = ""
    """Why they were not, or what the comparison cannot see."""
    columns_compared: tuple[str, ...] = field(default=(), repr=False)
    """Attributes that were compared."""
    columns_left_out: tuple[str, ...] = field(default=(), repr=False)
    """Attributes that only one of the releases has."""
    sources: tuple[str, str] = ("", "")
    """Where the older and the newer release were read from."""
    unsure: tuple[str, ...] = ()
    """Of a release that is not surely what was published: how it stands, in words."""

    def _uids(self, kind: str) -> tuple[str, ...]:
        import pyarrow.compute as pc

        kept = self.table.filter(pc.equal(self.table.column("kind"), kind))
        return tuple(sorted(kept.column("SeriesInstanceUID").to_pylist()))

    @cached_property
    def added(self) -> tuple[str, ...]:
        """SeriesInstanceUIDs that only the newer release has, sorted."""
        return self._uids("added")

    @cached_property
    def removed(self) -> tuple[str, ...]:
        """SeriesInstanceUIDs that only the older release has, sorted."""
        return self._uids("removed")

    @cached_property
    def revised(self) -> tuple[str, ...]:
        """SeriesInstanceUIDs that both have, with other bytes, sorted."""
        return self._uids("revised")

    @cached_property
    def changed(self) -> tuple[str, ...]:
        """SeriesInstanceUIDs with the same bytes and another attribute, sorted.

        Empty also where attributes were not compared; see ``attributes_compared``.
        """
        return self._uids("changed")

    @cached_property
    def counts(self) -> dict[str, int | None]:
        """Number of series of each kind; None where it is not known.

        Those that are changed are counted among the unchanged too, which are the same
        bytes.
        """
        return {kind: self._sum(kind) for kind in (*KINDS, "unchanged")}

    @cached_property
    def bytes(self) -> dict[str, int | None]:
        """Bytes of each kind, those of revised series before and after."""
        names = [
            name.removesuffix("_bytes")
            for name in self.by_collection.column_names
            if name.endswith("_bytes")
        ]
        return {name: self._sum(f"{name}_bytes") for name in names}

    @property
    def unchanged(self) -> int:
        """Number of series that are the same bytes in both."""
        return self._sum("unchanged") or 0

    def _sum(self, name: str) -> int | None:
        import pyarrow.compute as pc

        if name.startswith("changed") and not self.attributes_compared:
            return None
        return int(pc.sum(self.by_collection.column(name)).as_py() or 0)

    @property
    def df(self) -> pd.DataFrame:
        """The same as a pandas data frame."""
        return self.table.to_pandas()

    def __bool__(self) -> bool:
        return bool(self.table.num_rows)

    @property
    def _value(self) -> tuple[object, ...]:
        return (self.old, self.new, self.attributes_compared, self.columns_compared)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Difference):
            return NotImplemented
        return (
            self._value == other._value
            and self.table.equals(other.table)
            and self.by_collection.equals(other.by_collection)
            and self.attributes.equals(other.attributes)
        )

    def __hash__(self) -> int:
        return hash((*self._value, self.table.num_rows))

    # Showing.

    @property
    def _title(self) -> str:
        return f"From release {self.old} to {self.new}"

    def _items(self) -> list[tuple[str, object]]:
        size = {
            name: "" if number is None else display.bytes_text(number)
            for name, number in self.bytes.items()
        }
        count = {
            name: "" if number is None else display.count_text(number, "series")
            for name, number in self.counts.items()
        }
        revised = f"{size['revised_old']} before, {size['revised_new']} after"
        changed = "not known"
        if self.attributes_compared:
            changed = f"{count['changed']} of these have other attributes"
        items: list[tuple[str, object]] = [
            ("added", f"{count['added']}, {size['added']}"),
            ("removed", f"{count['removed']}, {size['removed']}"),
            ("revised", f"{count['revised']}, {revised}"),
            ("unchanged", f"{count['unchanged']}, {size['unchanged']}"),
            ("changed", changed),
        ]
        items += [("not exact", words) for words in self.unsure]
        if self.attributes_note:
            items.append(("note", self.attributes_note))
        if self.columns_left_out:
            left_out = ", ".join(self.columns_left_out)
            items.append(("left out", f"in one release only: {left_out}"))
        return items

    def _collections(self) -> tuple[list[str], list[list[object]], str]:
        """Collections that differ, those with the most bytes first."""
        kinds = [
            kind for kind in KINDS if kind != "changed" or self.attributes_compared
        ]
        found = [
            row
            for row in self.by_collection.to_pylist()
            if any(row[kind] for kind in kinds)
        ]
        moved = ("added_bytes", "removed_bytes", "revised_new_bytes")
        found.sort(
            key=lambda row: (-sum(row[name] for name in moved), -row["unchanged"])
        )
        body: list[list[object]] = [
            [
                row["collection_id"],
                *(row[kind] for kind in kinds),
                display.bytes_text(sum(row[name] for name in moved)),
            ]
            for row in found[:SHOWN]
        ]
        if len(self.by_collection) == 1:
            body = []  # It says no more than the lines above.
        more = len(found) - SHOWN
        rest = f"and {display.count_text(more, 'collection')} more" if more > 0 else ""
        return ["collection_id", *kinds, "bytes"], body, rest

    def _attributes(self) -> tuple[list[str], list[list[object]], str]:
        """Changes of attributes over all collections, licences first."""
        totals: dict[str, dict[tuple[str | None, str | None], list[int]]] = {}
        for row in self.attributes.to_pylist():
            values = row["before"], row["after"]
            changes = totals.setdefault(row["attribute"], {})
            total = changes.setdefault(values, [0, 0])
            total[0] += row["series"]
            total[1] += row["bytes"]
        body: list[list[object]] = []
        for name, changes in totals.items():
            # Every attribute is named, before any is spelt out.
            ranked = sorted(changes.items(), key=lambda item: (-item[1][0], str(item)))
            body += [
                [name, before, after, series, display.bytes_text(size)]
                for (before, after), (series, size) in ranked[:EACH]
            ]
        more = sum(map(len, totals.values())) - len(body)
        rest = f"and {display.count_text(more, 'change')} more" if more > 0 else ""
        return ["attribute", "before", "after", "series", "bytes"], body, rest

    def _tables(self) -> dict[str, tuple[list[str], list[list[object]], str]]:
        tables = {
            "By collection": self._collections(),
            "Attributes": self._attributes(),
        }
        return {title: table for title, table in tables.items() if table[1]}

    def __str__(self) -> str:
        parts = [display.pairs(self._title, self._items())]
        for header, body, rest in self._tables().values():
            parts.append("\n".join(filter(None, [display.rows(header, body), rest])))
        return "\n\n".join(parts)

    def _repr_html_(self) -> str:
        parts = [display.pairs_html(self._title, self._items())]
        parts += [
            display.rows_html(title, header, body, rest)
            for title, (header, body, rest) in self._tables().items()
        ]
        return "".join(parts)


def compare(
    old: Series, old_selection: Selection, new: Series, new_selection: Selection
) -> Difference:
    """Compare what is selected from two releases, the older first by its number.

    Of one number, what is given first is the older.
    """
    if new.idc_version < old.idc_version:
        old, new = new, old
        old_selection, new_selection = new_selection, old_selection
    found = difference.compare(old, old_selection, new, new_selection)
    attributes = found.attributes
    return Difference(
        old.idc_version,
        new.idc_version,
        table=found.table,
        by_collection=_by_collection(found),
        attributes=found.changes,
        attributes_compared=attributes.compared,
        attributes_note=attributes.note,
        columns_compared=attributes.columns,
        columns_left_out=attributes.left_out,
        sources=(old.source, new.source),
        unsure=tuple(filter(None, map(_unsure, (old, new)))),
    )


def _unsure(rows: Series) -> str:
    """Say how a release stands that is not surely what was published."""
    doubt = rows.doubt if isinstance(rows, Release) else None
    return "" if doubt is None else f"release {rows.idc_version}: {doubt}"


def _by_collection(found: difference.Compared) -> pa.Table:
    """Count series and bytes by collection; the rest of a release is unchanged."""
    import pyarrow as pa

    zero = dict.fromkeys((*KINDS, *SIZES), 0)
    rows: dict[str, dict[str, Any]] = {
        name: {**zero, "unchanged": series, "unchanged_bytes": size}
        for name, (series, size) in found.totals.items()
    }
    counted = found.table.group_by(["collection_id", "kind"]).aggregate(
        [("old_bytes", "sum"), ("new_bytes", "sum"), ([], "count_all")]
    )
    for item in counted.to_pylist():
        name, kind, count = item["collection_id"], item["kind"], item["count_all"]
        before, after = item["old_bytes_sum"] or 0, item["new_bytes_sum"] or 0
        none = {**zero, "unchanged": 0, "unchanged_bytes": 0}
        row = rows.setdefault(name, none)
        row[kind] = count
        if kind == "revised":
            row["revised_old_bytes"], row["revised_new_bytes"] = before, after
        else:
            row[f"{kind}_bytes"] = before if kind == "removed" else after
        if kind in ("added", "revised"):
            row["unchanged"] -= count
            row["unchanged_bytes"] -= after
    if not found.attributes.compared:
        for row in rows.values():
            row["changed"] = row["changed_bytes"] = None
    names = sorted(rows, key=str)
    counts = ("added", "removed", "revised", "unchanged", "changed")
    columns = [*counts, *SIZES[:4], "unchanged_bytes", "changed_bytes"]
    return pa.table(
        {"collection_id": pa.array(names, pa.string())}
        | {
            column: pa.array([rows[name][column] for name in names], pa.int64())
            for column in columns
        }
    )
