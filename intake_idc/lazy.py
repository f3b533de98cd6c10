"""Dask collections over a manifest; nothing is opened before compute.

A collection is one task for each partition, on a flat graph: a task holds a small
manifest, lists its series in the mirror, reads the objects in one bounded batch,
and gives a list. Keys depend on what is read and how, and on nothing else, so the
same cohort has the same graph wherever it is built.
"""

from __future__ import annotations

import functools
import operator
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import dask.threaded
from dask.bag import Bag, Item
from dask.base import tokenize
from dask.sizeof import sizeof
from dask.utils import parse_bytes

from intake_idc.errors import EmptySelection, RequestError
from intake_idc.storage import each, instances, open_store, read_instance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import dask.dataframe as dd
    import pandas as pd
    import pyarrow as pa

    from intake_idc.dicom import Dataset
    from intake_idc.manifest import Manifest
    from intake_idc.storage import Instance, Mirror

__all__ = [
    "PARTITION_BYTES",
    "InstanceBag",
    "datasets",
    "file_frame",
    "frame",
    "header_rows",
]

PARTITION_BYTES = "128 MiB"
"""Bytes of the objects in one partition."""
PIXEL_INSTANCES = 512
"""Objects in one partition, read whole."""
HEADER_INSTANCES = 2048
"""Objects in one partition, of which only the header is read."""


class _InstanceItem(Item):
    """A single result of an `InstanceBag`, such as a count; it runs on threads too."""

    __dask_scheduler__ = staticmethod(dask.threaded.get)

    def apply(self, func: Callable[[Any], Any]) -> _InstanceItem:
        """Give the result of a function on this one."""
        applied = super().apply(func)
        return _InstanceItem(applied.dask, applied.key)


def _on_threads(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method of `Bag` that forgets its class give this one's."""

    @functools.wraps(method)
    def kept(self: InstanceBag, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        if isinstance(result, Item):
            return _InstanceItem(result.dask, result.key)
        if isinstance(result, Bag):
            return InstanceBag(result.dask, result.name, result.npartitions)
        return result

    return kept


class InstanceBag(Bag):
    """A `dask.bag.Bag` over DICOM objects that runs on threads unless told otherwise.

    Dask's own default for bags is to spawn processes, which runs an unguarded
    script again from its first line. Reading waits for the network and decodes
    outside the interpreter's lock, so threads serve better. A bag made from this
    one by `map`, `filter`, `count` and so on keeps the default.
    """

    __dask_scheduler__ = staticmethod(dask.threaded.get)

    accumulate = _on_threads(Bag.accumulate)
    foldby = _on_threads(Bag.foldby)
    groupby = _on_threads(Bag.groupby)
    reduction = _on_threads(Bag.reduction)
    repartition = _on_threads(Bag.repartition)

    def take(
        self,
        k: int,
        npartitions: int = 1,
        compute: bool = True,
        warn: bool = True,
    ) -> Any:
        """Take the first k elements; see `dask.bag.Bag.take`."""
        lazily = super().take(k, npartitions, compute=False, warn=warn)
        first = InstanceBag(lazily.dask, lazily.name, lazily.npartitions)
        return tuple(first.compute()) if compute else first


def datasets(
    manifest: Manifest,
    mirror: Mirror,
    *,
    headers_only: bool = False,
    partition_bytes: int | str | None = None,
    partition_instances: int | None = None,
) -> InstanceBag:
    """Give a bag of `pydicom.Dataset`, in the order of the manifest and of the keys.

    Parameters
    ----------
    manifest : Manifest
        The series to read.
    mirror : Mirror
        Where to read them.
    headers_only : bool
        Leave the pixel data out, and read only the first bytes of each object.
    partition_bytes : int or str, optional
        Bytes of the objects in one partition: ``"128 MiB"``, or no bound where only
        headers are read. A larger series is split, smaller ones share a partition.
    partition_instances : int, optional
        Objects in one partition: 512, or 2,048 where only headers are read.

    Raises
    ------
    EmptySelection
        The manifest has no rows.
    """
    task = partial(_read_partition, mirror=mirror, headers_only=headers_only)
    name = "header" if headers_only else "dataset"
    size, count = (
        (None, HEADER_INSTANCES) if headers_only else (PARTITION_BYTES, PIXEL_INSTANCES)
    )
    return _bag(
        task,
        manifest,
        name,
        size if partition_bytes is None else partition_bytes,
        count if partition_instances is None else partition_instances,
    )


def header_rows(
    manifest: Manifest,
    mirror: Mirror,
    keywords: Sequence[str],
    *,
    partition_instances: int = HEADER_INSTANCES,
) -> InstanceBag:
    """Give a bag of dicts, one for each object: where it lies, and its header values.

    Each dict has ``crdc_series_uuid``, ``crdc_instance_uuid``, ``url``, and one
    item for each keyword; see `intake_idc.dicom.values`.

    Raises
    ------
    EmptySelection
        The manifest has no rows.
    """
    from intake_idc import dicom

    dicom.check_keywords(keywords)
    task = partial(_read_rows, mirror=mirror, keywords=tuple(keywords))
    return _bag(task, manifest, "header-row", None, partition_instances)


def frame(table: pa.Table, rows: int = 100_000) -> dd.DataFrame:
    """Give an Arrow table as a `dask.dataframe.DataFrame`, Arrow types kept."""
    import dask.dataframe as dd

    data = _arrow_frame(table)
    found: dd.DataFrame = dd.from_pandas(
        data, npartitions=max(1, -(-len(data) // rows))
    )
    return found


class Reader(Protocol):
    """Reads files of rows, each on its own; it travels to workers."""

    @property
    def schema(self) -> pa.Schema:
        """Columns that it gives, and their types."""

    def narrowed(self, columns: Sequence[str]) -> Reader:
        """Give the same reader with fewer columns."""

    def rows(self, files: Sequence[Any]) -> pa.Table:
        """Read the rows of some files, in order."""


def file_frame(
    reader: Reader,
    files: Sequence[Any],
    partition_bytes: int | str,
    name: str,
) -> dd.DataFrame:
    """Give files of rows as a data frame with Arrow types; nothing is read.

    Parameters
    ----------
    reader : Reader
        What reads them.
    files : sequence
        Not empty; each has its ``size`` in bytes.
    partition_bytes : int or str
        Bytes of the files of one partition; a larger file has one of its own.
    name : str
        What the tasks are called.
    """
    import dask.dataframe as dd

    room = _bytes(partition_bytes)
    pieces: list[list[Any]] = [[]]
    held = 0
    for file in files:
        if pieces[-1] and held + file.size > room:
            pieces.append([])
            held = 0
        pieces[-1].append(file)
        held += file.size
    meta = _arrow_frame(reader.schema.empty_table())
    found: dd.DataFrame = dd.from_map(
        partial(_read_files, reader=reader), pieces, meta=meta, label=name
    )
    return found


def _read_files(
    files: Sequence[Any], *, reader: Reader, columns: Sequence[str] | None = None
) -> pd.DataFrame:
    # Dask gives ``columns`` where only some of them are used later.
    narrowed = reader if columns is None else reader.narrowed(list(columns))
    return _arrow_frame(narrowed.rows(files))


def _arrow_frame(table: pa.Table) -> pd.DataFrame:
    import pandas as pd

    return table.to_pandas(types_mapper=pd.ArrowDtype)


def _bag(
    task: partial[Any],
    manifest: Manifest,
    name: str,
    partition_bytes: int | str | None,
    partition_instances: int,
) -> InstanceBag:
    pieces = manifest.split(_bytes(partition_bytes), partition_instances)
    if not pieces:
        msg = f"nothing to read: no series is selected ({manifest.origin})"
        raise EmptySelection(msg)
    name = f"{name}-{tokenize(manifest, task, partition_bytes, partition_instances)}"
    graph: Any = {(name, i): (task, piece) for i, piece in enumerate(pieces)}
    return InstanceBag(graph, name, len(pieces))


def _bytes(size: int | str | None) -> int:
    if size is None:
        return sys.maxsize
    try:
        return parse_bytes(size) if isinstance(size, str) else operator.index(size)
    except (ValueError, TypeError) as error:
        msg = f"partition_bytes is a number or a text like '128 MiB'; got {size!r}"
        raise RequestError(msg) from error


def _read_partition(
    manifest: Manifest, *, mirror: Mirror, headers_only: bool
) -> list[Dataset]:
    found = instances(manifest.parts(), mirror)
    read = _read_header if headers_only else _read_dataset
    return list(each(partial(read, mirror=mirror), found))


def _read_rows(
    manifest: Manifest, *, mirror: Mirror, keywords: tuple[str, ...]
) -> list[dict[str, Any]]:
    found = instances(manifest.parts(), mirror)
    return list(each(partial(_read_row, mirror=mirror, keywords=keywords), found))


def _read_dataset(instance: Instance, mirror: Mirror) -> Dataset:
    from intake_idc import dicom

    return dicom.read_dataset(read_instance(instance, mirror), instance.url)


def _read_header(instance: Instance, mirror: Mirror) -> Dataset:
    from intake_idc import dicom

    store = open_store(mirror, instance.part.aws_bucket)
    return dicom.read_header(
        partial(store.read, instance.key), instance.size, instance.url
    )


def _read_row(
    instance: Instance, mirror: Mirror, keywords: Iterable[str]
) -> dict[str, Any]:
    from intake_idc import dicom

    header = _read_header(instance, mirror)
    return {
        "crdc_series_uuid": instance.part.crdc_series_uuid,
        "crdc_instance_uuid": instance.crdc_instance_uuid,
        "url": instance.url,
        **dicom.values(header, tuple(keywords), instance.url),
    }


@sizeof.register_lazy("pydicom")  # type: ignore[untyped-decorator]
def _register_weight() -> None:
    """Tell Dask how large a dataset is; without this it takes each for 56 bytes."""
    from intake_idc import dicom

    sizeof.register(dicom.Dataset)(dicom.weight)
