"""Bringing tables here: from a wheel, a mirror of one's own, or where IDC puts them.

A table comes to its name only whole and checked: it is written beside and renamed,
its SHA-256 is compared with the side-car of its place (a wheel's with the one that
was published), and its footer must be that of Parquet, which an HTML page or half a
file is not.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import tempfile
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from intake_idc import cache
from intake_idc.credentials import refuse_in_url
from intake_idc.errors import IDCError, IntegrityError, StorageError, TableNotFound
from intake_idc.files import beside
from intake_idc.release import generations
from intake_idc.release.facts import published_wheels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fsspec import AbstractFileSystem

__all__ = [
    "ARTIFACTS_VARIABLE",
    "converted",
    "fetch_folder",
    "fetch_table",
    "local_path",
    "newest_at_hand",
    "package_at_hand",
    "package_folder",
    "reading",
    "shelf",
    "unpacked",
    "version_in",
    "version_of",
]

ARTIFACTS_VARIABLE = "INTAKE_IDC_ARTIFACTS"

PUBLISHED = (
    "https://storage.googleapis.com/idc-index-data-artifacts/{version}/release_artifacts",
    "https://github.com/ImagingDataCommons/idc-index-data/releases/download/{version}",
)
"""Where IDC publishes the tables of each index package, the side-cars beside."""

REMOTE_TABLES = (
    "idc_index",
    "prior_versions_index",
    "collections_index",
    "analysis_results_index",
    "version_metadata_index",
)
"""Tables that are fetched from a folder behind a URL; the first must be there."""

LARGEST = 2 << 30
"""Bytes that a table in a wheel may have: 27 times those of the largest there is."""

_VERSION = r"(\d+\.\d+\.\d+)"
_LAYOUTS = ("{version}/release_artifacts", "{version}", "")
"""Where a table of a version may lie below a mirror of the published tables."""


# What is named, and what is at hand.


def shelf() -> str | None:
    """Give the user's own mirror of the index packages, a folder or URL, if named.

    The environment variable ``INTAKE_IDC_ARTIFACTS``. It may hold wheels of
    idc-index-data, and tables as ``<version>/<table>.parquet`` or as the published
    places have them, ``<version>/release_artifacts/<table>.parquet``.
    """
    named = os.environ.get(ARTIFACTS_VARIABLE) or None
    if named is not None:
        refuse_in_url(named, ARTIFACTS_VARIABLE)
    return named


def version_in(name: str) -> str | None:
    """Read the version of a package off a wheel's name or a published address."""
    wheel = re.search(rf"idc_index_data-{_VERSION}-[^/]*\.whl", name)
    place = re.search(rf"/{_VERSION}/release_artifacts(?:/|$)", name)
    release = re.search(rf"/releases/download/{_VERSION}(?:/|$)", name)
    found = wheel or place or release
    return found[1] if found else None


def version_of(folder: Path) -> str | None:
    """Read the version of a package off its folder, running none of it."""
    with suppress(OSError):
        text = (folder / "_version.py").read_text("utf-8", errors="replace")
        found = re.search(
            rf"^(?:__version__ = )?version = ['\"]{_VERSION}", text, re.MULTILINE
        )
        if found:
            return found[1]
    found = re.search(rf"/{_VERSION}/?$", folder.as_posix())
    if found and (folder / "idc_index.parquet").exists():
        return found[1]
    return version_in(f"{folder.as_posix()}/")


def package_folder(version: str) -> Path:
    """Give the folder where tables of a package lie that were fetched."""
    place = cache.folder()
    root = _temporary_folder(os.getpid()) if place is None else place
    return root / "tables" / version


def newest_at_hand(idc_version: int) -> str | None:
    """Give the newest package of a release that is on the shelf or was fetched."""
    found = {
        path.parent.name
        for path in package_folder("x").parent.glob(
            f"{idc_version}.*/idc_index.parquet"
        )
    }
    folder = _local_shelf()
    with reading(str(folder)):
        shelved = list(folder.iterdir()) if folder is not None else []
    for path in shelved:
        version = version_in(path.name) or path.name
        if re.fullmatch(rf"{idc_version}\.\d+\.\d+", version):
            found.add(version)
    whole = [v for v in found if package_at_hand(v, look=True) is not None]
    return max(whole, key=lambda v: [int(n) for n in v.split(".")], default=None)


def package_at_hand(version: str, *, look: bool = False) -> Path | None:
    """Give the folder of a package that is on the shelf or was fetched, else None.

    ``look`` only looks: a wheel is not unpacked, and stands for its folder.
    """
    folder = _local_shelf()
    if folder is not None:
        for layout in _LAYOUTS[:2]:
            place = folder / layout.format(version=version)
            if (place / "idc_index.parquet").is_file():
                return place
        for wheel in sorted(folder.glob(f"idc_index_data-{version}-*.whl")):
            return wheel if look else unpacked(str(wheel))
    fetched = package_folder(version)
    return fetched if (fetched / "idc_index.parquet").is_file() else None


def _local_shelf() -> Path | None:
    named = shelf()
    if named is None or "://" in named or "::" in named:
        return None
    folder = local_path(named)
    return folder if folder.is_dir() else None


# Wheels.


def unpacked(wheel: str) -> Path:
    """Unpack the tables of a wheel, and give their folder.

    Raises
    ------
    IntegrityError
        The wheel is not the one that was published under its name.
    StorageError
        It cannot be read.
    """
    if "://" not in wheel:
        return _unpack(local_path(wheel))
    place = cache.folder()
    name = wheel.rsplit("/", 1)[1]
    known = published_wheels().get(name)
    # Only a file whose digest is known beforehand may be taken from the cache.
    held = None if known is None else cache.find(f"wheels/{name}")
    with reading(wheel):
        if held is not None and cache.sha256(held) == known:
            return _unpack(held)
        import fsspec

        filesystem, path = fsspec.url_to_fs(wheel)
        if place is not None and known is not None:
            with cache.adding(f"wheels/{name}") as part:
                filesystem.get_file(path, str(part))
                _check_wheel(part, name)
            return _unpack(place / "wheels" / name)
        target = Path(tempfile.mkdtemp(dir=_temporary_folder(os.getpid()))) / name
        filesystem.get_file(path, str(target))
    return _unpack(target)


def _check_wheel(path: Path, name: str) -> str:
    found = cache.sha256(path)
    known = published_wheels().get(name)
    if known is not None and found != known:
        msg = (
            f"{name}: SHA-256 is {found}, but that of the published package is "
            f"{known}; do not use it"
        )
        raise IntegrityError(msg, path=str(path), expected=known, found=found)
    return found


def _unpack(wheel: Path) -> Path:
    with reading(str(wheel)):
        digest = _check_wheel(wheel, wheel.name)
        root = cache.folder() or _temporary_folder(os.getpid())
        folder = root / "unpacked" / f"{wheel.stem}-{digest[:16]}"
        done = folder / "whole"
        if done.exists():
            # A bounded cache may have lost one of them.
            lost = [n for n in done.read_text().split() if not (folder / n).exists()]
            if not lost:
                for name in done.read_text().split():
                    with suppress(OSError):
                        os.utime(folder / name)
                return folder
        folder.mkdir(parents=True, exist_ok=True)
        names = []
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                found = re.fullmatch(
                    r"idc_index_data/(\w+\.(?:parquet|csv\.zip))", member.filename
                )
                if found is None:
                    continue
                if member.file_size > LARGEST:
                    msg = (
                        f"{found[1]} in {wheel} unpacks to {member.file_size} bytes, "
                        f"which no table has (at most {LARGEST} are taken)"
                    )
                    raise IntegrityError(msg, path=str(wheel))
                names.append(found[1])
                with (
                    beside(folder / found[1]) as part,
                    part.open("wb") as file,
                    archive.open(member) as source,
                ):
                    shutil.copyfileobj(source, file, 1 << 20)
        if "idc_index.csv.zip" in names:
            with beside(folder / "idc_index.parquet") as part:
                generations.csv_to_parquet(folder / "idc_index.csv.zip", part)
            names.append("idc_index.parquet")
        with beside(done) as part:
            part.write_text("\n".join(names))
    return folder


def converted(folder: Path) -> Path | None:
    """Give a folder with the index as Parquet, where a package has it as CSV."""
    archive = folder / "idc_index.csv.zip"
    if not archive.is_file():
        return None
    root = cache.folder() or _temporary_folder(os.getpid())
    target = root / "unpacked" / f"csv-{cache.sha256(archive)[:16]}"
    target.mkdir(parents=True, exist_ok=True)
    if not (target / "idc_index.parquet").exists():
        with beside(target / "idc_index.parquet") as part:
            generations.csv_to_parquet(archive, part)
    return target


# Single tables.


def fetch_table(version: str, table: str) -> Path:
    """Fetch one table of a package, from the shelf or from its published places.

    Parameters
    ----------
    version : str
        Version of idc-index-data.
    table : str
        Name of the table.

    Raises
    ------
    TableNotFound
        No place has it, or none can be reached.
    IntegrityError
        What came is not the table that was published.
    """
    folder = package_folder(version)
    target = folder / f"{table}.parquet"
    if target.is_file():
        return target
    named = shelf()
    reasons = []
    own = [] if named is None else [f"{named.rstrip('/')}/{x}" for x in _LAYOUTS]
    for number, place in enumerate([*own, *PUBLISHED]):
        url = f"{place.format(version=version).rstrip('/')}/{table}.parquet"
        try:
            with reading(url), beside(target) as part:
                import fsspec

                filesystem, path = fsspec.url_to_fs(url)
                _get(filesystem, path, part, sidecar=number >= len(own))
        except StorageError as error:
            reasons.append(str(error))
        else:
            cache.find(f"tables/{version}/{table}.parquet")
            return target
    tried = "".join(f"\n  {reason}" for reason in reasons)
    msg = (
        f"table {table!r} of idc-index-data {version} is not on this machine and could "
        f"not be fetched. Put the file at {target}, or name a folder or URL that "
        f"holds {version}/{table}.parquet with {ARTIFACTS_VARIABLE}. Tried:{tried}"
    )
    raise TableNotFound(msg, table=table, path=str(target))


@functools.cache
def fetch_folder(url: str, digests: tuple[tuple[str, str], ...]) -> Path:
    """Copy the tables behind a URL here, once in a process, each checked.

    Raises
    ------
    IntegrityError
        A table is not what its digest says.
    StorageError
        The URL cannot be read.
    """
    import fsspec

    known = dict(digests)
    folder = Path(tempfile.mkdtemp(dir=_temporary_folder(os.getpid())))
    with reading(url):
        filesystem, base = fsspec.url_to_fs(url)
        for table in REMOTE_TABLES:
            path = f"{base.rstrip('/')}/{table}.parquet"
            with suppress(FileNotFoundError), beside(folder / f"{table}.parquet") as p:
                _get(filesystem, path, p, expected=known.get(f"{table}.parquet"))
    return folder


def _get(
    filesystem: AbstractFileSystem,
    path: str,
    part: Path,
    *,
    expected: str | None = None,
    sidecar: bool = False,
) -> None:
    """Copy one file, and check it; ``sidecar`` says that one must be beside it."""
    filesystem.get_file(path, str(part))
    _check_footer(part, path)
    if expected is None:
        try:
            # sha256sum writes "<hex>  <file name>".
            text = filesystem.cat_file(f"{path}.sha256").split()
        except FileNotFoundError:
            if sidecar:
                raise
            return
        expected = text[0].decode("ascii", "backslashreplace") if text else "nothing"
    found = cache.sha256(part)
    if found != expected.lower():
        msg = f"{path}: SHA-256 is {found}, expected {expected[:80]}; do not use it"
        raise IntegrityError(msg, path=path, expected=expected, found=found)


def _check_footer(path: Path, url: str) -> None:
    """Refuse an HTML page or half a file that came instead of a table."""
    from pyarrow import ArrowException, parquet

    with path.open("rb") as file:
        start = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        end = file.read(4)
    reason = f"it begins {start!r} and ends {end!r}"
    if start == end == b"PAR1":
        try:
            parquet.read_metadata(path)
        except (ArrowException, OSError) as error:
            reason = str(error)
        else:
            return
    msg = f"{url} is not a whole Parquet file: {reason}"
    raise IntegrityError(msg, url=url)


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Turn whatever a file system raises into an error of ours.

    Each has exceptions of its own: botocore, aiohttp, tarfile, zlib.

    Raises
    ------
    StorageError
        The URL cannot be read.
    """
    try:
        yield
    except IDCError:
        raise
    except Exception as error:
        msg = f"the tables at {url} cannot be read: {type(error).__name__}: {error}"
        raise StorageError(msg, url=url) from error


def local_path(named: str) -> Path:
    """Give the path that a user named, absolute, with ``~`` filled in.

    Raises
    ------
    StorageError
        There is no such user, or no path can be so named.
    """
    with reading(named):
        path = Path(named).expanduser().absolute()
        path.exists()  # Refuses NUL, and what may not be looked into.
        os.fsencode(path)
        return path


def _temporary_folder(pid: int) -> Path:
    return _temporary(pid)


@functools.cache
def _temporary(pid: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="intake-idc-tables-"))
    atexit.register(_remove, pid, folder)
    return folder


def _remove(pid: int, folder: Path) -> None:
    """Remove the folder of this process: a child that was forked leaves it alone."""
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)
