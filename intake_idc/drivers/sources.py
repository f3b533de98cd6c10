"""The sources: a cohort, a manifest, an index table."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from intake.source.base import Schema

from intake_idc.cohort import Cohort, open_idc, open_lock, open_manifest
from intake_idc.cohort.bodies import body_pin, is_body, load_body
from intake_idc.drivers.pinned import Pinned, Version
from intake_idc.errors import RequestError
from intake_idc.formats.reading import BIGQUERY
from intake_idc.release import Release, open_release
from intake_idc.selection import Selection
from intake_idc.storage import resolve_mirror

if TYPE_CHECKING:
    import pandas as pd

    from intake_idc.formats.reading import Kind
    from intake_idc.storage import EngineName

__all__ = ["IDCCohort", "IDCLock", "IDCManifest", "IDCTable"]

_COHORT_VERBS = frozenset(
    {
        "all",
        "annotations",
        "citations",
        "clinical",
        "columns",
        "counts",
        "df",
        "diff",
        "difference",
        "export",
        "header_rows",
        "index_table",
        "instances_table",
        "intersection",
        "keys",
        "left_out",
        "licenses",
        "lock",
        "locked",
        "manifest",
        "materialize",
        "nunique",
        "plan",
        "problems",
        "reading_from",
        "references",
        "release",
        "require_all_on",
        "sample",
        "save_instances",
        "selection",
        "size",
        "sources",
        "split_patients",
        "table",
        "to_catalog",
        "to_manifest",
        "to_table",
        "union",
        "unique",
        "urls",
        "verify",
        "with_instances",
    }
)
"""What a source hands on to its `Cohort`."""


class _CohortSource(Pinned):
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
        self._mirror = mirror
        self._reading = {
            "endpoint_url": endpoint_url,
            "engine": engine,
            "storage_options": storage_options,
        }
        if mirror is not None or any(self._reading.values()):
            # A secret or a misspelt engine is refused here, not on a worker.
            resolve_mirror(mirror, **self._reading)  # type: ignore[arg-type]

    @property
    def cohort(self) -> Cohort:
        """The cohort itself, free of Intake."""
        raise NotImplementedError

    def _placed(self, cohort: Cohort) -> Cohort:
        if self._mirror is None and not any(self._reading.values()):
            return cohort
        return cohort.reading_from(
            self._mirror,
            **self._reading,  # type: ignore[arg-type]
        )

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
            npartitions=self.to_dask().npartitions if counts["series"] else 0,
            extra_metadata={"idc_version": self.idc_version, **counts},
        )

    def to_dask(self, **options: Any) -> Any:
        """Give a Dask bag of `pydicom.Dataset`; see `Cohort.to_dask`."""
        return self.cohort.to_dask(**options)

    def read(self) -> list[Any]:
        """Read every object into memory, as a list of `pydicom.Dataset`."""
        return list(self.to_dask().compute())

    def read_partition(self, i: int) -> list[Any]:
        """Read one partition, as a list of `pydicom.Dataset`.

        Raises
        ------
        IndexError
            There is no such partition.
        """
        bag = self.to_dask()
        if not 0 <= i < bag.npartitions:
            msg = f"partition {i} of {bag.npartitions}"
            raise IndexError(msg)
        return list(bag.to_delayed()[i].compute())

    def read_chunked(self) -> Iterator[list[Any]]:
        """Read partition after partition."""
        for part in self.to_dask().to_delayed():
            yield list(part.compute())


class IDCCohort(_CohortSource):
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
        self._digest, self._tables, self._chosen = digest, tables, chosen
        self._everything, self._export = everything, export
        self._body = _named(body) if isinstance(body, str) else body
        if self._body is not None and idc_version == "current":
            idc_version = _named_by(self._body) or idc_version
        self.idc_version = open_release(idc_version, tables, digest).idc_version
        if self._body is not None:
            self._pin(body=self._body)
        for column in columns:
            del self._captured_init_kwargs[column]
        for spent in ("query", "selection"):
            self._captured_init_kwargs.pop(spent, None)
        # Conditions are kept in one form, as data: a compiled expression has no
        # place in YAML.
        self._pin(idc_version=self.idc_version, **chosen.to_arguments())

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


def _named(body: str) -> str:
    """Give the path of a body whole; JSON text as it is."""
    return body if body.lstrip().startswith("{") else _whole(body)


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


class IDCManifest(_CohortSource):
    """Driver ``idc_manifest``: the series that a manifest of any dialect names.

    Parameters
    ----------
    urlpath : str or list of str
        A file, a pattern of files, or a URL that fsspec reads; several are parts of
        one manifest.
    names : list of str
        In the place of a file: series, studies or objects by uuid, UID or URL.
    kind : str, optional
        The dialect, or what each name is; see `open_manifest`.
    objects : str, optional
        A table of objects, which tells their series; see `open_manifest`.
    drs : bool
        Whether the DRS server of the CRDC is asked for the series of objects.
    idc_version : int or "current", optional
        The release that the cohort belongs to; by default the one that the
        manifest's header names, else the current one.
    problems : "raise" or "report"
        What to do with lines that give no series; see `open_manifest`.
    tables, digest, mirror, endpoint_url, engine, storage_options
        As for `IDCCohort`.
    """

    name = "idc_manifest"

    def __init__(
        self,
        urlpath: str | list[str] | None = None,
        idc_version: Version | None = None,
        *,
        names: list[str] | None = None,
        kind: Kind | None = None,
        objects: str | None = None,
        drs: bool = False,
        problems: Literal["raise", "report"] = "raise",
        tables: str | None = None,
        digest: str | Mapping[str, str] | None = None,
        mirror: str | None = None,
        endpoint_url: str | None = None,
        engine: EngineName | None = None,
        storage_options: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            mirror=mirror,
            endpoint_url=endpoint_url,
            engine=engine,
            storage_options=storage_options,
            metadata=metadata,
        )
        if (urlpath is None) == (names is None):
            msg = "an idc_manifest needs the path of a manifest (urlpath), or names"
            raise RequestError(msg)
        # A catalog is data: it does not say which hosts are asked.
        if drs not in (True, False):
            msg = f"drs is true or false in a catalog; got {drs!r}"
            raise RequestError(msg)
        self._given: Any = names
        if urlpath is not None:
            self._given = _parts(urlpath)
        self._kind, self._drs = kind, drs
        self._objects = None if objects is None else _whole(objects)
        self._tables, self._problems = tables, problems
        self._digest = digest
        if idc_version is None:
            idc_version = self._opened(None).idc_version
        self.idc_version = open_release(idc_version, tables, digest).idc_version
        pinned: dict[str, Any] = {"idc_version": self.idc_version}
        if urlpath is not None:
            given = self._given
            several = isinstance(given, list)
            pinned["urlpath"] = [str(each) for each in given] if several else given
        if self._objects is not None:
            pinned["objects"] = self._objects
        self._pin(**pinned)

    def _opened(self, idc_version: int | None) -> Cohort:
        return open_manifest(
            self._given,
            kind=self._kind,
            objects=self._objects,
            drs=self._drs,
            idc_version=idc_version,
            tables=self._tables,
            digest=self._digest,
            problems=self._problems,
        )

    @cached_property
    def cohort(self) -> Cohort:
        """The cohort itself, free of Intake."""
        return self._placed(self._opened(self.idc_version))

    def search(self, **columns: Any) -> Cohort:
        """Narrow by columns; see `Cohort.search`."""
        return self.cohort.search(**columns)

    def query(self, condition: str) -> Cohort:
        """Narrow by one SQL condition; see `Cohort.query`."""
        return self.cohort.query(condition)


def _parts(urlpath: str | list[str]) -> str | list[Path]:
    """Give one path or URL, or the paths of the parts of one manifest, whole."""
    if not isinstance(urlpath, list | tuple):
        if urlpath.startswith(BIGQUERY):
            msg = (
                "a table of BigQuery is read with the credentials of whoever reads, "
                "which a catalog does not ask for; use open_manifest"
            )
            raise RequestError(msg, urlpath=urlpath)
        return _whole(urlpath)
    urls = [each for each in urlpath if "://" in str(each)]
    if urls or not urlpath:
        msg = f"the parts of a manifest are files of this machine; got {urlpath!r}"
        raise RequestError(msg)
    return [Path(_whole(each)) for each in urlpath]


def _whole(urlpath: object) -> str:
    """Give a path whole: it may be read from another folder, in another process."""
    path = str(urlpath)
    if "://" in path or "::" in path:
        return path
    return os.path.abspath(path)  # noqa: PTH100


class IDCLock(_CohortSource):
    """Driver ``idc_lock``: the series that a lock holds; no index is asked.

    Parameters
    ----------
    urlpath : str
        A lock, or a URL that fsspec reads.
    digest : str, optional
        The digest over all that the lock must have. Once the lock was opened, it is
        among the arguments, so that whatever is written down carries it.
    idc_version : int, optional
        The release that the lock must be of.
    mirror, endpoint_url, engine, storage_options
        As for `IDCCohort`; by default those that the lock says.
    """

    name = "idc_lock"

    def __init__(
        self,
        urlpath: str | None = None,
        digest: str | None = None,
        idc_version: int | None = None,
        *,
        mirror: str | None = None,
        endpoint_url: str | None = None,
        engine: EngineName | None = None,
        storage_options: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            mirror=mirror,
            endpoint_url=endpoint_url,
            engine=engine,
            storage_options=storage_options,
            metadata=metadata,
        )
        if urlpath is None:
            msg = "an idc_lock needs the path of a lock (urlpath)"
            raise RequestError(msg)
        self._path, self._digest = _whole(urlpath), digest
        if digest is None or idc_version is None:
            opened = open_lock(self._path, digest=digest)
            self._digest = opened.locked.digest if opened.locked else None
            if idc_version not in (None, opened.idc_version):
                self._refuse(idc_version, opened)
            idc_version = opened.idc_version
        self.idc_version = idc_version
        self._pin(urlpath=self._path, digest=self._digest, idc_version=self.idc_version)

    def _refuse(self, idc_version: int | None, opened: Cohort) -> NoReturn:
        msg = (
            f"the lock {self._path} is of release {opened.idc_version}, which nothing "
            f"moves; got idc_version={idc_version!r}"
        )
        raise RequestError(msg, idc_version=idc_version)

    @cached_property
    def cohort(self) -> Cohort:
        """The cohort itself, free of Intake."""
        opened = open_lock(self._path, digest=self._digest)
        if opened.idc_version != self.idc_version:
            self._refuse(self.idc_version, opened)
        return self._placed(opened)

    def search(self, **columns: Any) -> Cohort:
        """Narrow by columns; see `Cohort.search`."""
        return self.cohort.search(**columns)

    def query(self, condition: str) -> Cohort:
        """Narrow by one SQL condition; see `Cohort.query`."""
        return self.cohort.query(condition)


class IDCTable(Pinned):
    """Driver ``idc_table``: one index table of a release, as a data frame.

    Parameters
    ----------
    table : str
        Name of the table, such as ``idc_index`` or ``collections_index``.
    idc_version : int or "current"
        The release. ``idc_index`` is that of the release; the other tables are
        those of the source.
    tables, digest
        Where the index tables are; see `open_release`.
    columns : list of str, optional
        Columns to keep.
    """

    name = "idc_table"
    container = "dataframe"
    partition_access = True

    def __init__(
        self,
        table: str = "idc_index",
        idc_version: Version = "current",
        *,
        tables: str | None = None,
        digest: str | Mapping[str, str] | None = None,
        columns: list[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(metadata=dict(metadata or {}))
        self.release = open_release(idc_version, tables, digest)
        self.idc_version = self.release.idc_version
        self.table_name, self._columns = table, columns
        self._pin(table=table, idc_version=self.idc_version)

    @property
    def table(self) -> Any:
        """The table, as a `pyarrow.Table`."""
        return self.release.index_table(self.table_name, self._columns)

    def _get_schema(self) -> Schema:
        """Describe the table: column types and shape."""
        table = self.table
        return Schema(
            dtype={field.name: str(field.type) for field in table.schema},
            shape=table.shape,
            npartitions=1,
            extra_metadata={"idc_version": self.idc_version},
        )

    def read(self) -> pd.DataFrame:
        """Read the table as a pandas data frame."""
        return self.table.to_pandas()

    def read_partition(self, i: int) -> pd.DataFrame:
        """Read the table, which is one partition."""
        if i != 0:
            msg = f"partition {i} of 1"
            raise IndexError(msg)
        return self.read()

    def to_dask(self) -> Any:
        """Give the table as a `dask.dataframe.DataFrame`."""
        from intake_idc import lazy

        return lazy.frame(self.table)
