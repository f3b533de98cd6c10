"""The sources that are lists of series: a manifest, a lock."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from intake_idc.cohort import Cohort, open_lock, open_manifest
from intake_idc.drivers.pinned import Version, lasting_path
from intake_idc.drivers.sources import CohortSource
from intake_idc.errors import RequestError
from intake_idc.files import whole_path
from intake_idc.formats import BIGQUERY

if TYPE_CHECKING:
    import os

    from intake_idc.formats.reading import Kind
    from intake_idc.storage import EngineName

__all__ = ["IDCLock", "IDCManifest"]


class IDCManifest(CohortSource):
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
        _check_listing(names, drs)
        self._given: Any = names
        if urlpath is not None:
            self._given = _parts(urlpath)
        self._kind, self._drs = kind, drs
        self._objects = None if objects is None else lasting_path(objects, "objects")
        self._tables, self._problems = tables, problems
        self._digest = digest
        if idc_version is None:
            idc_version = self._opened(None).idc_version
        self._pin_release(idc_version, tables, digest)
        pinned: dict[str, Any] = {}
        if names is not None:
            self._given = pinned["names"] = list(names)
        elif isinstance(self._given, list):
            pinned["urlpath"] = [str(each) for each in self._given]
        else:
            pinned["urlpath"] = self._given
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


def _check_listing(names: object, drs: object) -> None:
    """Check what a catalog may have got wrong, and what must not stand in one.

    Raises
    ------
    RequestError
        ``names`` is no list of texts, or ``drs`` is neither true nor false: a
        catalog is data, and does not say which hosts are asked.
    """
    listed = names is None or isinstance(names, list | tuple)
    if not listed or not all(isinstance(name, str) for name in names or ()):  # type: ignore[attr-defined]
        msg = f"names is a list of texts; got {names!r}"
        raise RequestError(msg, argument="names")
    if not isinstance(drs, bool):
        msg = f"drs is true or false in a catalog; got {drs!r}"
        raise RequestError(msg, argument="drs")


def _parts(urlpath: str | os.PathLike[str] | list[str]) -> str | list[Path]:
    """Give one path or URL, or the paths of the parts of one manifest, whole."""
    if not isinstance(urlpath, list | tuple):
        if str(urlpath).startswith(BIGQUERY):
            msg = (
                "a table of BigQuery is read with the credentials of whoever reads, "
                "which a catalog does not ask for; use open_manifest"
            )
            raise RequestError(msg, urlpath=urlpath)
        return lasting_path(urlpath, "manifest")
    urls = [each for each in urlpath if "://" in str(each)]
    if urls or not urlpath:
        msg = f"the parts of a manifest are files of this machine; got {urlpath!r}"
        raise RequestError(msg)
    return [Path(whole_path(each)) for each in urlpath]


class IDCLock(CohortSource):
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
        self._path, self._digest = lasting_path(urlpath, "lock"), digest
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
