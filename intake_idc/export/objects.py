"""The objects of series, known by name, size and hash without a listing.

A listing says what a mirror holds today. The export says what a release holds: one
row for each object, with its MD5. Rows of it, held against the index once, take the
place of every listing.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID

from intake_idc.arrow import (
    binary,
    integers,
    one,
    pack_uuids,
    packed,
    packed_bytes,
    texts,
    unpack_uuids,
)
from intake_idc.errors import IntegrityError, MissingError, RequestError
from intake_idc.manifest import OBJECTS, ONLY, Manifest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    import numpy as np
    import pyarrow as pa

    from intake_idc.manifest import Part

__all__ = ["ObjectTable", "series_hash"]

SHOWN = 3
"""Series that an error names; the others are counted."""

_MD5 = r"\A[0-9a-f]{32}\z"


def series_hash(hashes: Iterable[str]) -> str:
    """Give IDC's hash of a series: the MD5 of the sorted MD5s of its objects, in hex.

    >>> series_hash(["b" * 32, "a" * 32]) == series_hash(["a" * 32, "b" * 32])
    True
    """
    together = "".join(sorted(hashes)).encode()
    return hashlib.md5(together, usedforsecurity=False).hexdigest()


class ObjectTable:
    """Rows of objects, packed and sorted by series and key.

    Parameters
    ----------
    table : pyarrow.Table
        ``crdc_instance_uuid`` and ``instance_size``, and ``crdc_series_uuid`` or
        ``SeriesInstanceUID``; ``instance_hash`` and ``series_hash`` where they are
        known. Rows of other series than the manifest's are left out.
    manifest : Manifest
        The series.

    Raises
    ------
    RequestError
        A column is missing, or holds nulls or what is no uuid, size or MD5.
    """

    def __init__(self, table: pa.Table, manifest: Manifest) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        table = _named(table, manifest)
        known = pc.is_in(
            table.column("crdc_series_uuid"),
            value_set=pa.array(manifest.uuids, pa.string()),
        )
        table = table.filter(known).sort_by(
            [("crdc_series_uuid", "ascending"), ("crdc_instance_uuid", "ascending")]
        )
        table = table.combine_chunks()
        runs = pc.run_end_encode(one(table.column("crdc_series_uuid")))
        self._series = runs.values.cast(pa.string())
        ends = runs.run_ends.to_pylist()
        self._bounds = [0, *ends]
        hashed = "instance_hash" in table.column_names
        nothing = pa.nulls(table.num_rows, pa.string())
        md5 = one(table.column("instance_hash")) if hashed else nothing
        size = one(table.column("instance_size"))
        if size.null_count:
            msg = "a table of objects needs instance_size in every row; some are null"
            raise RequestError(msg, column="instance_size")
        self._rows = pa.StructArray.from_arrays(
            [
                _packed_uuids(one(table.column("crdc_instance_uuid"))),
                size,
                _packed_hashes(md5),
            ],
            names=["uuid", "size", "md5"],
        )
        stated = "series_hash" in table.column_names
        self._stated = one(table.column("series_hash")) if stated else None
        named = "SOPInstanceUID" in table.column_names
        self._sop = one(table.column("SOPInstanceUID")) if named else None

    @cached_property
    def digest(self) -> str:
        """SHA-256 over series, names, sizes and hashes, as hex."""
        sha = hashlib.sha256("\n".join(self._series.to_pylist()).encode())
        sha.update(repr(self._bounds).encode())
        sha.update(self._sizes.tobytes())
        for name in ("uuid", "md5"):
            values = self._rows.field(name).to_pylist()
            sha.update(b"".join(value or bytes(16) for value in values))
        return sha.hexdigest()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ObjectTable):
            return NotImplemented
        return self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __dask_tokenize__(self) -> tuple[str, str]:
        return "intake_idc.ObjectTable", self.digest

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<ObjectTable: {len(self):,} objects of {len(self._series):,} series>"

    @cached_property
    def _place(self) -> dict[str, int]:
        return {uuid: i for i, uuid in enumerate(self._series.to_pylist())}

    def missing(self, manifest: Manifest) -> list[str]:
        """Give the series of a manifest that have no row."""
        return [uuid for uuid in manifest.uuids if uuid not in self._place]

    def check(self, manifest: Manifest, *, whole: bool = False) -> None:
        """Hold the rows against the index: each series whole, and nothing twice.

        Of a series of which only some instances are meant, fewer rows will do: those.
        They cannot be held against count, bytes and hash of the series, but for being
        no more than it has. ``whole`` demands every row of such a series too.

        Raises
        ------
        MissingError
            A series has no row, or an instance that is meant has none.
        IntegrityError
            Count or bytes are not those of the index, an object is there twice, or
            the hash of a series is not that of its objects.
        """
        missing = self.missing(manifest)
        if missing:
            more = len(missing) - SHOWN
            listed = ", ".join(missing[:SHOWN])
            rest = f" and {more:,} more" if more > 0 else ""
            msg = f"the table of objects has no row for series {listed}{rest}"
            raise MissingError(msg, series=missing)
        import numpy as np

        sums = np.concatenate([[0], np.cumsum(self._sizes)])
        in_part = set()
        for part in manifest.parts():
            at = self._place[part.crdc_series_uuid]
            first, last = self._bounds[at], self._bounds[at + 1]
            count, size = last - first, int(sums[last] - sums[first])
            unlike = part.unlike(count, size)
            if unlike is not None and not whole and _may_be_of(part, count, size):
                in_part.add(at)
            elif unlike is not None:
                msg = f"the table of objects has of {part.crdc_series_uuid} {unlike}"
                raise IntegrityError(
                    msg, series=part.crdc_series_uuid, count=count, size=size
                )
        self._check_twice()
        self._check_hashes(in_part)
        self._meant(manifest)

    @property
    def _sizes(self) -> np.ndarray[Any, Any]:
        sizes: np.ndarray[Any, Any] = self._rows.field("size").to_numpy()
        return sizes

    def _check_twice(self) -> None:
        uuids = self._rows.field("uuid")
        same = _equal_to_next(uuids)
        starts = set(self._bounds)
        for at in same:
            if at + 1 not in starts:
                uuid = UUID(bytes=uuids[at].as_py())
                msg = f"object {uuid} is there twice in the table of objects"
                raise IntegrityError(msg, crdc_instance_uuid=str(uuid))

    def _check_hashes(self, in_part: Collection[int]) -> None:
        md5 = self._rows.field("md5")
        if self._stated is None:
            return
        for at, uuid in enumerate(self._series.to_pylist()):
            first, last = self._bounds[at], self._bounds[at + 1]
            if at in in_part or md5[first:last].null_count:
                continue
            stated = set(self._stated[first:last].to_pylist())
            own = series_hash(v.hex() for v in md5[first:last].to_pylist())
            if stated not in ({own}, {None}):
                msg = (
                    f"series {uuid} has the hash {own} by the hashes of its objects; "
                    f"its series_hash is {', '.join(map(str, stated))}"
                )
                raise IntegrityError(msg, series=uuid, found=own)

    def as_published(self, manifest: Manifest) -> pa.Table:
        """Give the rows as a table with readable columns, for a file.

        Of series of which only some instances are meant, it has those.
        """
        import numpy as np
        import pyarrow as pa

        buckets = dict(
            zip(
                manifest.uuids,
                manifest.table.column("aws_bucket").to_pylist(),
                strict=True,
            )
        )
        columns: dict[str, Any] = {name: [] for name in ("series", "bucket", "key")}
        uuids = unpack_uuids(self._rows.field("uuid")).to_pylist()
        md5 = self._rows.field("md5").to_pylist()
        for at, series in enumerate(self._series.to_pylist()):
            first, last = self._bounds[at], self._bounds[at + 1]
            columns["series"] += [series] * (last - first)
            columns["bucket"] += [buckets[series]] * (last - first)
            columns["key"] += [f"{series}/{u}.dcm" for u in uuids[first:last]]
        text = pa.string()
        found = {
            "crdc_series_uuid": pa.array(columns["series"], text),
            "crdc_instance_uuid": pa.array(uuids, text),
            "SOPInstanceUID": self._sop,
            "instance_size": self._rows.field("size"),
            "instance_hash": pa.array([v and v.hex() for v in md5], text),
            "series_hash": self._stated,
            "aws_bucket": pa.array(columns["bucket"], text),
            "key": pa.array(columns["key"], text),
        }
        table = pa.table(
            {n: column for n, column in found.items() if column is not None}
        )
        if not manifest.has_subsets:
            return table
        return table.take(np.unique(self._meant(manifest)[1]))

    def uids(self, keys: pa.Array) -> pa.Array | None:
        """Give the ``SOPInstanceUID`` of objects, where the table had the column.

        A key is ``<crdc_series_uuid>/<crdc_instance_uuid>``.
        """
        if self._sop is None:
            return None
        import pyarrow.compute as pc

        return self._sop.take(pc.index_in(keys, value_set=self._keys))

    def sops(self) -> dict[str, str]:
        """Give the ``SOPInstanceUID`` by key, as `uids` does, of every object."""
        if self._sop is None:
            return {}
        both = zip(self._keys.to_pylist(), self._sop.to_pylist(), strict=True)
        return {key: uid for key, uid in both if uid is not None}

    def series_hashes(self) -> dict[str, str]:
        """Give IDC's hash of each series by its uuid, where the table states one."""
        if self._stated is None:
            return {}
        first = self._stated.take(integers(self._bounds[:-1])).to_pylist()
        both = zip(self._series.to_pylist(), first, strict=True)
        return {uuid: own for uuid, own in both if own is not None}

    @cached_property
    def _keys(self) -> pa.Array:
        import pyarrow.compute as pc

        series = self._series.take(integers(self._owners.tolist()))
        names = unpack_uuids(self._rows.field("uuid"))
        return pc.binary_join_element_wise(series, names, texts(["/"])[0])

    @property
    def _owners(self) -> np.ndarray[Any, Any]:
        """Position of the series of each row."""
        import numpy as np

        return np.repeat(np.arange(len(self._series)), np.diff(self._bounds))

    def attach(self, manifest: Manifest) -> Manifest:
        """Give a manifest whose rows carry their objects.

        Raises
        ------
        RequestError
            The manifest was split: attach before that, each run then has its own.
        MissingError
            A series has no row, or an instance that is meant has none.
        """
        import pyarrow as pa

        if {"first_instance", "last_instance"} & set(manifest.columns):
            msg = "objects are attached to a manifest before it is split, not after"
            raise RequestError(msg)
        missing = self.missing(manifest)
        if missing:
            msg = (
                f"series {missing[0]} is not among those whose objects are known; "
                "attach a table of this cohort's objects"
            )
            raise MissingError(msg, series=missing)
        offsets, rows = self._meant(manifest)
        lists = pa.LargeListArray.from_arrays(
            pa.array(offsets, pa.int64()), self._rows.take(pa.array(rows, pa.int64()))
        )
        table = manifest.table.append_column(OBJECTS, lists)
        return Manifest(table, manifest.idc_version, manifest.origin)

    def _meant(
        self, manifest: Manifest
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Give the rows of each series of a manifest, as offsets and rows.

        All rows of a series are taken, or those of the instances that are meant.
        """
        import numpy as np

        places = np.array([self._place[uuid] for uuid in manifest.uuids], np.int64)
        bounds = np.array(self._bounds, np.int64)
        starts, lengths = bounds[places], bounds[places + 1] - bounds[places]
        subsets = manifest.has_subsets
        if subsets:
            import pyarrow.compute as pc

            column = manifest.table.column(ONLY)
            counts = pc.list_value_length(column).to_numpy()
            named = ~np.isnan(counts)
            lengths = np.where(named, np.nan_to_num(counts), lengths).astype(np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        rows = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
        if subsets:
            own = np.repeat(named, lengths)
            series = np.repeat(places, lengths)[own]
            rows[own] = self._find(series, column.combine_chunks().flatten())
        return offsets, rows

    def _find(
        self, places: np.ndarray[Any, Any], uuids: pa.Array
    ) -> np.ndarray[Any, Any]:
        """Give the row of each of these objects, by the position of its series."""
        import pyarrow.compute as pc

        known = _keyed(self._owners, self._rows.field("uuid"))
        found = pc.index_in(_keyed(places, uuids), value_set=known)
        if found.null_count:
            first = found.to_pylist().index(None)
            uuid, series = UUID(bytes=uuids[first].as_py()), self._series[places[first]]
            msg = (
                f"the table of objects has no row for instance {uuid} of series "
                f"{series}, which is meant, and {found.null_count - 1:,} more"
            )
            raise MissingError(
                msg, crdc_instance_uuid=str(uuid), series=[series.as_py()]
            )
        rows: np.ndarray[Any, Any] = found.to_numpy()
        return rows


def _may_be_of(part: Part, count: int, size: int) -> bool:
    """Whether so many objects may be some of a series of which only some are meant."""
    fewer = part.instanceCount is None or count < part.instanceCount
    room = part.size is None or size <= part.size + part.size_tolerance
    return part.only is not None and fewer and room


def _keyed(places: np.ndarray[Any, Any], uuids: pa.Array) -> pa.Array:
    """Give series and object as one value each, of 24 bytes."""
    import numpy as np

    rows = np.empty((len(uuids), 24), np.uint8)
    rows[:, :8] = places.astype(">u8").view(np.uint8).reshape(-1, 8)
    rows[:, 8:] = np.frombuffer(packed_bytes(uuids), np.uint8).reshape(-1, 16)
    return binary(rows)


def _named(table: pa.Table, manifest: Manifest) -> pa.Table:
    """Give the columns that are used, under one spelling and of one type."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kinds = {
        "crdc_series_uuid": pa.string(),
        "crdc_instance_uuid": pa.string(),
        "instance_size": pa.int64(),
        "instance_hash": pa.string(),
        "series_hash": pa.string(),
        "SOPInstanceUID": pa.string(),
    }
    there = {name.lower(): name for name in table.column_names}
    columns = {}
    for name, kind in kinds.items():
        found = there.get(name.lower())
        if found is not None:
            try:
                columns[name] = table.column(found).cast(kind)
                if name.endswith(("_uuid", "_hash")):
                    columns[name] = pc.utf8_lower(columns[name])
            except (pa.ArrowException, KeyError) as error:
                # A name that is there twice is a KeyError.
                msg = f"{name} of a table of objects does not hold {kind}: {error}"
                raise RequestError(msg, column=name) from error
    if "crdc_series_uuid" not in columns and "seriesinstanceuid" in there:
        columns["crdc_series_uuid"] = _by_uid(
            table.column(there["seriesinstanceuid"]), manifest
        )
    for name in list(kinds)[:3]:
        if name not in columns:
            msg = (
                f"a table of objects needs the column {name!r}; "
                f"got {', '.join(table.column_names) or 'no column'}"
            )
            raise RequestError(msg, column=name)
    return pa.table(columns)


def _by_uid(column: pa.ChunkedArray, manifest: Manifest) -> pa.ChunkedArray:
    """Give the uuid of each SeriesInstanceUID; null for series of others."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if "SeriesInstanceUID" not in manifest.columns:
        msg = "a table of objects by SeriesInstanceUID needs a manifest that has it"
        raise RequestError(msg, column="SeriesInstanceUID")
    uids = manifest.table.column("SeriesInstanceUID").combine_chunks()
    places = pc.index_in(column.cast(pa.string()), value_set=uids.cast(pa.string()))
    return pa.chunked_array([pa.array(manifest.uuids, pa.string())]).take(places)


def _packed_uuids(names: pa.Array) -> pa.Array:
    """Pack uuids into 16 bytes each.

    Raises
    ------
    RequestError
        One is null, or none.
    """
    if names.null_count:
        msg = "a table of objects needs crdc_instance_uuid in every row"
        raise RequestError(msg, column="crdc_instance_uuid")
    found, good = pack_uuids(names)
    if not good.all():
        first = names[int(good.argmin())].as_py()
        msg = f"a table of objects holds {first!r}, which is no uuid"
        raise RequestError(msg, value=first)
    return found


def _packed_hashes(hashes: pa.Array) -> pa.Array:
    """Pack MD5s in hex into 16 bytes each; null stays null.

    Raises
    ------
    RequestError
        A text is none.
    """
    import pyarrow.compute as pc

    wrong = pc.invert(pc.match_substring_regex(hashes, _MD5)).fill_null(False)
    if pc.any(wrong).as_py():
        first = hashes.filter(wrong)[0].as_py()
        msg = f"a table of objects holds {first!r}, which is no MD5"
        raise RequestError(msg, value=first)
    return packed([h and bytes.fromhex(h) for h in hashes.to_pylist()])


def _equal_to_next(values: pa.Array) -> Iterator[int]:
    """Give the positions of values that are those of the next position."""
    import numpy as np

    if not len(values):
        return
    data = np.frombuffer(values.buffers()[1], np.uint8, len(values) * 16)
    rows = data.reshape(len(values), 16)
    yield from np.flatnonzero((rows[1:] == rows[:-1]).all(axis=1)).tolist()
