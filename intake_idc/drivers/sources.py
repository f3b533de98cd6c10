"""The source that is a cohort, by conditions or a body."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from intake.source.base import Schema

from intake_idc.cohort import Cohort, open_idc
from intake_idc.cohort.bodies import body_pin, is_body, lasting_body, load_body
from intake_idc.drivers.pinned import (
    Pinned,
    Version,
    lasting_mirror,
)
from intake_idc.errors import RequestError
from intake_idc.release import Release
from intake_idc.selection import Selection
from intake_idc.storage import resolve_mirror

if TYPE_CHECKING:
    from intake_idc.storage import EngineName

__all__ = ["CohortSource", "IDCCohort"]

_COHORT_VERBS = frozenset(
    {
        "all",
        "annotations",
        "citations",
        "clinical",
        "columns",
        "contours",
        "counts",
        "df",
        "diff",
        "difference",
        "export",
        "frames",
        "datasets",
        "header_rows",
        "headers",
        "index_table",
        "instances_table",
        "intersection",
        "keys",
        "left_out",
        "licenses",
        "lock",
        "locked",
        "manifest",
        "map_objects",
        "map_series",
        "masks",
        "materialize",
        "nunique",
        "plan",
        "problems",
        "reading_from",
        "reduce",
        "references",
        "release",
        "repair",
        "require_all_on",
        "sample",
        "scan_headers",
        "save_instances",
        "selection",
        "size",
        "sources",
        "split_patients",
        "table",
        "to_catalog",
        "to_delayed",
        "to_manifest",
        "to_masks",
        "to_series_dict",
        "to_slide",
        "to_table",
        "to_volume",
        "union",
        "unique",
        "urls",
        "verify",
        "volumes",
        "with_instances",
    }
)
"""What a source hands on to its `Cohort`."""


class CohortSource(Pinned):
    """A source that is a cohort: the objects of its series are its data."""

    container = "python"
    partition_access = True

    def __init__(
        self,
        *,
        mirror: str | None = None,
        endpoint_url: str | None = None,
        engine: EngineName | None = None,
        storage_options: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(metadata=dict(metadata or {}))
        self._reading: dict[str, Any] = {
            "endpoint_url": endpoint_url,
            "engine": engine,
            "storage_options": storage_options,
        }
        self._mirror = mirror
        # A secret or a misspelt engine is refused here, not on a worker.
        if mirror is not None:
            self._mirror = lasting_mirror(mirror, **self._reading)
            self._captured_init_kwargs["mirror"] = self._mirror
        elif any(self._reading.values()):
            resolve_mirror(None, **self._reading)

    @property
    def cohort(self) -> Cohort:
        """The cohort itself, free of Intake."""
        raise NotImplementedError

    def _placed(self, cohort: Cohort) -> Cohort:
        if self._mirror is None and not any(self._reading.values()):
            return cohort
        return cohort.reading_from(self._mirror, **self._reading)

    def __getattr__(self, name: str) -> Any:
        if name in _COHORT_VERBS:
            return getattr(self.cohort, name)
        msg = f"{type(self).__name__!r} object has no attribute {name!r}"
        raise AttributeError(msg)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_COHORT_VERBS})

    def __len__(self) -> int:
        return len(self.cohort)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<{type(self).name}: {self.cohort!r}>"

    def _repr_html_(self) -> str:
        return self.cohort._repr_html_()

    # IPython prefers this to HTML, and Intake's prints YAML.
    _ipython_display_ = None

    # Intake's verbs.

    def _get_schema(self) -> Schema:
        """Describe the data without reading an object: series, partitions, counts."""
        counts = self.cohort.counts()
        return Schema(
            dtype=None,
            shape=(counts["series"],),
            npartitions=self._datasets().npartitions if counts["series"] else 0,
            extra_metadata={"idc_version": self.idc_version, **counts},
        )

    def to_dask(self, **options: Any) -> Any:
        """Give a Dask bag of `DicomObject`; see `Cohort.to_dask`."""
        return self.cohort.to_dask(**options)

    def _datasets(self) -> Any:
        return self.cohort.datasets()

    def read(self) -> list[Any]:
        """Read every object into memory, as a list of `pydicom.Dataset`."""
        return list(self._datasets().compute())

    def read_partition(self, i: int) -> list[Any]:
        """Read one partition, as a list of `pydicom.Dataset`.

        Raises
        ------
        IndexError
            There is no such partition.
        """
        bag = self._datasets()
        if not 0 <= i < bag.npartitions:
            msg = f"partition {i} of {bag.npartitions}"
            raise IndexError(msg)
        return list(bag.to_delayed()[i].compute())

    def read_chunked(self) -> Iterator[list[Any]]:
        """Read partition after partition."""
        for part in self._datasets().to_delayed():
            yield list(part.compute())


class IDCCohort(CohortSource):
    """Driver ``idc_cohort``: series of one release, selected by columns.

    Parameters
    ----------
    idc_version : int or "current"
        The release.
    tables, digest
        Where the index tables are; see `open_release`.
    mirror, endpoint_url, engine, storage_options
        Where the objects are read; see `resolve_mirror`.
    query : str or list of str, optional
        SQL conditions.
    selection : dict, optional
        Conditions as data; see `Selection.to_dict`.
    everything : bool
        Whether every series is meant where there is no condition; see `Cohort.all`.
    body : dict or str, optional
        Instead of conditions, a body of the IDC API, or the path or URL of one as a
        JSON file; see `open_cohort`. The release that it names is taken.
    export : str, optional
        Where the Parquet export lies, for a body that needs it.
    **columns
        Conditions by column; see `Cohort.search`. In YAML, a regular expression is
        ``{regex: "chest", flags: [IGNORECASE]}``.
    """

    name = "idc_cohort"

    def __init__(
        self,
        idc_version: Version = "current",
        *,
        tables: str | None = None,
        digest: str | Mapping[str, str] | None = None,
        mirror: str | None = None,
        endpoint_url: str | None = None,
        engine: EngineName | None = None,
        storage_options: Mapping[str, Any] | None = None,
        query: str | list[str] | None = None,
        selection: Mapping[str, Any] | None = None,
        everything: bool = False,
        body: Mapping[str, Any] | str | None = None,
        export: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        **columns: Any,
    ) -> None:
        _refuse_misspelt(columns)
        if body is not None and (columns or query or selection):
            msg = "an idc_cohort has either a body or conditions; search narrows it"
            raise RequestError(msg, argument="body")
        if export is not None and body is None:
            msg = "export= goes with a body; conditions are asked of the index"
            raise RequestError(msg, argument="export")
        super().__init__(
            mirror=mirror,
            endpoint_url=endpoint_url,
            engine=engine,
            storage_options=storage_options,
            metadata=metadata,
        )
        chosen = Selection.from_dict(selection or {})
        if columns:
            chosen = chosen.where(columns)
        for condition in [query] if isinstance(query, str) else query or ():
            chosen = chosen.query(condition)
        self._digest, self._chosen = digest, chosen
        self._everything = everything
        self._body = None if body is None else lasting_body(body)
        self._export = None if export is None else lasting_mirror(export)
        if self._body is not None and idc_version == "current":
            idc_version = _named_by(self._body) or idc_version
        self._pin_release(idc_version, tables, digest)
        places = {"body": self._body, "export": self._export}
        self._pin(**{key: place for key, place in places.items() if place is not None})
        for column in columns:
            del self._captured_init_kwargs[column]
        for spent in ("query", "selection"):
            self._captured_init_kwargs.pop(spent, None)
        # Conditions are kept in one form, as data: a compiled expression has no
        # place in YAML.
        self._pin(**chosen.to_arguments())

    @cached_property
    def cohort(self) -> Cohort:
        """The cohort itself, free of Intake."""
        places = {"tables": self._tables, "digest": self._digest}
        if self._body is not None:
            from intake_idc.cohort.bodies import open_cohort

            asked = open_cohort(
                self._body,
                idc_version=self.idc_version,
                export=self._export,
                **places,  # type: ignore[arg-type]
            )
            return self._placed(replace(asked, everything=self._everything))
        whole = open_idc(self.idc_version, **places)  # type: ignore[arg-type]
        return self._placed(
            replace(whole, selection=self._chosen, everything=self._everything)
        )

    def search(self, **columns: Any) -> Any:
        """Narrow by columns; see `Cohort.search`.

        Returns
        -------
        IDCCohort
            A source; of a body whose answer is a list of series a `Cohort`.
        """
        if self._listed:
            return self.cohort.search(**columns)
        return self._narrowed(self.cohort.selection.where(columns))

    def query(self, condition: str) -> Any:
        """Narrow by one SQL condition; see `Cohort.query`, and `search`."""
        if self._listed:
            return self.cohort.query(condition)
        return self._narrowed(self.cohort.selection.query(condition))

    @property
    def _listed(self) -> bool:
        return self._body is not None and not isinstance(self.cohort.rows, Release)

    def at(self, idc_version: int) -> IDCCohort:
        """Ask another release the same."""
        # A body may name its release, but what it asks can be asked of any.
        asked = self
        if self._body is not None and self.cohort.release:
            asked = self._narrowed(self.cohort.selection)
        moved: IDCCohort = asked.configure_new(idc_version=idc_version)
        return moved

    def _narrowed(self, selection: Selection) -> IDCCohort:
        kept = {
            key: value
            for key, value in self._captured_init_kwargs.items()
            if key not in {*self._chosen.to_arguments(), "body", "export"}
        }
        narrowed = IDCCohort(**{**kept, **selection.to_arguments()})
        narrowed.name, narrowed.description = self.name, self.description
        return narrowed


def _named_by(body: Mapping[str, Any] | str) -> int | None:
    """Give the release that a body names, if it names one."""
    data = load_body(body) if isinstance(body, str) else body
    return body_pin(data) if is_body(data) else None


def _refuse_misspelt(columns: Mapping[str, Any]) -> None:
    """Refuse a column that is nearly an argument: it would be taken for a filter.

    Raises
    ------
    RequestError
        ``idc_verison`` and its like.
    """
    known = [name for name in inspect.signature(IDCCohort).parameters if "_" in name]
    for column in columns:
        near = difflib.get_close_matches(column, known, 1, 0.8)
        if near:
            msg = f"unknown argument {column!r}; did you mean {near[0]!r}?"
            raise RequestError(msg, argument=column)
