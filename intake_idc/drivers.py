"""Intake's view, version 1 of its interface: one catalog and three sources.

They name a selection and stop: arguments are kept as plain data, and nothing is
read until something is asked. The release is an argument of every object, resolved
from "current" when the object is made and written back among its arguments, so
that YAML, pickle, hash and Dask token all carry the number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from intake.catalog import Catalog
from intake.catalog.entry import CatalogEntry
from intake.source.base import DataSource

from intake_idc.cohort import Cohort, open_idc, open_manifest
from intake_idc.errors import RequestError
from intake_idc.release import Release, open_release
from intake_idc.selection import Selection
from intake_idc.storage import resolve_mirror

if TYPE_CHECKING:
    import pandas as pd

    from intake_idc.storage import EngineName

__all__ = [
    "IDCCatalog",
    "IDCCohort",
    "IDCManifest",
    "IDCTable",
    "catalog_path",
]

Version = int | Literal["current"]

_INTAKE_ARGUMENTS = frozenset({"metadata", "name", "description"})
_COLLECTION_ID = re.compile(r"[a-z][a-z0-9_]*")

_COHORT_VERBS = frozenset(
    {
        "columns",
        "counts",
        "df",
        "diff",
        "header_rows",
        "keys",
        "licenses",
        "manifest",
        "materialize",
        "nunique",
        "plan",
        "problems",
        "release",
        "selection",
        "size",
        "table",
        "to_catalog",
        "to_manifest",
        "unique",
        "urls",
        "verify",
    }
)
"""What a source hands on to its `Cohort`."""


def catalog_path() -> str:
    """Give the path of the shipped catalog, for ``intake.open_catalog``.

    >>> import intake, intake_idc
    >>> cat = intake.open_catalog(intake_idc.catalog_path())
    >>> cat.idc.idc_version
    25
    """
    return str(Path(str(files("intake_idc.catalogs"))) / "idc.yml")


class _Pinned(DataSource):
    """A source that is what its arguments say, the release among them.

    Intake's own equality and hash fail after pickling, and its pickle forgets the
    name.
    """

    idc_version: int

    def _pin(self, **arguments: Any) -> None:
        """Write resolved arguments back among those that the source was made with."""
        self._captured_init_args = ()
        self._captured_init_kwargs = {**self._captured_init_kwargs, **arguments}

    def configure_new(self, **kwargs: Any) -> Any:
        """Give a new source with some arguments changed; the release stays."""
        new = super().configure_new(**{"idc_version": self.idc_version, **kwargs})
        new.name, new.description = self.name, self.description
        return new

    __call__ = get = configure_new

    @property
    def _identity(self) -> tuple[Any, ...]:
        kwargs = {
            key: value
            for key, value in self._captured_init_kwargs.items()
            if key not in _INTAKE_ARGUMENTS
        }
        return type(self).__qualname__, _frozen(kwargs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Pinned):
            return NotImplemented
        return self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return self._identity

    def __reduce__(self) -> tuple[Any, ...]:
        kwargs = dict(self._captured_init_kwargs)
        return _remake, (type(self), kwargs, self.name, self.description)

    def _yaml(self) -> dict[str, Any]:
        """Describe the source by its driver's name, whatever its own name is."""
        kwargs = dict(self._captured_init_kwargs)
        metadata = dict(kwargs.pop("metadata", None) or {})
        metadata.pop("catalog_dir", None)
        entry = {
            "driver": type(self).name,
            "description": self.description or "",
            "metadata": metadata,
            "args": kwargs,
        }
        return {"sources": {self.name: entry}}

    def _close(self) -> None:
        """Hold nothing open."""


def _remake(
    cls: type[_Pinned], kwargs: dict[str, Any], name: str, description: str | None
) -> _Pinned:
    source = cls(**kwargs)
    source.name, source.description = name, description
    return source


def _frozen(value: Any) -> Any:
    """Give plain data in a form that can be hashed and that has one order."""
    if isinstance(value, Mapping):
        return tuple(sorted((str(k), _frozen(v)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    return value


class _CohortSource(_Pinned):
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
            self._mirror if self._mirror is not None else cohort.mirror,
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

    def discover(self) -> dict[str, Any]:
        """Describe the data without reading an object: number of series, partitions."""
        counts = self.cohort.counts()
        self.shape = (counts["series"],)
        self.npartitions = self.to_dask().npartitions if counts["series"] else 0
        return {
            "dtype": None,
            "shape": self.shape,
            "npartitions": self.npartitions,
            "metadata": {**self.metadata, "idc_version": self.idc_version, **counts},
        }

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
        metadata: Mapping[str, Any] | None = None,
        **columns: Any,
    ) -> None:
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
        release = open_release(idc_version, tables, digest)
        self.idc_version = release.idc_version
        self._digest, self._tables, self._chosen = digest, tables, chosen
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
        whole = open_idc(self.idc_version, tables=self._tables, digest=self._digest)
        return self._placed(Cohort(whole.rows, self._chosen, mirror=whole.mirror))

    def search(self, **columns: Any) -> IDCCohort:
        """Narrow by columns; see `Cohort.search`."""
        return self._narrowed(self._chosen.where(columns))

    def query(self, condition: str) -> IDCCohort:
        """Narrow by one SQL condition; see `Cohort.query`."""
        return self._narrowed(self._chosen.query(condition))

    def at(self, idc_version: int) -> IDCCohort:
        """Ask another release the same."""
        return self.configure_new(idc_version=idc_version)

    def _narrowed(self, selection: Selection) -> IDCCohort:
        kept = {
            key: value
            for key, value in self._captured_init_kwargs.items()
            if key not in self._chosen.to_arguments()
        }
        narrowed = IDCCohort(**{**kept, **selection.to_arguments()})
        narrowed.name, narrowed.description = self.name, self.description
        return narrowed


class IDCManifest(_CohortSource):
    """Driver ``idc_manifest``: the series that an s5cmd manifest names.

    Parameters
    ----------
    urlpath : str
        A file, or a URL that fsspec reads.
    idc_version : int or "current", optional
        The release that the cohort belongs to; by default the one that the
        manifest's header names, else the current one.
    problems : "raise" or "report"
        What to do with lines that give no series; see `open_manifest`.
    tables, mirror, endpoint_url, engine, storage_options
        As for `IDCCohort`.
    """

    name = "idc_manifest"

    def __init__(
        self,
        urlpath: str | None = None,
        idc_version: Version | None = None,
        *,
        problems: Literal["raise", "report"] = "raise",
        tables: str | None = None,
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
            msg = "an idc_manifest needs the path of a manifest (urlpath)"
            raise RequestError(msg)
        self._path, self._tables, self._problems = str(urlpath), tables, problems
        if idc_version is None:
            idc_version = self._opened(None).idc_version
        self.idc_version = open_release(idc_version, tables).idc_version
        self._pin(urlpath=self._path, idc_version=self.idc_version)

    def _opened(self, idc_version: int | None) -> Cohort:
        return open_manifest(
            self._path,
            idc_version=idc_version,
            tables=self._tables,
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


class IDCTable(_Pinned):
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

    def discover(self) -> dict[str, Any]:
        """Describe the table: column types and shape."""
        table = self.table
        self.dtype = {field.name: str(field.type) for field in table.schema}
        self.shape, self.npartitions = table.shape, 1
        return {
            "dtype": self.dtype,
            "shape": self.shape,
            "npartitions": self.npartitions,
            "metadata": {**self.metadata, "idc_version": self.idc_version},
        }

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


class _CollectionEntry(CatalogEntry):
    """A collection as a catalog entry.

    Intake's own entry runs its arguments through a template engine, which has no
    business with names that come out of a table.
    """

    def __init__(self, name: str, description: str, args: dict[str, Any]) -> None:
        super().__init__()
        self._name, self._description, self._args = name, description, args
        self._container = IDCCohort.container
        self._user_parameters: list[Any] = []
        self._catalog: Any = None

    @property
    def name(self) -> str:
        """The collection's identifier."""
        return self._name

    def describe(self) -> dict[str, Any]:
        """Describe the entry as Intake's catalogs do."""
        return {
            "name": self._name,
            "container": self._container,
            "plugin": ["idc_cohort"],
            "driver": ["idc_cohort"],
            "description": self._description,
            "direct_access": True,
            "user_parameters": [],
            "metadata": {},
            "args": self._args,
        }

    def get(self, **kwargs: Any) -> IDCCohort:
        """Make the source, with some arguments changed."""
        source = IDCCohort(**{**self._args, **kwargs})
        source.name, source.description = self._name, self._description
        source.cat = source.catalog_object = self._catalog
        return source


class _Collections(Mapping[str, _CollectionEntry]):
    """The collections of a release, as entries; the index is asked when one is."""

    def __init__(self, release: Release, args: dict[str, Any]) -> None:
        self._release, self._args = release, args

    @cached_property
    def _names(self) -> dict[str, None]:
        return dict.fromkeys(self._release.distinct("collection_id"))

    @cached_property
    def _descriptions(self) -> dict[str, str]:
        if "collections_index" not in self._release.table_names:
            return {}
        table = self._release.index_table(
            "collections_index",
            ["collection_id", "collection_name", "cancer_types", "tumor_locations"],
        )
        return {
            row["collection_id"]: "; ".join(
                str(row[column])
                for column in ("collection_name", "cancer_types", "tumor_locations")
                if row[column]
            )
            for row in table.to_pylist()
        }

    def __getitem__(self, name: str) -> _CollectionEntry:
        if name not in self._names:
            raise KeyError(name)
        args = {**self._args, "collection_id": name}
        return _CollectionEntry(name, self._descriptions.get(name, ""), args)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


class IDCCatalog(_Pinned, Catalog):
    """Driver ``idc``: one release, with its collections as entries.

    >>> import intake
    >>> cat = intake.open_idc(idc_version=24)
    >>> len(cat["4d_lung"](Modality="CT"))
    6564

    Parameters
    ----------
    urlpath : None
        Taken for Intake's sake; a release has no path.
    idc_version : int or "current"
        The release.
    tables, digest
        Where the index tables are; see `open_release`.
    mirror, endpoint_url, engine, storage_options
        Where the objects are read; see `resolve_mirror`.
    """

    name = "idc"
    container = "catalog"

    def __init__(
        self,
        urlpath: None = None,
        idc_version: Version = "current",
        *,
        tables: str | None = None,
        digest: str | Mapping[str, str] | None = None,
        mirror: str | None = None,
        endpoint_url: str | None = None,
        engine: EngineName | None = None,
        storage_options: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        **intake_options: Any,
    ) -> None:
        if urlpath is not None:
            msg = f"the driver idc takes idc_version=, not a path; got {urlpath!r}"
            raise RequestError(msg)
        release = open_release(idc_version, tables, digest)
        self.idc_version = release.idc_version
        self.release = release
        reading = {
            "mirror": mirror,
            "endpoint_url": endpoint_url,
            "engine": engine,
            "storage_options": storage_options,
        }
        given = {key: value for key, value in reading.items() if value is not None}
        if given:
            resolve_mirror(**given)  # type: ignore[arg-type]
        if tables is not None:
            given["tables"] = tables
        if digest is not None:
            given["digest"] = digest
        self._shared = {"idc_version": self.idc_version, **given}
        # A release does not change, so it is never loaded again.
        options = {"name": "idc", "ttl": None, **intake_options}
        super().__init__(metadata=dict(metadata or {}), **options)
        self._pin(idc_version=self.idc_version)
        self._captured_init_kwargs.pop("urlpath", None)

    def _make_entries_container(self) -> _Collections:
        return _Collections(self.release, self._shared)

    def configure_new(self, **kwargs: Any) -> Any:
        """Give a new catalog with some arguments changed.

        Intake's own swallows an argument that has the name of a parameter.
        """
        return DataSource.configure_new(
            self, **{"idc_version": self.idc_version, **kwargs}
        )

    __call__ = get = configure_new

    @property
    def cohort(self) -> Cohort:
        """The whole release as a cohort, free of Intake."""
        return self._everything.cohort

    @property
    def _everything(self) -> IDCCohort:
        return IDCCohort(**self._shared)

    def search(self, text: str | None = None, depth: int = 2, **columns: Any) -> Any:
        """Select series by columns; or, given a text, find entries as Intake does.

        Returns
        -------
        IDCCohort
            For columns; see `Cohort.search`.
        intake.Catalog
            For a text: the collections whose description holds one of its words.
        """
        if text is not None:
            return Catalog.search(self, text, depth)
        return self._everything.search(**columns)

    def query(self, condition: str) -> IDCCohort:
        """Select series by one SQL condition; see `Cohort.query`."""
        return self._everything.query(condition)

    def counts(self) -> dict[str, int]:
        """Count series, instances, studies, patients, collections and bytes."""
        return self.cohort.counts()

    def unique(self, column: str) -> list[Any]:
        """Give the values that a column takes, sorted, null left out."""
        return self.cohort.unique(column)

    def __getattr__(self, item: str) -> Any:
        # A probe for any attribute would otherwise be looked up in the index.
        if not _COLLECTION_ID.fullmatch(item):
            raise AttributeError(item)
        return Catalog.__getattr__(self, item)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Intake catalog of IDC release {self.idc_version}>"

    def __str__(self) -> str:
        return str(self.cohort)

    def _repr_html_(self) -> str:
        return self.cohort._repr_html_()

    _ipython_display_ = None


def __getattr__(name: str) -> Any:
    if name == "builtin":
        return IDCCatalog()
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
