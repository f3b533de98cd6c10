"""Where index tables lie: the installed package, a folder, a wheel, or a URL."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

from intake_idc import cache
from intake_idc.credentials import refuse_in_url
from intake_idc.errors import IntegrityError, RequestError, TableNotFound, nearest
from intake_idc.release import fetching
from intake_idc.release.facts import published_tables

__all__ = [
    "INSTALLED",
    "PACKAGE",
    "SAMPLE",
    "Tables",
    "find_tables",
    "installed_version",
    "own_tables",
    "sample_path",
]

PACKAGE = "idc-index-data"
SAMPLE = "sample"
INSTALLED = "installed"
INDEX = "idc_index.parquet"

_NEEDED = {"version_metadata_index": 24, "prior_versions_index": 18, "idc_index": 0}
"""Tables that opening a release reads, and the package that was first to have each."""


def sample_path() -> Path:
    """Give the folder of the embedded sample: ``bucket/`` and ``tables/``."""
    return Path(str(files("intake_idc.sample")))


@dataclass(frozen=True)
class Tables:
    """A folder of index tables on this machine, and what it is."""

    spec: str | None
    """What the user named: None is the installed package, else a folder or URL."""
    folder: Path
    """Where the Parquet files lie."""
    source: str
    """Name and version of the source, as a pin shows it."""
    newest: int | None
    """Newest release in the tables, where the source says so without reading."""
    digests: tuple[tuple[str, str], ...] = ()
    """SHA-256 that tables must have, by file name."""
    package: str | None = None
    """Version of idc-index-data that the tables belong to, where it is known."""
    state: tuple[tuple[str, int, int, int], ...] = ()
    """Name, size, time and inode of each file, where somebody may replace them."""

    def check(self) -> None:
        """Refuse tables that were replaced since they were found: an update does that.

        Raises
        ------
        IntegrityError
            The index is not the file that it was.
        """
        if self.state and _state(self.folder, INDEX) != [
            each for each in self.state if each[0] == INDEX
        ]:
            msg = (
                f"{self.folder / INDEX} was replaced while it was in use; "
                "open the release again"
            )
            raise IntegrityError(msg, path=str(self.folder / INDEX))

    @property
    def extra(self) -> Path | None:
        """Where tables of the package lie that were fetched on demand."""
        if self.package is None:
            return None
        return fetching.package_folder(self.package)

    def local(self, table: str) -> Path | None:
        """Give the path of a table that is on this machine, else None."""
        for folder in (self.folder, self.extra):
            if folder is not None and (folder / f"{table}.parquet").is_file():
                return folder / f"{table}.parquet"
        return None

    def path(self, table: str) -> Path:
        """Give the path of one table; one that a package leaves out is fetched.

        Raises
        ------
        TableNotFound
            There is no such table, or it cannot be fetched; the message says which
            file to put where.
        IntegrityError
            What came is not the table.
        """
        path = self.local(table)
        if path is not None:
            return path
        expected = self.folder / f"{table}.parquet"
        if self.package is not None and table in published_tables():
            return fetching.fetch_table(self.package, table)
        near = nearest(table, self.all_names)
        known = f"; there are: {', '.join(self.all_names) or 'none'}"
        # A package has the tables that it has; into a folder one can be put.
        where = "" if self.package else f"; expected the file {expected}"
        msg = f"table {table!r} is not among the tables of {self.source}"
        msg = f"{msg}{where}{near or known}"
        raise TableNotFound(msg, table=table, path=str(expected))

    def has(self, table: str) -> bool:
        """Say whether a table is on this machine."""
        return self.local(table) is not None

    @property
    def names(self) -> list[str]:
        """Names of the tables on this machine."""
        found = {path.stem for path in self.folder.glob("*.parquet")}
        if self.extra is not None and self.extra.is_dir():
            found |= {path.stem for path in self.extra.glob("*.parquet")}
        return sorted(found)

    @property
    def _published(self) -> tuple[str, ...]:
        return published_tables() if self.package is not None else ()

    @property
    def all_names(self) -> list[str]:
        """Names of the tables on this machine and of those that can be fetched."""
        return sorted({*self.names, *self._published})


def _state(folder: Path, pattern: str = "*.parquet") -> list[tuple[str, int, int, int]]:
    found = []
    paths = folder.glob(pattern) if "*" in pattern else [folder / pattern]
    for path in sorted(paths):
        with suppress(OSError):  # It has gone since.
            stat = path.stat()
            found.append((path.name, stat.st_size, stat.st_mtime_ns, stat.st_ino))
    return found


def find_tables(
    spec: str | os.PathLike[str] | None = None,
    digest: Mapping[str, str] | str | None = None,
) -> Tables:
    """Find index tables: the installed package, a folder, a wheel, or a URL.

    Parameters
    ----------
    spec : str or path, optional
        None or ``"installed"`` is the installed package ``idc-index-data``;
        ``"sample"`` is the embedded sample; ``"idc-index-data==20.0.3"`` is that
        package from wherever it is at hand or published; else a folder that holds
        ``idc_index.parquet`` (or the package itself, in the library of another
        Python), a wheel of the package, or a URL of either that fsspec reads. A URL
        may be chained (``zip://idc_index_data::https://.../package.whl``).
    digest : str or dict, optional
        SHA-256 of ``idc_index.parquet``, or of several tables by file name, as
        hex. Behind a URL, a ``<table>.parquet.sha256`` beside a table serves
        where no digest is given.

    Raises
    ------
    TableNotFound
        There is no ``idc_index.parquet``.
    IntegrityError
        A table is not what its digest says, or a wheel not what was published.
    StorageError
        The URL cannot be read.
    """
    digests = {"idc_index.parquet": digest} if isinstance(digest, str) else digest
    if not _is_digests(digests):
        msg = f"digest is SHA-256 as hex, or that by file name; got {digest!r}"
        raise RequestError(msg, digest=digest)
    known = tuple(sorted((digests or {}).items()))
    named = None if spec is None else str(spec)
    if named is not None:
        refuse_in_url(named, "tables")
    if named is None or named == INSTALLED:
        tables = _installed()
    elif named == SAMPLE:
        tables = Tables(SAMPLE, sample_path() / "tables", "the embedded sample", None)
    elif re.match(rf"{PACKAGE}\s*==", named):
        tables = _required(named)
    elif "::" in named or ("://" in named and not named.endswith(".whl")):
        folder = fetching.fetch_folder(named, known)
        package = fetching.version_in(named)
        tables = Tables(named, folder, named, _release(package), package=package)
    elif named.endswith(".whl"):
        tables = _wheel(named)
    else:
        with fetching.reading(named):
            tables = _folder(fetching.local_path(named))
    cache.hold(tables.folder)
    if tables.extra is not None:
        cache.hold(tables.extra)
    tables.path("idc_index")
    for file, expected in known:
        check_digest(tables.path(file.removesuffix(".parquet")), expected)
    return replace(tables, digests=known, state=_state_of(tables))


def _state_of(tables: Tables) -> tuple[tuple[str, int, int, int], ...]:
    """Give the state of tables; what the cache holds is always the same."""
    place = cache.folder()
    if place is not None and place in tables.folder.parents:
        return ()
    return tuple(_state(tables.folder))


def _is_digests(digests: object) -> bool:
    if digests is None:
        return True
    return isinstance(digests, Mapping) and all(
        isinstance(text, str) for pair in digests.items() for text in pair
    )


def own_tables(idc_version: int) -> Tables | None:
    """Find the package that was published with a release, if it is at hand.

    It is looked for among the packages that `fetching.shelf` names, and those that
    were fetched before; nothing is fetched.
    """
    version = fetching.newest_at_hand(idc_version)
    if version is None or _release(version) == _release(installed_version()):
        return None
    return find_tables(f"{PACKAGE}=={version}")


def _release(package: str | None) -> int | None:
    return None if package is None else int(package.split(".")[0])


def installed_version() -> str | None:
    """Give the version of the installed package; None where there is none."""
    found = importlib.util.find_spec("idc_index_data")
    return None if found is None else _installed().package


def _installed() -> Tables:
    found = importlib.util.find_spec("idc_index_data")
    if found is None or not found.submodule_search_locations:
        msg = (
            f"the package {PACKAGE} is not installed, so there are no index tables; "
            f"install it (pip install {PACKAGE}), or name a folder or URL with tables="
        )
        raise TableNotFound(msg, table="idc_index")
    folder = Path(next(iter(found.submodule_search_locations)))
    version = _version(folder, folder.stat().st_mtime_ns)
    source = f"{PACKAGE} {version}"
    return Tables(None, folder, source, _release(version), package=version)


@functools.cache
def _version(folder: Path, _changed: int) -> str:
    """Give the version of the installed package, whose folder an update changes."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        version = fetching.version_of(folder)
        if version is None:
            msg = (
                f"{folder} is not the package {PACKAGE}, though Python would import "
                f"it; install {PACKAGE}, or name a folder or URL with tables="
            )
            raise TableNotFound(msg, table="idc_index", path=str(folder)) from error
        return version


def _required(requirement: str) -> Tables:
    """Find a package by its version: installed, on the shelf, or published."""
    version = requirement.partition("==")[2].strip()
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        msg = f"a package is named as {PACKAGE}==25.0.5; got {requirement!r}"
        raise TableNotFound(msg, table="idc_index")
    if importlib.util.find_spec("idc_index_data") is not None:
        installed = _installed()
        if installed.package == version:
            return replace(installed, spec=f"{PACKAGE}=={version}")
    folder = fetching.package_at_hand(version)
    if folder is None:
        folder = fetching.package_folder(version)
        for table, since in _NEEDED.items():
            if (_release(version) or 0) >= since:
                fetching.fetch_table(version, table)
    source = f"{PACKAGE} {version}"
    spec = f"{PACKAGE}=={version}"
    return Tables(spec, folder, source, _release(version), package=version)


def _wheel(named: str) -> Tables:
    version = fetching.version_in(named)
    if version is None:
        msg = f"a wheel is named {PACKAGE.replace('-', '_')}-<version>-...; got {named}"
        raise TableNotFound(msg, table="idc_index", path=named)
    folder = fetching.unpacked(named)
    source = f"{PACKAGE} {version}"
    local = "://" not in named
    spec = str(fetching.local_path(named)) if local else named
    return Tables(spec, folder, source, _release(version), package=version)


def _folder(folder: Path) -> Tables:
    """Find tables in a folder, or in the package inside it."""
    spec = str(folder)
    if not folder.is_dir():
        msg = (
            f"there is no folder {folder} with tables; expected idc_index.parquet in it"
        )
        raise TableNotFound(msg, table="idc_index", path=spec)
    inner = folder / "idc_index_data"
    if inner.is_dir() and not (folder / "idc_index.parquet").exists():
        folder = inner
    version = fetching.version_of(folder)
    if not (folder / "idc_index.parquet").exists():
        folder = fetching.converted(folder) or folder
    source = spec if version is None else f"{PACKAGE} {version} in {spec}"
    return Tables(spec, folder, source, _release(version), package=version)


def check_digest(path: Path, expected: str) -> None:
    """Compare a file with the SHA-256 that it must have.

    Raises
    ------
    IntegrityError
        It has another.
    """
    found = cache.sha256(path)
    if found != expected.lower():
        msg = f"{path.name}: SHA-256 is {found}, expected {expected}; do not use it"
        raise IntegrityError(msg, path=str(path), expected=expected, found=found)
