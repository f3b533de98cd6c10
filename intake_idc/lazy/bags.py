"""Bags over a manifest: a flat graph, one task for each partition.

Keys depend on what is read and how, and on nothing else, so the same cohort has the
same graph wherever it is built.
"""

from __future__ import annotations

import functools
import operator
import sys
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import dask.threaded
from dask.bag import Bag, Item
from dask.base import tokenize
from dask.utils import parse_bytes

from intake_idc.errors import EmptySelection, RequestError
from intake_idc.lazy.failures import failures_table
from intake_idc.lazy.progress import computed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pyarrow as pa

    from intake_idc.manifest import Manifest, Piece

__all__ = [
    "HEADER_INSTANCES",
    "PARTITIONS",
    "PARTITION_BYTES",
    "PIXEL_INSTANCES",
    "Collected",
    "InstanceBag",
    "InstanceItem",
    "bag_from",
    "bag_of",
    "check_rows",
    "pieces_of",
    "size_in_bytes",
    "texts_of",
]

PARTITION_BYTES = "128 MiB"
"""Bytes of the objects in one partition."""
PIXEL_INSTANCES = 512
"""Objects in one partition, read whole."""
HEADER_INSTANCES = 2048
"""Objects in one partition, of which only the header is read."""
PARTITIONS = 10_000
"""Partitions that a bag has at most, unless a bound is given: a scheduler takes about
a minute for as many tasks, and partitions grow instead."""


class Collected(NamedTuple):
    """What a bag gave, and what it could not."""

    results: list[Any]
    """Of the objects that could be read, in order."""
    failures: pa.Table
    """One row for each that could not: url, crdc_series_uuid, crdc_instance_uuid,
    kind, reason, attempts; see `Failure`."""


class InstanceItem(Item):
    """A single result of an `InstanceBag`, such as a count; it runs on threads too."""

    __dask_scheduler__ = staticmethod(dask.threaded.get)

    def compute(self, *, progress: bool = False, **options: Any) -> Any:
        """Compute the result; see `InstanceBag.compute`."""
        return computed(self, progress=progress, **options)[0]

    def apply(self, func: Callable[[Any], Any]) -> InstanceItem:
        """Give the result of a function on this one."""
        applied = super().apply(func)
        return InstanceItem(applied.dask, applied.key)


def _on_threads(method: Callable[..., Any]) -> Callable[..., Any]:
    """Make a method of `Bag` that forgets its class give this one's."""

    @functools.wraps(method)
    def kept(self: InstanceBag, *args: Any, **kwargs: Any) -> Any:
        result = method(self, *args, **kwargs)
        if isinstance(result, Item):
            return InstanceItem(result.dask, result.key)
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

    failures: InstanceBag | None = None
    """What could not be read, as a bag of `Failure`; only of a bag that was made with
    ``on_error="collect"``. Computed together with the bag, nothing is read twice."""

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

    def compute(self, *, progress: bool = False, **options: Any) -> Any:
        """Compute the bag, as a list.

        Parameters
        ----------
        progress : bool
            Show a bar, of partitions that are done, on the terminal.
        **options
            For `dask.compute`, such as ``scheduler="processes"``.
        """
        return computed(self, progress=progress, **options)[0]

    def collected(self, *, progress: bool = False, **options: Any) -> Collected:
        """Compute results and failures together.

        Parameters
        ----------
        progress, **options
            As in `compute`.

        Raises
        ------
        RequestError
            The bag was not made with ``on_error="collect"``.
        """
        if self.failures is None:
            msg = "failures are collected by on_error='collect', where the bag is made"
            raise RequestError(msg)
        # Without a choice of the caller's, the scheduler of this bag.
        results, failures = computed(self, self.failures, progress=progress, **options)
        return Collected(list(results), failures_table(failures))


def bag_of(
    task: Callable[..., Any],
    manifest: Manifest,
    name: str,
    partition_bytes: int | str | None,
    partition_instances: int | None,
    *,
    instances: int = PIXEL_INSTANCES,
    whole_series: bool = False,
    carried: str | None = None,
    collect: bool = False,
) -> InstanceBag:
    """Give a bag with one task for each piece of a manifest.

    Parameters
    ----------
    task : callable
        Takes a `Piece`, or a small `Manifest`, and gives a list; an `Outcome` where
        `collect`.
    manifest : Manifest
        What is read.
    name : str
        How keys begin.
    partition_bytes, partition_instances : optional
        What a partition may hold. Without either, 128 MiB and `instances`, or more
        where there would be more than `PARTITIONS` of them.
    instances : int
        The default of `partition_instances`.
    whole_series : bool
        A series is never cut.
    carried : str, optional
        A column of texts that the task gets as well: a tuple of the values of its
        rows, empty where there is none. It goes with `whole_series`.
    collect : bool
        Failures become a bag beside the results.

    Raises
    ------
    EmptySelection
        The manifest has no rows.
    """
    bounds = partition_bytes, partition_instances
    pieces = pieces_of(manifest, *bounds, instances, whole_series=whole_series)
    how = bounds, instances, whole_series, carried
    name = f"{name}-{tokenize(manifest, task, how)}"
    tasks: list[tuple[Any, ...]] = [(task, piece) for piece in pieces]
    if carried is not None:
        values = texts_of(manifest, carried)
        tasks = [(task, piece, tuple(islice(values, len(piece)))) for piece in pieces]
    return bag_from(tasks, name, collect=collect)


def pieces_of(
    manifest: Manifest,
    partition_bytes: int | str | None,
    partition_instances: int | None,
    instances: int = PIXEL_INSTANCES,
    *,
    whole_series: bool = False,
) -> list[Piece | Manifest]:
    """Cut a manifest into partitions; parameters and errors are those of `bag_of`."""
    check_rows(manifest)
    bounds = partition_bytes, partition_instances
    unbounded = partition_bytes is None and instances == HEADER_INSTANCES
    size = sys.maxsize if unbounded else PARTITION_BYTES
    return manifest.pieces(
        size_in_bytes(size if partition_bytes is None else partition_bytes),
        _count(instances if partition_instances is None else partition_instances),
        most=PARTITIONS if bounds == (None, None) else None,
        whole_series=whole_series,
    )


def _count(instances: int) -> int:
    try:
        return operator.index(instances)
    except TypeError as error:
        msg = f"partition_instances is a whole number; got {instances!r}"
        raise RequestError(msg) from error


def check_rows(manifest: Manifest) -> None:
    """Refuse a manifest without rows.

    Raises
    ------
    EmptySelection
        It has none.
    """
    if not len(manifest):
        msg = f"nothing to read: no series is selected ({manifest.origin})"
        raise EmptySelection(msg)


def bag_from(
    tasks: Sequence[tuple[Any, ...]], name: str, *, collect: bool
) -> InstanceBag:
    """Give a bag of tasks: a callable and what it takes, one for each partition.

    Where `collect`, each gives an `Outcome`, and failures become a bag beside.
    """
    graph: Any = {(name, i): task for i, task in enumerate(tasks)}
    if not collect:
        return InstanceBag(graph, name, len(tasks))
    results, failures = f"results-of-{name}", f"failures-of-{name}"
    for part, field in ((results, "results"), (failures, "failures")):
        for i in range(len(tasks)):
            graph[part, i] = (operator.attrgetter(field), (name, i))
    bag = InstanceBag(graph, results, len(tasks))
    bag.failures = InstanceBag(graph, failures, len(tasks))
    return bag


def texts_of(manifest: Manifest, column: str) -> Iterator[str]:
    """Give a column of texts, or empty texts for ever where it is not there."""
    if column not in manifest.columns:
        return repeat("")
    return (text or "" for text in manifest.table.column(column).to_pylist())


def size_in_bytes(size: int | str) -> int:
    """Read a number of bytes, or a text such as ``"128 MiB"``.

    Raises
    ------
    RequestError
        It is neither.
    """
    try:
        return parse_bytes(size) if isinstance(size, str) else operator.index(size)
    except (ValueError, TypeError) as error:
        msg = f"partition_bytes is a number or a text like '128 MiB'; got {size!r}"
        raise RequestError(msg) from error
