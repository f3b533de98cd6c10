"""Writing a cohort down: as a manifest, a table, a catalog. Whole, or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from intake_idc.errors import (
    IDCError,
    IntegrityError,
    MissingError,
    RequestError,
    StorageError,
)
from intake_idc.files import beside

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from intake_idc.manifest import Manifest

__all__ = [
    "local_path",
    "read_table",
    "refuse_templates",
    "write_bytes",
    "write_catalog",
    "write_manifest",
    "write_table",
]


def write_manifest(
    path: Path, manifest: Manifest, mirror: Literal["aws", "gcs"], date: str | None
) -> None:
    """Write an s5cmd manifest.

    Raises
    ------
    RequestError
        The name asks for compression, which s5cmd does not read.
    """
    if path.suffix in (".gz", ".bz2", ".xz", ".zip"):
        msg = f"an s5cmd manifest is plain text; got {path.name!r}"
        raise RequestError(msg, path=str(path))
    from intake_idc.formats import s5cmd

    lines = s5cmd.write(manifest, path.name, mirror=mirror, date=date)
    _write_text(path, "".join(lines))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as CSV or Parquet, by the name's ending.

    Raises
    ------
    RequestError
        The name ends in neither.
    """
    from pyarrow import csv, parquet

    writers = {".csv": csv.write_csv, ".parquet": parquet.write_table}
    suffix = path.suffix.lower()
    if suffix not in writers:
        msg = f"a table ends in .csv or .parquet; got {path.name!r}"
        raise RequestError(msg)
    with _beside(path) as part:
        writers[suffix](table, part)


def read_table(source: str | os.PathLike[str] | pa.Table) -> pa.Table:
    """Give an Arrow table: one that is given, or that of a Parquet or CSV file.

    Raises
    ------
    MissingError
        There is no such file.
    RequestError
        It is neither of them.
    """
    if not isinstance(source, str | os.PathLike):
        import pyarrow as pa

        if isinstance(source, pa.Table):
            return source
        msg = f"expected a path or an Arrow table; got {type(source).__name__}"
        raise RequestError(msg)
    from pyarrow import ArrowException, csv, parquet

    path = local_path(source)
    readers = {".csv": csv.read_csv, ".parquet": parquet.read_table}
    suffix = path.suffix.lower()
    if suffix not in readers:
        msg = f"a table ends in .csv or .parquet; got {path.name!r}"
        raise RequestError(msg, path=str(path))
    if not path.is_file():
        msg = f"there is no file {path}"
        raise MissingError(msg, path=str(path))
    try:
        return readers[suffix](path)
    except (ArrowException, OSError) as error:
        msg = f"{path} cannot be read as a table: {error}"
        raise IntegrityError(msg, path=str(path)) from error


def write_catalog(
    path: Path, name: str, driver: str, arguments: Mapping[str, Any], description: str
) -> None:
    """Write an Intake catalog of one entry.

    Raises
    ------
    RequestError
        A value holds template signs, which Intake would evaluate.
    """
    import yaml

    entry = {"driver": driver, "description": description, "args": dict(arguments)}
    catalog = {
        "metadata": {"version": 1, "idc_version": arguments["idc_version"]},
        "plugins": {"source": [{"module": "intake_idc"}]},
        "sources": {name: entry},
    }
    _write_text(path, yaml.safe_dump(catalog, sort_keys=False))


def refuse_templates(value: Any) -> None:
    """Refuse what Intake's template engine would run, or would not give back.

    Raises
    ------
    RequestError
        A text holds template signs, a carriage return, or ends in a line feed.
    """
    if isinstance(value, str):
        signs = [sign for sign in ("{{", "{%", "{#", "\r") if sign in value]
        if signs or value.endswith("\n"):
            msg = (
                f"{value!r} would not come back from a catalog as it is: Intake runs "
                "it through a template engine; write such a cohort as a manifest"
            )
            raise RequestError(msg, value=value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            refuse_templates(key)
            refuse_templates(item)
    elif isinstance(value, list | tuple):
        for item in value:
            refuse_templates(item)


def local_path(path: str | os.PathLike[str]) -> Path:
    """Give a path of this machine, whole; a URL would become an odd folder.

    Raises
    ------
    RequestError
        It is a URL.
    """
    if "://" in os.fspath(path):
        msg = f"a copy or a file is written to a folder of this machine; got {path!r}"
        raise RequestError(msg, path=str(path))
    return Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Give a file to write, which takes its place when it is whole."""
    try:
        with beside(path) as part:
            yield part
    except IDCError:
        raise
    except OSError as error:
        msg = (
            f"{path} cannot be written: {error.strerror or error}; "
            "what was there before is as it was"
        )
        raise StorageError(msg, path=str(path)) from error


def _write_text(path: Path, text: str) -> None:
    with _beside(path) as part:
        part.write_bytes(text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file that is whole even after the machine has lost its power.

    Raises
    ------
    StorageError
        The folder cannot be written to, or the disk is full.
    """
    with _beside(path) as part, part.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
