"""Functions over the objects and the series of a cohort, on workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from intake_idc.cohort.verbs.base import Base
from intake_idc.errors import RequestError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from intake_idc.lazy import (
        Delayed,
        DicomObject,
        InstanceBag,
        InstanceItem,
        OnError,
        Series,
    )
    from intake_idc.storage import Mirror

__all__ = ["Applying"]


class Applying(Base):
    """The verbs that apply a function of the caller's."""

    def map_objects(
        self,
        function: Callable[[DicomObject], Any],
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        partition_bytes: int | str | None = None,
        partition_instances: int | None = None,
        on_error: OnError = "raise",
    ) -> InstanceBag:
        """Give a Dask bag of what a function makes of every object.

        Unlike ``to_dask().map(function)``, the objects of a partition are read side by
        side, and what fails can be collected.

        >>> from intake_idc import open_idc
        >>> sample = open_idc(2, tables="sample").all()
        >>> second = sample.map_objects(lambda f: f.pixels(1).shape, on_error="collect")
        >>> results, failures = second.collected()
        >>> results, failures.num_rows
        ([(16, 16), (10, 10, 3)], 7)
        >>> failures.column("reason")[0].as_py().split(": ")[1]
        'no frame 1; they are 0 to 0'

        Parameters
        ----------
        function : callable
            Takes a `DicomObject`; called from several threads.
        on_error : "raise", "skip" or "collect"
            An object that fails ends the computation, is left out with a line in the
            log, or becomes a row of `InstanceBag.failures`.
        mirror, partition_bytes, partition_instances : optional
            As in `to_dask`.
        """
        from intake_idc import lazy

        return lazy.map_objects(
            function,
            self._located(),
            self._mirror(mirror),
            partition_bytes=partition_bytes,
            partition_instances=partition_instances,
            on_error=on_error,
        )

    def map_series(
        self,
        function: Callable[[Series], Any],
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        partition_bytes: int | str | None = None,
        partition_instances: int | None = None,
        on_error: OnError = "raise",
    ) -> InstanceBag:
        """Give a Dask bag of what a function makes of every series, in order.

        A series is never cut over partitions. Small ones share a partition, in which
        they come one after the other; the objects of a series are read side by side.

        >>> from intake_idc import open_idc
        >>> images = open_idc(2, tables="sample").search(Modality=["CT", "MR"])
        >>> images.map_series(lambda series: len(series.objects())).compute()
        [3, 4]

        Parameters
        ----------
        function : callable
            Takes an `intake_idc.lazy.Series`, which has its uids, ``objects()``,
            ``datasets()``, ``headers(tags)`` and ``to_volume()``.
        mirror, partition_bytes, partition_instances : optional
            As in `to_dask`.
        on_error : "raise", "skip" or "collect"
            A series that fails ends the computation, is left out with a line in the
            log, or becomes a row of `InstanceBag.failures`.
        """
        from intake_idc import lazy

        return lazy.map_series(
            function,
            self._located(),
            self._mirror(mirror),
            partition_bytes=partition_bytes,
            partition_instances=partition_instances,
            on_error=on_error,
        )

    def reduce(
        self,
        function: Callable[[Series], Any],
        combine: Callable[[Any, Any], Any],
        *,
        initial: Any = None,
        mirror: str | os.PathLike[str] | Mirror | None = None,
        on_error: OnError = "raise",
    ) -> InstanceItem:
        """Give what all series come to: a function of each, and two made into one.

        Partitions are combined as a tree, on the workers; only one value comes back.

        >>> from intake_idc import open_idc
        >>> images = open_idc(2, tables="sample").search(Modality=["CT", "MR"])
        >>> images.reduce(lambda s: sum(o.size for o in s.objects()), max).compute()
        1595780

        Parameters
        ----------
        function : callable
            Takes a `Series`; see `map_series`.
        combine : callable
            Takes two values and gives one; must not depend on how they are grouped.
        initial : optional
            What comes before the first value, and is the result where there is none.
        mirror : optional
            As in `map_series`.
        on_error : "raise" or "skip"
            A series that fails ends the computation, or is left out.

        Raises
        ------
        RequestError
            Failures are to be collected, which one value has no place for.
        """
        from intake_idc import lazy

        mapped = self.map_series(function, mirror=mirror, on_error=on_error)
        return lazy.reduced(mapped, combine, initial)

    def to_delayed(
        self,
        function: Callable[[Series], Any] | None = None,
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> list[Delayed]:
        """Give a `dask.delayed.Delayed` for each series, in the order of `keys`.

        For a graph of one's own. Where a function over every series is all there is
        to do, `map_series` makes fewer tasks.

        Parameters
        ----------
        function : callable, optional
            Takes a `Series`. By default a list of `pydicom.Dataset`, one for each
            object.
        mirror : optional
            As in `to_dask`.
        """
        from intake_idc import lazy

        return lazy.delayed_series(
            function or lazy.Series.datasets, self._located(), self._mirror(mirror)
        )

    def to_series_dict(
        self,
        function: Callable[[Series], Any] | None = None,
        *,
        mirror: str | os.PathLike[str] | Mirror | None = None,
    ) -> dict[str, Delayed]:
        """Give the same as `to_delayed`, by SeriesInstanceUID.

        Raises
        ------
        RequestError
            Two series have the same, as two versions of one series do, or one has
            none; `to_delayed` gives them all.

        >>> from intake_idc import open_idc
        >>> ct = open_idc(2, tables="sample").search(Modality="CT")
        >>> by_uid = ct.to_series_dict(lambda series: series.datasets()[0].Modality)
        >>> [found.compute() for found in by_uid.values()]
        ['CT']
        """
        from intake_idc import lazy

        manifest = self._located()
        found = lazy.delayed_series(
            function or lazy.Series.datasets, manifest, self._mirror(mirror)
        )
        uids = manifest.table.column("SeriesInstanceUID").to_pylist()
        named = dict(zip(uids, found, strict=True))
        if len(named) < len(uids) or None in named:
            msg = (
                f"{len(uids)} series have {len({*named} - {None})} SeriesInstanceUIDs "
                "between them; to_delayed gives all of them, in the order of keys()"
            )
            raise RequestError(msg, column="SeriesInstanceUID")
        return named
