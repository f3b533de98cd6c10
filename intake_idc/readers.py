"""Intake's view, version 2 of its interface: datatypes, readers, one catalog.

A datatype says which data, as plain data with the release as a number; a reader
says what to make of it. Both are thin: a `Release` or a `Cohort` does the work.

Intake imports this module whenever it is imported itself, so that it recognises a
manifest for people who never imported this package. So nothing of ours, and nothing
heavy, is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from intake.readers.datatypes import BaseData, FileData
from intake.readers.entry import Catalog, DataDescription, ReaderDescription
from intake.readers.readers import BaseReader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from intake_idc.cohort import Cohort
    from intake_idc.formats.reading import Kind
    from intake_idc.lazy import InstanceBag
    from intake_idc.release import Release

__all__ = [
    "DaskIDCInstances",
    "IDCCollections",
    "IDCManifest",
    "IDCSelection",
    "IDCTable",
    "PandasIDCSeries",
    "PandasIDCTable",
]

_LINE = (
    rb"(?m)^(?:(?:cp|sync) )?(?:s3|gs)://[^/\s]{1,63}/"
    rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}/\*"
)
"""A line of a manifest that names a series, whatever the file is called."""


class _Described(BaseData):
    """Data that comes out of a catalog as it was put in."""

    def to_entry(self) -> DataDescription:
        """Describe the data for a catalog.

        Braces are doubled, because Intake fills in, and runs, what stands in single
        ones when it reads a catalog: a value from a table would be obeyed.
        """
        entry = super().to_entry()
        entry.kwargs = _doubled(
            {k: v for k, v in entry.kwargs.items() if v is not None}
        )
        return entry

    def __dask_tokenize__(self) -> tuple[str, str]:
        return self.qname(), self.token


class IDCTable(_Described):
    """One index table of a release.

    Parameters
    ----------
    table : str
        Name of the table, such as ``idc_index`` or ``collections_index``.
    release : int or "current"
        The release; "current" is resolved at once to a number.
    tables, digest
        Where the index tables are; see `open_release`.
    """

    structure: ClassVar[set[str]] = {"table"}

    def __init__(
        self,
        table: str = "idc_index",
        release: int | Literal["current"] = "current",
        *,
        tables: str | None = None,
        digest: str | Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(metadata)
        self.table, self.digest = table, digest
        self.release, self.tables = release, tables
        opened = self.open()
        self.release, self.tables = opened.idc_version, opened.spec

    def open(self) -> Release:
        """Open the release that the table belongs to."""
        from intake_idc.release import open_release

        return open_release(self.release, self.tables, self.digest)


class IDCSelection(_Described):
    """Series of one release that fulfil every condition.

    Parameters
    ----------
    conditions : dict, str, or list of these
        Conditions by column, as for `Cohort.search`, or in SQL, as for
        `Cohort.query`. In YAML, a regular expression is
        ``{regex: "chest", flags: [IGNORECASE]}``.
    release : int or "current"
        The release; "current" is resolved at once to a number.
    tables, digest
        Where the index tables are; see `open_release`.
    mirror : str or dict, optional
        Where the objects are read: "aws", "gcs", a folder, a URL; or the arguments
        of `Cohort.reading_from` by name.
    body : dict or str, optional
        A body of the IDC API, or the path or URL of one as a JSON file, which the
        conditions narrow; see `open_cohort`. The release that it names is taken.
    export : str, optional
        Where the Parquet export lies, for a body that needs it.
    """

    structure: ClassVar[set[str]] = {"sequence", "table"}

    def __init__(
        self,
        conditions: Mapping[str, Any] | str | Sequence[Mapping[str, Any] | str] = (),
        release: int | Literal["current"] = "current",
        *,
        tables: str | None = None,
        digest: str | Mapping[str, str] | None = None,
        mirror: str | Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | str | None = None,
        export: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(metadata)
        several = isinstance(conditions, list | tuple)
        self.conditions: list[Any] = list(conditions) if several else [conditions]
        self.release, self.tables = release, tables
        self.digest, self.mirror = digest, mirror
        from intake_idc.cohort.bodies import lasting_body
        from intake_idc.files import whole_path
        from intake_idc.release import Release

        self.body = None if body is None else lasting_body(body)
        self.export = None if export is None else whole_path(export)

        cohort = self.open()
        self.release, self.tables = cohort.idc_version, cohort.rows.spec
        if not isinstance(cohort.rows, Release):
            return  # A list of series: what made it is kept as it is.
        self.body = self.export = None
        # One form for what says the same; a compiled expression is no plain data.
        said = cohort.selection.to_dict()
        self.conditions = [{c["column"]: c["is"]} for c in said["where"]] + said["sql"]
        if cohort.selection.commercial_use:
            self.conditions.append({"commercial_use": True})

    def open(self) -> Cohort:
        """Give the series as a cohort."""
        from intake_idc.cohort import open_cohort, open_idc

        if self.body is None:
            cohort = open_idc(self.release, tables=self.tables, digest=self.digest)
        else:
            cohort = open_cohort(
                self.body,
                idc_version=None if self.release == "current" else self.release,
                tables=self.tables,
                digest=self.digest,
                export=self.export,
            )
        for condition in self.conditions:
            if isinstance(condition, str):
                cohort = cohort.query(condition)
            else:
                cohort = cohort.search(**condition)
        return _read_from(self.mirror, cohort)


class IDCManifest(_Described, FileData):
    """The series that a manifest of any dialect names.

    Parameters
    ----------
    url : str
        A file, or a URL that fsspec reads.
    release : int or "current", optional
        The release that the cohort belongs to; by default the one that the
        manifest's header names, else the current one.
    kind, problems, tables, digest, objects
        See `open_manifest`.
    drs : bool
        Whether the DRS server of the CRDC is asked for the series of objects.
    mirror
        As for `IDCSelection`.
    """

    filepattern = r"\.s5cmd(\.(gz|bz2|xz|zip))?$"
    magic: ClassVar[set[tuple[None, bytes]]] = {(None, _LINE)}
    structure: ClassVar[set[str]] = {"sequence", "table"}

    def __init__(
        self,
        url: str,
        release: int | Literal["current"] | None = None,
        *,
        kind: Kind | None = None,
        problems: Literal["raise", "report"] = "raise",
        tables: str | None = None,
        digest: str | Mapping[str, str] | None = None,
        objects: str | None = None,
        drs: bool = False,
        mirror: str | Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        FileData.__init__(self, str(url), metadata=metadata)
        self.release, self.kind, self.problems = release, kind, problems
        self.tables, self.digest = tables, digest
        self.objects, self.mirror = objects, mirror
        self.drs: Any = drs
        self.release = self.open().idc_version

    def open(self) -> Cohort:
        """Give the series as a cohort."""
        from intake_idc.cohort import open_manifest
        from intake_idc.errors import RequestError
        from intake_idc.formats import BIGQUERY

        if self.url.startswith(BIGQUERY):
            msg = "a table of BigQuery needs credentials; use open_manifest"
            raise RequestError(msg, url=self.url)
        if not isinstance(self.drs, bool):
            msg = f"drs is true or false in a catalog; got {self.drs!r}"
            raise RequestError(msg, argument="drs")
        cohort = open_manifest(
            self.url,
            kind=self.kind,
            idc_version=self.release,
            tables=self.tables,
            digest=self.digest,
            objects=self.objects,
            drs=self.drs,
            problems=self.problems,
        )
        return _read_from(self.mirror, cohort)


class PandasIDCTable(BaseReader):
    """Read an index table as a pandas data frame."""

    implements: ClassVar[set[type]] = {IDCTable}
    imports: ClassVar[set[str]] = {"pandas"}
    output_instance = "pandas:DataFrame"

    def _read(
        self, data: IDCTable, columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Read every row; ``columns`` are those to keep."""
        return data.open().index_table(data.table, columns).to_pandas()


class PandasIDCSeries(BaseReader):
    """Read the rows of a cohort, one for each series, as a pandas data frame."""

    implements: ClassVar[set[type]] = {IDCSelection, IDCManifest}
    imports: ClassVar[set[str]] = {"pandas"}
    output_instance = "pandas:DataFrame"

    def _read(self, data: IDCSelection | IDCManifest) -> pd.DataFrame:
        """Read every column; see `Cohort.df`."""
        return data.open().df


class DaskIDCInstances(BaseReader):
    """Give the objects of a cohort as a Dask bag of `DicomObject`."""

    implements: ClassVar[set[type]] = {IDCSelection, IDCManifest}
    imports: ClassVar[set[str]] = {"dask", "pydicom"}
    output_instance = "dask.bag.core:Bag"

    def _read(self, data: IDCSelection | IDCManifest, **options: Any) -> InstanceBag:
        """Open nothing before compute; for the options see `Cohort.to_dask`."""
        return data.open().to_dask(**options)


class IDCCollections(BaseReader):
    """Give the collections of a selection as a catalog, with one entry for each."""

    implements: ClassVar[set[type]] = {IDCSelection}
    output_instance = "intake.readers.entry:Catalog"

    def _read(self, data: IDCSelection) -> Catalog:
        """Ask the index for the names; an entry is made when it is asked for."""
        catalog = Catalog(metadata={"idc_version": data.release})
        said = data.to_entry()
        for name in data.open().unique("collection_id"):
            conditions = [*said.kwargs["conditions"], {"collection_id": [name]}]
            kwargs = {**said.kwargs, "conditions": conditions}
            series = catalog.add_entry(DataDescription(said.datatype, kwargs))
            instances = ReaderDescription(
                DaskIDCInstances.qname(),
                {"data": f"{{data({series})}}"},
                output_instance=DaskIDCInstances.output_instance,
            )
            catalog.aliases[name] = catalog.add_entry(instances)
        return catalog

    def __getattr__(self, name: str) -> Any:
        # Intake looks up in the catalog whatever is probed for, and says KeyError:
        # pickling would read the index, and on Python 3.10 fail.
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return super().__getattr__(name)
        except KeyError:
            raise AttributeError(name) from None


def _doubled(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("{", "{{").replace("}", "}}")
    if isinstance(value, dict):
        return {key: _doubled(item) for key, item in value.items()}
    return [_doubled(item) for item in value] if isinstance(value, list) else value


def _read_from(mirror: str | Mapping[str, Any] | None, cohort: Cohort) -> Cohort:
    if mirror is None:
        return cohort
    given = {"mirror": mirror} if isinstance(mirror, str) else mirror
    return cohort.reading_from(**{"mirror": cohort.mirror, **given})
