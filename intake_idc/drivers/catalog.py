"""The catalog: one release, with its collections as entries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from intake.catalog import Catalog
from intake.catalog.entry import CatalogEntry
from intake.source.base import DataSource

from intake_idc.drivers.pinned import Pinned, Version, lasting_mirror
from intake_idc.drivers.sources import IDCCohort
from intake_idc.errors import RequestError
from intake_idc.release import Release, open_release
from intake_idc.storage import resolve_mirror

if TYPE_CHECKING:
    from intake_idc.cohort import Cohort
    from intake_idc.storage import EngineName

__all__ = ["IDCCatalog"]

_COLLECTION_ID = re.compile(r"[a-z][a-z0-9_]*")


class _CollectionEntry(CatalogEntry):
    """A collection as a catalog entry.

    Intake's own entry runs its arguments through a template engine, which has no
    business with names that come out of a table.
    """

    def __init__(
        self, *, name: str, description: str, driver: str, args: dict[str, Any]
    ) -> None:
        super().__init__()
        self._name, self._description, self._args = name, description, args
        self._driver = driver
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
            "plugin": [self._driver],
            "driver": [self._driver],
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
        # Intake writes a catalog down from the keywords that its entries were made of.
        return _CollectionEntry(
            name=name,
            description=self._descriptions.get(name, ""),
            driver=IDCCohort.name,
            args=args,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


class IDCCatalog(Pinned, Catalog):
    """Driver ``idc``: one release, with its collections as entries.

    >>> import intake
    >>> cat = intake.open_idc(idc_version=24)
    >>> len(cat["4d_lung"](Modality="CT"))
    5890

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
        urlpath: object = None,
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
        given: dict[str, Any] = {
            key: value for key, value in reading.items() if value is not None
        }
        if mirror is not None:
            given["mirror"] = lasting_mirror(**given)
        elif given:
            resolve_mirror(**given)
        if tables is not None:
            given["tables"] = release.spec
        if digest is not None:
            given["digest"] = digest
        self._shared: dict[str, Any] = {"idc_version": self.idc_version, **given}
        # A release does not change, so it is never loaded again.
        options = {"name": "idc", "ttl": None, **intake_options}
        super().__init__(metadata=dict(metadata or {}), **options)
        places = {key: given[key] for key in ("tables", "mirror") if key in given}
        self._pin(idc_version=self.idc_version, **places)
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
        narrowed: IDCCohort = self._everything.query(condition)
        return narrowed

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
