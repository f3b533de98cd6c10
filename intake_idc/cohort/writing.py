"""Writing a cohort down: as a manifest, a table, a catalog. Whole, or not at all."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intake_idc.arrow import integers, texts, unpack_uuids
from intake_idc.errors import (
    IDCError,
    IntegrityError,
    MissingError,
    RequestError,
    StorageError,
)
from intake_idc.files import beside
from intake_idc.manifest import ONLY
from intake_idc.release import FixedRows, Release
from intake_idc.release.history import histories, widest
from intake_idc.release.listed import ListedRows

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from intake_idc.export import ObjectTable
    from intake_idc.formats.writing import Form, Rows
    from intake_idc.manifest import Manifest
    from intake_idc.storage import Mirror

__all__ = [
    "dated",
    "listed_objects",
    "local_path",
    "older",
    "read_table",
    "refuse_templates",
    "write_bytes",
    "write_catalog",
    "write_manifest",
    "write_table",
]


LISTED_AT_ONCE = 512
"""Series that are listed before their objects are packed."""
RUNNABLE = 0o777
"""Mode of a script, from which the user's mask is taken."""


def write_manifest(path: Path, rows: Rows, form: Form) -> None:
    """Write a manifest in any dialect but a catalog; a script can be run.

    Raises
    ------
    RequestError
        The rows hold what the dialect cannot write.
    """
    from intake_idc.formats import writing

    mode = RUNNABLE if form.kind in ("aws", "gcloud") else 0o666

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, mode)

    with _beside(path) as part, open(part, "xb", opener=opener) as file:
        writing.write(rows, form, file, path.name)


def listed_objects(
    manifest: Manifest, mirror: Mirror, known: ObjectTable | None, *, sized: bool
) -> pa.Table:
    """Give the instances of a manifest, as `formats.writing.Rows` has them.

    Parameters
    ----------
    manifest : Manifest
        The series, with their objects where they are known.
    mirror : Mirror
        Where the objects are listed that are not known.
    known : ObjectTable, optional
        The objects that are known.
    sized : bool
        Whether sizes are wanted. Without them, instances that the manifest itself names
        need no listing.

    Raises
    ------
    IntegrityError, StorageError
        The mirror's listing and the index differ, or it cannot be listed.
    """
    import pyarrow as pa

    if not sized and _all_named(manifest):
        return _named(manifest)
    from intake_idc import storage

    pieces = []
    parts = enumerate(manifest.parts())
    while some := list(itertools.islice(parts, LISTED_AT_ONCE)):
        row = {part.crdc_series_uuid: at for at, part in some}
        found = storage.instances([part for _, part in some], mirror)
        pieces.append(
            pa.table(
                {
                    "row": integers([row[i.part.crdc_series_uuid] for i in found]),
                    "crdc_instance_uuid": texts([i.crdc_instance_uuid for i in found]),
                    "instance_size": integers([i.size for i in found]),
                    "instance_hash": texts([i.md5 for i in found]),
                }
            )
        )
    table = pa.concat_tables(pieces)
    if table.column("instance_hash").null_count == len(table):
        table = table.drop_columns(["instance_hash"])
    return table if known is None else _with_uids(table, manifest, known)


def dated(rows: Release | FixedRows) -> str | None:
    """Give the day of the release of some rows, where tables are at hand."""
    release = rows.release if isinstance(rows, ListedRows) else rows
    return release.date if isinstance(release, Release) else None


def older(rows: Release | FixedRows) -> dict[str, int]:
    """Give the series of a list whose bytes are of an older release, and of which."""
    if not isinstance(rows, ListedRows) or rows.others is None:
        return {}
    number = rows.idc_version
    uuids = rows.others.column("crdc_series_uuid").to_pylist()
    found = {}
    for uuid, history in histories(
        widest(rows.release), "crdc_series_uuid", uuids
    ).items():
        held = [
            min(life.last_idc_version, number)
            for life in history.lives
            if life.crdc_series_uuid == uuid and life.first_idc_version <= number
        ]
        if held:
            found[uuid] = max(held)
    return found


def _all_named(manifest: Manifest) -> bool:
    """Say whether a manifest names the instances of every series."""
    columns = set(manifest.columns)
    if ONLY not in columns or {"first_instance", "last_instance"} & columns:
        return False
    return not manifest.table.column(ONLY).null_count


def _named(manifest: Manifest) -> pa.Table:
    """Give the instances that a manifest names of each series."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = pa.concat_arrays(manifest.table.column(ONLY).chunks)
    uuids = unpack_uuids(lists.flatten())
    return pa.table({"row": pc.list_parent_indices(lists), "crdc_instance_uuid": uuids})


def _with_uids(table: pa.Table, manifest: Manifest, known: ObjectTable) -> pa.Table:
    """Give instances with their SOPInstanceUID, where known objects have it."""
    import pyarrow.compute as pc

    series = manifest.table.column("crdc_series_uuid").take(table.column("row"))
    names = table.column("crdc_instance_uuid")
    slash = texts(["/"])[0]
    uids = known.uids(pc.binary_join_element_wise(series, names, slash))
    return table if uids is None else table.append_column("SOPInstanceUID", uids)


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table as CSV or Parquet, by the name's ending.

    In CSV a list is one text, with a blank between its items.

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
    if suffix == ".csv":
        table = _without_lists(table)
    with _beside(path) as part:
        writers[suffix](table, part)


def _without_lists(table: pa.Table) -> pa.Table:
    """Give a table whose lists of texts are texts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for at, field in enumerate(table.schema):
        if pa.types.is_list(field.type) or pa.types.is_large_list(field.type):
            joined = pc.binary_join(table.column(at), " ")
            table = table.set_column(at, field.name, joined)
    return table


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
