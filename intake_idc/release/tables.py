"""Where index tables lie: the installed package, a folder, or a URL."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import tempfile
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from intake_idc.credentials import refuse_in_url
from intake_idc.errors import IntegrityError, StorageError, TableNotFound, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fsspec import AbstractFileSystem

__all__ = ["PACKAGE", "SAMPLE", "Tables", "find_tables", "sample_path"]

PACKAGE = "idc-index-data"
SAMPLE = "sample"

REMOTE_TABLES = (
    "idc_index",
    "prior_versions_index",
    "collections_index",
    "analysis_results_index",
    "version_metadata_index",
)
"""Tables that are fetched from a URL; the first must be there."""


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

    def path(self, table: str) -> Path:
        """Give the path of one table.

        Raises
        ------
        TableNotFound
            The file is not there; the message says which file to put where.
        """
        path = self.folder / f"{table}.parquet"
        if not path.is_file():
            near = nearest(table, self.names)
            at_hand = f"; at hand: {', '.join(self.names) or 'none'}"
            msg = (
                f"table {table!r} is not among the tables of {self.source}; "
                f"expected the file {path}{near or at_hand}"
            )
            raise TableNotFound(msg, table=table, path=str(path))
        return path

    def has(self, table: str) -> bool:
        """Say whether a table is at hand."""
        return (self.folder / f"{table}.parquet").is_file()

    @property
    def names(self) -> list[str]:
        """Names of the tables at hand."""
        return sorted(path.stem for path in self.folder.glob("*.parquet"))


def find_tables(
    spec: str | os.PathLike[str] | None = None,
    digest: Mapping[str, str] | str | None = None,
) -> Tables:
    """Find index tables: the installed package, a folder, or a URL.

    Parameters
    ----------
    spec : str or path, optional
        None is the installed package ``idc-index-data``; ``"sample"`` is the
        embedded sample; else a folder, or any URL that fsspec reads, which holds
        ``idc_index.parquet``. A URL may be chained
        (``zip://idc_index_data::https://.../idc_index_data-25.0.5-py3-none-any.whl``).
        The tables behind a URL are copied into a temporary folder of this process.
    digest : str or dict, optional
        SHA-256 of ``idc_index.parquet``, or of several tables by file name, as
        hex. Behind a URL, a ``<table>.parquet.sha256`` beside a table serves
        where no digest is given.

    Raises
    ------
    TableNotFound
        There is no ``idc_index.parquet``.
    IntegrityError
        A table is not what its digest says.
    StorageError
        The URL cannot be read.
    """
    digests = {"idc_index.parquet": digest} if isinstance(digest, str) else digest
    known = tuple(sorted((digests or {}).items()))
    if spec is not None:
        refuse_in_url(str(spec), "tables")
    if spec is None:
        tables = _installed()
    elif str(spec) == SAMPLE:
        tables = Tables(SAMPLE, sample_path() / "tables", "the embedded sample", None)
    elif "://" in str(spec) or "::" in str(spec):
        return _fetched(str(spec), known)
    else:
        folder = Path(spec).expanduser().absolute()
        tables = Tables(str(folder), folder, str(folder), None)
    tables.path("idc_index")
    for file, expected in known:
        _check_digest(tables.path(file.removesuffix(".parquet")), expected)
    return replace(tables, digests=known)


@functools.cache
def _installed() -> Tables:
    found = importlib.util.find_spec("idc_index_data")
    if found is None or not found.submodule_search_locations:
        msg = (
            f"the package {PACKAGE} is not installed, so there are no index tables; "
            f"install it (pip install {PACKAGE}), or name a folder or URL with tables="
        )
        raise TableNotFound(msg, table="idc_index")
    version = importlib.metadata.version(PACKAGE)
    folder = Path(next(iter(found.submodule_search_locations)))
    return Tables(None, folder, f"{PACKAGE} {version}", int(version.split(".")[0]))


@functools.cache
def _temporary_folder(_pid: int) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="intake-idc-tables-")


@functools.cache
def _fetched(url: str, digests: tuple[tuple[str, str], ...]) -> Tables:
    """Copy the tables behind a URL here, once in a process, each checked."""
    import fsspec

    known = dict(digests)
    root = Path(_temporary_folder(os.getpid()).name)
    folder = Path(tempfile.mkdtemp(dir=root))
    try:
        filesystem, base = fsspec.url_to_fs(url)
        for table in REMOTE_TABLES:
            _fetch(filesystem, f"{base.rstrip('/')}/{table}.parquet", folder, known)
    except (OSError, ValueError, ImportError) as error:
        msg = f"the tables at {url} cannot be read: {type(error).__name__}: {error}"
        raise StorageError(msg, url=url) from error
    tables = Tables(url, folder, url, None, digests)
    tables.path("idc_index")
    return tables


def _fetch(
    filesystem: AbstractFileSystem, path: str, folder: Path, digests: Mapping[str, str]
) -> None:
    """Copy one table, or nothing where there is none."""
    target = folder / path.rsplit("/", 1)[1]
    part = target.with_suffix(".part")
    try:
        filesystem.get_file(path, str(part))
    except FileNotFoundError:
        return
    expected = digests.get(target.name)
    if expected is None:
        try:
            # sha256sum writes "<hex>  <file name>".
            expected = filesystem.cat_file(f"{path}.sha256").split()[0].decode()
        except FileNotFoundError:
            expected = None
    if expected is not None:
        _check_digest(part, expected)
    _check_footer(part, path)
    part.replace(target)


def _check_footer(path: Path, url: str) -> None:
    """Refuse an HTML page or half a file that came instead of a table."""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 4))
        end = file.read(4)
    if start != b"PAR1" or end != b"PAR1":
        msg = f"{url} is not a whole Parquet file (it begins {start!r}, ends {end!r})"
        raise IntegrityError(msg, url=url)


def _check_digest(path: Path, expected: str) -> None:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    found = sha.hexdigest()
    if found != expected.lower():
        msg = f"{path.name}: SHA-256 is {found}, expected {expected}; do not use it"
        raise IntegrityError(msg, path=str(path), expected=expected, found=found)
