"""Headers as a table: one row for each object, one column for each tag.

The columns and their types are known before anything is read: they follow from the
dictionary, see `intake_idc.dicom.Tag`. A task reads a partition, 2,048 objects side by
side, and of each only the first bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

from intake_idc import dicom
from intake_idc.arrow import integers, texts
from intake_idc.lazy.bags import HEADER_INSTANCES, pieces_of
from intake_idc.lazy.failures import (
    Failure,
    OnError,
    check_on_error,
    failure_of,
    leave_out,
)
from intake_idc.lazy.handles import DicomObject
from intake_idc.lazy.tables import arrow_frame
from intake_idc.lazy.tasks import list_objects, list_parts
from intake_idc.storage import Ranged, each

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Container,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )

    import pandas as pd
    import pyarrow as pa
    from dask.dataframe import DataFrame as DataFrame  # noqa: PLC0414  (verbs name it)

    from intake_idc.dicom import Tag
    from intake_idc.manifest import Manifest, Part, Piece
    from intake_idc.storage import Mirror

__all__ = [
    "HeaderRow",
    "ReadHeaders",
    "header_schema",
    "header_table",
    "headers",
    "tag_names",
]


@dataclass(frozen=True)
class HeaderRow:
    """What is known of one object after its header was read, or was not."""

    crdc_series_uuid: str
    """The series."""
    crdc_instance_uuid: str | None
    """The object; None where its series could not be listed."""
    url: str
    """Where it lies; the series, where that could not be listed."""
    size: int | None = None
    """Bytes of the object."""
    found: dict[str, Any] | None = None
    """Values by the name of the tag; None where it could not be read."""
    failure: Failure | None = None
    """Why it could not."""
    read: bool = True
    """Whether the object was read; its values may have been kept."""


def headers(
    manifest: Manifest,
    mirror: Mirror,
    tags: str | Sequence[str],
    *,
    partition_instances: int | None = None,
    on_error: OnError = "raise",
) -> DataFrame:
    """Give header values as a data frame with Arrow types; nothing is read.

    Parameters
    ----------
    manifest : Manifest
        The series.
    mirror : Mirror
        Where they are read.
    tags : str or sequence of str
        DICOM keywords, or paths through sequences; see
        `intake_idc.dicom.resolve_tags`.
    partition_instances : int, optional
        Objects in one partition: 2,048, or more where there would be more than
        10,000 partitions.
    on_error : "raise", "skip" or "collect"
        An object that cannot be read, or a value that is not what the dictionary says,
        ends the computation; is left out with a line in the log; or is a row whose tags
        are null, with ``failure_kind``, ``failure_reason`` and ``attempts``. Of a
        series that cannot be listed, every object is such a row.

    Returns
    -------
    dask.dataframe.DataFrame
        A row for each object, in the order of the manifest and of the keys:
        ``crdc_series_uuid``, ``crdc_instance_uuid``, ``url``, ``size`` in bytes, and a
        column for each tag, null where it is missing or empty. The index counts anew in
        each partition.

    Raises
    ------
    EmptySelection
        The manifest has no rows.
    RequestError
        A tag is none, or `partition_instances` is not positive.
    """
    import dask.dataframe as dd

    check_on_error(on_error)
    names = tag_names(tags)
    task = ReadHeaders(mirror, names, on_error)
    pieces = pieces_of(manifest, None, partition_instances, HEADER_INSTANCES)
    schema = header_schema(dicom.resolve_tags(names), on_error)
    frame: DataFrame = dd.from_map(
        task,
        pieces,
        meta=arrow_frame(schema.empty_table()),
        label="headers",
    )
    return frame


def tag_names(tags: str | Sequence[str]) -> tuple[str, ...]:
    """Check what is asked for, and give its names; see `dicom.resolve_tags`."""
    return tuple(tag.name for tag in dicom.resolve_tags(tags))


@dataclass(frozen=True)
class ReadHeaders:
    """A task: read the headers of a piece, and make a table of them."""

    mirror: Mirror
    """Where the objects are read."""
    names: tuple[str, ...]
    """What is asked for."""
    on_error: OnError = "raise"
    """What becomes of an object that fails."""
    kept: Callable[[Sequence[str]], Mapping[str, dict[str, Any]]] | None = None
    """Takes uuids of objects, and gives the values of those that were read before."""

    def __call__(
        self, piece: Piece | Manifest, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Give the rows of a piece.

        All tags are read, also where Dask asks for few of the columns: what fails does
        not depend on what is done with a frame later.
        """
        frame = arrow_frame(self.table(piece.parts()))
        return frame if columns is None else frame[list(columns)]

    def table(self, parts: Iterable[Part]) -> pa.Table:
        """Give the rows of some series."""
        tags = dicom.resolve_tags(self.names)
        return header_table(self.rows(parts), tags, self.on_error)

    def rows(
        self, parts: Iterable[Part], known: Mapping[str, Container[str]] | None = None
    ) -> list[HeaderRow]:
        """Read the headers of some series, in order.

        Parameters
        ----------
        parts : iterable of Part
            The series.
        known : mapping, optional
            Of some series, the uuids of objects that are left out.
        """
        listed: list[DicomObject | HeaderRow]
        if self.on_error == "raise":
            listed = [*list_objects(parts, self.mirror).results]
        else:
            series = each(partial(_listed, mirror=self.mirror), parts)
            listed = [item for found in series for item in found]
        if known:
            listed = [
                item
                for item in listed
                if item.crdc_instance_uuid not in known.get(item.crdc_series_uuid, ())
            ]
        tags = dicom.resolve_tags(self.names)
        kept = {} if self.kept is None else self.kept([*_uuids(listed)])
        read = partial(_row, tags=tags, kept=kept, raises=self.on_error == "raise")
        rows = list(each(read, listed))
        if self.on_error == "skip":
            leave_out({row.failure: None for row in rows if row.failure is not None})
            rows = [row for row in rows if row.failure is None]
        return rows


def _uuids(listed: Iterable[DicomObject | HeaderRow]) -> Iterator[str]:
    return (item.crdc_instance_uuid for item in listed if isinstance(item, DicomObject))


def _row(
    item: DicomObject | HeaderRow,
    tags: Sequence[Tag],
    kept: Mapping[str, dict[str, Any]],
    *,
    raises: bool,
) -> HeaderRow:
    if isinstance(item, HeaderRow):
        return item
    series, uuid, url = item.crdc_series_uuid, item.crdc_instance_uuid, item.url
    if uuid in kept:
        return HeaderRow(series, uuid, url, item.size, kept[uuid], read=False)
    try:
        read = Ranged(item.instance, item.mirror).read
        found = dicom.read_values(read, item.size, tags, url)
    except Exception as error:
        if raises:
            raise
        failure = failure_of(error, url, series, uuid)
        return HeaderRow(series, uuid, url, item.size, None, failure)
    return HeaderRow(series, uuid, url, item.size, found)


def _listed(part: Part, mirror: Mirror) -> list[DicomObject | HeaderRow]:
    """List a series; where that fails, give a row for each object that is meant.

    So there are as many rows however a series is cut.
    """
    series = part.crdc_series_uuid
    items: list[DicomObject | HeaderRow] = []
    for found in list_parts([part], mirror):
        if isinstance(found, DicomObject):
            items.append(found)
            continue
        names = [found.crdc_instance_uuid]
        if names == [None] and part.only is not None:
            meant = part.only[part.first_instance : part.last_instance]
            names = [str(UUID(bytes=uuid)) for uuid in meant.to_pylist()]
        elif names == [None]:
            names *= 1 if part.instances is None else part.instances
        items += [HeaderRow(series, name, found.url, failure=found) for name in names]
    return items


def header_schema(tags: Sequence[Tag], on_error: OnError = "raise") -> pa.Schema:
    """Give the columns of a table of headers, and their types."""
    import pyarrow as pa

    names: dict[str, pa.DataType] = {
        "crdc_series_uuid": pa.string(),
        "crdc_instance_uuid": pa.string(),
        "url": pa.string(),
        "size": pa.int64(),
        **{tag.name: tag.type for tag in tags},
    }
    if on_error == "collect":
        names |= {
            "failure_kind": pa.string(),
            "failure_reason": pa.string(),
            "attempts": pa.int32(),
        }
    return pa.schema(names)


def header_table(
    rows: Sequence[HeaderRow], tags: Sequence[Tag], on_error: OnError = "raise"
) -> pa.Table:
    """Give rows as a table with the columns of `header_schema`."""
    import pyarrow as pa

    columns: list[Any] = [
        texts([row.crdc_series_uuid for row in rows]),
        texts([row.crdc_instance_uuid for row in rows]),
        texts([row.url for row in rows]),
        integers([row.size for row in rows]),
    ]
    for tag in tags:
        values = [None if row.found is None else row.found[tag.name] for row in rows]
        columns.append(pa.array(values, tag.type))
    if on_error == "collect":
        failures = [row.failure for row in rows]
        columns += [
            texts([None if one is None else one.kind for one in failures]),
            texts([None if one is None else one.reason for one in failures]),
            pa.array([one and one.attempts for one in failures], "int32"),
        ]
    return pa.Table.from_arrays(columns, schema=header_schema(tags, on_error))
